// What a kernel of the GPU is told; hpcnk/engine/device_tables.py mirrors every field.
#pragma once

#include "program.cuh"

namespace hpcnk {

constexpr int MAX_LAYERS = 8;   // of one stage in `stream`
constexpr int MAX_COLUMNS = 4;  // pixels of one lane in `stream`
constexpr int MAX_WINDOW = 4;   // of a pool after `stream`, along x
constexpr int CHAIN_SLOTS = 8;  // values of one thread in `chain`
constexpr int THREADS = 128;    // of a block, where it is not one warp
constexpr int WARP = 32;

// A rectangle of pairs (left row, right row), numbered row by row, or with `upper` the pairs of
// different rows of one list. `first` and `count` are those at hand: what they keep is numbered
// from 0. Factors lie as [row][layer][pixel][factor], inputs as [row][channel][pixel], tensors as
// [pair][S, T][entry], sums as [pair][S, T][slot].
template <class T> struct Work {
    const T *left_x, *left_factors, *right_x, *right_factors;
    T *tensors, *sums, *scratch, *out;
    const Stage* stage;
    const Operation* operations;  // of the stage
    const Tensor* tables;         // of all tensors
    long long first, count, tensor_entries, scratch_entries, out_stride;
    int rows, columns, upper, tangent;
    int pixels, channels, factors, slots;
    int direct, result;           // `chain`: from products to the kernel; `deliver`: what is asked for
    int left, right;              // `add`: entries of two tensors into a third
    int target, left_tangent, right_tangent, reserved;
    double left_weight, right_weight;
    T weight[MAX_LAYERS], bias[MAX_LAYERS];  // of `stream`
    int factor[MAX_LAYERS];
};

// A stage of conv3_relu layers. On the GPU the whole of it is known to the compiler.
struct Shape {
    int height, width, channels, layers;
    int columns;             // pixels of one lane
    int images, tangent, source_tangent;
    int planes_y, planes_x, reach_y, reach_x;  // cyclic offsets
    int source_planes_y, source_planes_x;
    int end, window_y, window_x;
    int target_height, target_width;
    int target_planes_y, target_planes_x, target_reach_y, target_reach_x;
    int chunk;               // planes that a group of lanes goes through
};

struct Rows {
    int left, right;
};

// Rows of pair k. Of n rows, pair (i, i + 1 + c mod n) for c < (n - 1) / 2 is each pair once; where
// n is even, (i, i + n / 2) for i < n / 2 are left.
HPCNK_INLINE Rows rows_of(long long k, int columns, int upper) {
    if (!upper) return {int(k / columns), int(k % columns)};
    const int half = (columns - 1) / 2;
    int i, j;
    if (k < (long long)columns * half) {
        i = int(k / half);
        j = i + 1 + int(k % half);
        if (j >= columns) j -= columns;
    } else {
        i = int(k - (long long)columns * half);
        j = i + columns / 2;
    }
    return i < j ? Rows{i, j} : Rows{j, i};
}

HPCNK_INLINE int wrapped(int offset, int size) { return offset < 0 ? offset + size : offset; }

template <class T> HPCNK_INLINE T* tensor_of(const Work<T>& w, long long pair, int tangent) {
    return w.tensors + (pair * (1 + w.tangent) + tangent) * w.tensor_entries;
}

}  // namespace hpcnk
