// One row of one operation, for a vector of pairs at every position.
//
// A row lies in memory as [x][S lanes, T lanes], so entry x starts at x * stride<...>. What leaves
// the row is written once; sums over the filter slide along x in registers.
#pragma once

#include "lanes.hpp"
#include "formulas.cuh"

namespace hpcnk {

// How the left row's numbers reach the lanes: one row for all lanes, one number for the whole row of
// entries (fully connected layers), or a row of its own for every lane (rows with themselves).
struct OneRow {
    static constexpr bool OWN = false;
    template <class T> static HPCNK_INLINE auto at(const T* p, long x) {
        return splat<typename Lanes<T>::Vector>(p[x]);
    }
};
struct OneNumber {
    static constexpr bool OWN = false;
    template <class T> static HPCNK_INLINE auto at(const T* p, long) {
        return splat<typename Lanes<T>::Vector>(p[0]);
    }
};
struct OwnRow {
    static constexpr bool OWN = true;
    template <class T> static HPCNK_INLINE auto at(const T* p, long x) {
        return load(p + x * Lanes<T>::count);
    }
};

struct Span {
    int begin, end;
};

// Factors of one pointwise layer along a row of entries.
template <class T> struct Factors {
    const T* left[MAX_FACTORS];
    const T* right[MAX_FACTORS];
};

// Inputs of a row of outputs: the filter's rows (those outside of the plane left out).
template <class T> struct Inputs {
    const T** rows;
    int count;
    Span x;         // positions that exist
    const T* plus;  // row of the second term, or null
};

// conv 3 along x with stride 1, `same`, then relu: where pooled networks spend their time.
// ROWS: how many rows of the filter lie in the plane; two at its edges, one for a sequence.
template <class T, bool TANGENT, bool INPUT_TANGENT, int ROWS, class Left>
void conv3_relu(const Operation& op, const Inputs<T>& in, const Factors<T>& factors, T* out) {
    constexpr int N = Lanes<T>::count, STRIDE = (TANGENT ? 2 : 1) * N;
    using V = typename Lanes<T>::Vector;
    const V zero = splat<V>(T(0)), weight = splat<V>(T(op.weight)), bias = splat<V>(T(op.bias));
    const T *a = in.rows[0], *b = in.rows[ROWS > 1 ? 1 : 0], *c = in.rows[ROWS > 2 ? 2 : 0];
    const T *left0 = factors.left[0], *left1 = factors.left[1];
    const T *right0 = factors.right[0], *right1 = factors.right[1];
    const long begin = in.x.begin, end = in.x.end;
    auto column = [&](long p) HPCNK_LAMBDA {
        V sum = load(a + p);
        if (ROWS > 1) sum += load(b + p);
        if (ROWS > 2) sum += load(c + p);
        return sum;
    };
    V s0 = zero, s1 = column(begin * STRIDE), s2 = zero, t0 = zero, t1 = zero, t2 = zero;
    if (INPUT_TANGENT) t1 = column(begin * STRIDE + N);
    for (long x = begin; x < end; ++x) {
        const bool more = x + 1 < end;
        s2 = more ? column((x + 1) * STRIDE) : zero;
        if (INPUT_TANGENT) t2 = more ? column((x + 1) * STRIDE + N) : zero;
        V s = (s0 + s1 + s2) * weight + bias;
        V t = INPUT_TANGENT ? (t0 + t1 + t2) * weight + s : s;
        const V left[2] = {Left::at(left0, x), Left::at(left1, x)};
        const V right[2] = {load(right0 + x * N), load(right1 + x * N)};
        relu<TANGENT, T>(s, t, left, right);
        store(out + x * STRIDE, s);
        if (TANGENT) store(out + x * STRIDE + N, t);
        s0 = s1, s1 = s2, t0 = t1, t1 = t2;
    }
}

// Any filter, stride and pointwise layer. `sums` has room for a row.
template <class T, bool TANGENT, int POINT, class Left>
void any_row(const Operation& op, const Inputs<T>& in, Span outputs, const Factors<T>& factors,
             T* sums, T* out) {
    constexpr int N = Lanes<T>::count, STRIDE = (TANGENT ? 2 : 1) * N;
    constexpr int COUNT = factor_count(POINT);
    using V = typename Lanes<T>::Vector;
    const V zero = splat<V>(T(0)), weight = splat<V>(T(op.weight)), bias = splat<V>(T(op.bias));
    const V plus_weight = splat<V>(T(op.plus_weight));
    const T* row = in.count ? in.rows[0] : nullptr;
    if (in.count > 1) {
        for (int p = in.x.begin * STRIDE; p < in.x.end * STRIDE; p += N) {
            V sum = load(in.rows[0] + p);
            for (int k = 1; k < in.count; ++k) sum += load(in.rows[k] + p);
            store(sums + p, sum);
        }
        row = sums;
    }
    const bool tangent = TANGENT && op.input_tangent, plus_tangent = TANGENT && op.plus_tangent;
    for (int x = outputs.begin; x < outputs.end; ++x) {
        const int first = x * op.x.stride - op.x.pad;
        const int begin = first > in.x.begin ? first : in.x.begin;
        const int end = first + op.x.filter < in.x.end ? first + op.x.filter : in.x.end;
        V s = zero, t = zero;
        if (row) {
            for (int k = begin; k < end; ++k) s += load(row + k * STRIDE);
            if (tangent) for (int k = begin; k < end; ++k) t += load(row + k * STRIDE + N);
        }
        s = s * weight + bias;
        t = op.affine ? t * weight + s : t * weight;
        if (in.plus) {
            s += plus_weight * load(in.plus + x * STRIDE);
            if (plus_tangent) t += plus_weight * load(in.plus + x * STRIDE + N);
        }
        if constexpr (COUNT > 0) {
            V left[COUNT], right[COUNT];
            for (int k = 0; k < COUNT; ++k) {
                left[k] = Left::at(factors.left[k], x);
                right[k] = load(factors.right[k] + x * N);
            }
            apply<POINT, TANGENT, T>(s, t, left, right);
        }
        store(out + x * STRIDE, s);
        if (TANGENT) store(out + x * STRIDE + N, t);
    }
}

}  // namespace hpcnk
