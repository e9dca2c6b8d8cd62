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
// from 0. A row's numbers are its inputs, [channel / 2][pixel][channel % 2], then its factors,
// [layer][pixel][factor], each layer's from an even place on: two numbers are one load, and with
// known shapes all of a stage's lie at fixed distances. Tensors lie as [pair][S, T][entry], sums as
// [pair][S, T][slot].
template <class T> struct Work {
    const T *left, *right;        // rows
    const T* products;            // `chain`: of the rows, or null: the source is a tensor
    T *tensors, *sums, *scratch, *out;
    const Stage* stage;
    const Operation* operations;  // of the stage
    const Tensor* tables;         // of all tensors
    long long first, count, length, tensor_entries, scratch_entries, out_stride, products_stride;
    long long source_place, target_place;  // of `stream`, in a pair's tensors
    int rows, columns, upper, tangent;
    int pixels, channels, slots;
    int result;                   // `deliver`: what is asked for
    int left_tensor, right_tensor;  // `add`: entries of two tensors into a third
    int target, left_tangent, right_tangent;
    double left_weight, right_weight;
    T weight[MAX_LAYERS], bias[MAX_LAYERS];  // of `stream`
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
    int first_factor;        // of the first layer, in a row's numbers
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

// Where a channel of a pixel lies in a row.
HPCNK_INLINE long long input_at(int channel, long long pixel, int pixels) {
    return ((long long)(channel / 2) * pixels + pixel) * 2 + channel % 2;
}

template <class T> HPCNK_INLINE T* tensor_of(const Work<T>& w, long long pair, int tangent) {
    return w.tensors + (pair * (1 + w.tangent) + tangent) * w.tensor_entries;
}

}  // namespace hpcnk
