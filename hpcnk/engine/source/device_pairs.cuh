// Small kernels of the GPU: one thread for each pair, or for each entry of a tensor.
#pragma once

#include "device_stage.cuh"

namespace hpcnk {

// The sum of a mean's planes, in one order.
template <class T> HPCNK_INLINE void finish(const Work<T>& w, long long pair) {
    const Stage& s = *w.stage;
    const T* sums = w.sums + pair * (1 + w.tangent) * w.slots;
    for (int tangent = 0; tangent <= w.tangent; ++tangent, sums += w.slots) {
        T sum = T(0);
        for (int begin = 0; begin < w.slots; begin += 32) {  // short sums keep float32 exact
            T part = T(0);
            for (int k = begin; k < w.slots && k < begin + 32; ++k) part += sums[k];
            sum += part;
        }
        tensor_of(w, pair, tangent)[w.tables[s.target].place] = sum * T(s.scale);
    }
}

// A stage of one pixel: all layers on one entry. A network without pixels takes its scalar products
// from `products` and leaves the kernel in `out`.
template <class T> HPCNK_INLINE void chain(const Work<T>& w, long long pair) {
    const Stage& s = *w.stage;
    const Rows rows = rows_of(w.first + pair, w.columns, w.upper);
    Entry<T> held[CHAIN_SLOTS], e{T(0), T(0)};
    if (w.products) {
        e.s = w.products[rows.left * w.products_stride + rows.right];
    } else {
        const long long place = w.tables[s.source].place;
        e.s = tensor_of(w, pair, 0)[place];
        if (w.tangent && s.source_tangent) e.t = tensor_of(w, pair, 1)[place];
    }
    held[s.place] = e;
    for (int k = 0; k < s.operations; ++k) {
        const Operation& op = w.operations[k];
        Entry<T> sum = held[place_of(s, w.operations, op.input)], plus{T(0), T(0)};
        if (op.plus != NOTHING) plus = held[place_of(s, w.operations, op.plus)];
        e = finished(w, op, sum, plus, rows, 0, 0);
        held[op.place] = e;
    }
    const T scale = T(s.scale);
    if (w.products) {
        w.out[rows.left * w.out_stride + rows.right] = scale * (w.tangent ? e.t : e.s);
    } else {
        const long long place = w.tables[s.target].place;
        tensor_of(w, pair, 0)[place] = scale * e.s;
        if (w.tangent) tensor_of(w, pair, 1)[place] = scale * e.t;
    }
}

template <class T> HPCNK_INLINE void deliver(const Work<T>& w, long long pair) {
    const Rows rows = rows_of(w.first + pair, w.columns, w.upper);
    const T* found = tensor_of(w, pair, w.tangent);
    w.out[rows.left * w.out_stride + rows.right] = found[w.tables[w.result].place];
}

// A residual sum around a pool: entry k of all pairs' tensors, which hold the same planes all three.
template <class T> HPCNK_INLINE void add(const Work<T>& w, long long k) {
    const Tensor &a = w.tables[w.left_tensor], &b = w.tables[w.right_tensor];
    const Tensor& c = w.tables[w.target];
    const long long entries = (long long)c.planes_y * c.planes_x * c.height * c.width;
    const long long pair = k / entries, entry = k % entries;
    const T wa = T(w.left_weight), wb = T(w.right_weight);
    T* s = tensor_of(w, pair, 0);
    s[c.place + entry] = wa * s[a.place + entry] + wb * s[b.place + entry];
    if (!w.tangent) return;
    T* t = tensor_of(w, pair, 1);
    const T left = w.left_tangent ? wa * t[a.place + entry] : T(0);
    const T right = w.right_tangent ? wb * t[b.place + entry] : T(0);
    t[c.place + entry] = left + right;
}

}  // namespace hpcnk
