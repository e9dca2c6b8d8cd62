// Any stage on the GPU: a block of threads takes one plane through one operation after the other.
//
// A plane's buffers lie in shared memory where they fit, else in memory of the block's own. Threads
// stride over a buffer's positions and meet after each operation.
#pragma once

#include "formulas.cuh"
#include "device_work.cuh"

namespace hpcnk {

struct Area {
    int y, x, height, width;

    HPCNK_INLINE int count() const { return height * width; }
};

// Where pixel (y, x) and pixel (y + dy, x + dx) both exist.
HPCNK_INLINE Area overlap(int height, int width, int dy, int dx) {
    return {dy < 0 ? -dy : 0, dx < 0 ? -dx : 0, height - (dy < 0 ? -dy : dy),
            width - (dx < 0 ? -dx : dx)};
}

template <class T> struct PlaneWork {
    const Work<T>& w;
    T *buffers, *sums;  // of the block
    long long pair;
    Rows rows;
    int dy, dx, slot;

    HPCNK_INLINE T* values(long long place, int tangent) const {
        return buffers + place + tangent * w.scratch_entries;
    }
};

template <class T>
HPCNK_INLINE T product(const PlaneWork<T>& p, long long left, long long right) {
    const Work<T>& w = p.w;
    const T *a = w.left + p.rows.left * w.length, *b = w.right + p.rows.right * w.length;
    T sum = T(0);
    for (int c = 0; c < w.channels; ++c)
        sum += a[input_at(c, left, w.pixels)] * b[input_at(c, right, w.pixels)];
    return sum;
}

// Buffer 0: scalar products of the pixels, or a plane of a tensor.
template <class T> HPCNK_INLINE void read_source(const PlaneWork<T>& p, int t) {
    const Work<T>& w = p.w;
    const Stage& s = *w.stage;
    const int dy = p.dy * s.stride_y, dx = p.dx * s.stride_x;
    const Area area = overlap(s.height, s.width, dy, dx);
    T *to_s = p.values(s.place, 0), *to_t = p.values(s.place, 1);
    long long plane = 0;
    if (s.source != IMAGES) {
        const Tensor& from = w.tables[s.source];
        const long long number = (long long)wrapped(dy, from.planes_y) * from.planes_x
            + wrapped(dx, from.planes_x);
        plane = from.place + number * s.height * s.width;
    }
    for (int k = t; k < area.count(); k += THREADS) {
        const int y = area.y + k / area.width, x = area.x + k % area.width;
        const int at = y * s.width + x;
        if (s.source == IMAGES) {
            to_s[at] = product(p, at, (long long)(y + dy) * s.width + x + dx);
        } else {
            to_s[at] = tensor_of(w, p.pair, 0)[plane + at];
            if (w.tangent) to_t[at] = s.source_tangent ? tensor_of(w, p.pair, 1)[plane + at] : T(0);
        }
    }
}

template <class T> struct Entry {
    T s, t;
};

// The filter's sum at (y, x).
template <class T>
HPCNK_INLINE Entry<T> box(const PlaneWork<T>& p, const Operation& op, long long place, int y, int x,
                          const Area& in) {
    const bool tangent = p.w.tangent && op.input_tangent;
    const T *from_s = p.values(place, 0), *from_t = p.values(place, 1);
    Entry<T> sum{T(0), T(0)};
    for (int j = 0; j < op.y.filter; ++j) {
        const int row = y * op.y.stride - op.y.pad + j;
        if (row < in.y || row >= in.y + in.height) continue;
        for (int k = 0; k < op.x.filter; ++k) {
            const int column = x * op.x.stride - op.x.pad + k;
            if (column < in.x || column >= in.x + in.width) continue;
            const int at = row * op.x.inputs + column;
            sum.s += from_s[at];
            if (tangent) sum.t += from_t[at];
        }
    }
    return sum;
}

template <int POINT, class T>
HPCNK_INLINE void point_as(Entry<T>& e, int tangent, const T* left, const T* right) {
    if (tangent) apply<POINT, true, T>(e.s, e.t, left, right);
    else apply<POINT, false, T>(e.s, e.t, left, right);
}

template <class T>
HPCNK_INLINE void pointwise(Entry<T>& e, int point, int tangent, const T* left, const T* right) {
    switch (point) {
        case POINT_RELU: return point_as<POINT_RELU>(e, tangent, left, right);
        case POINT_ERF: return point_as<POINT_ERF>(e, tangent, left, right);
        case POINT_GELU: return point_as<POINT_GELU>(e, tangent, left, right);
        case POINT_LAYER_NORM: return point_as<POINT_LAYER_NORM>(e, tangent, left, right);
        default: return;
    }
}

// After the filter's sum: weight, bias, second term, pointwise layer.
template <class T>
HPCNK_INLINE Entry<T> finished(const Work<T>& w, const Operation& op, Entry<T> sum, Entry<T> plus,
                               Rows rows, long long left, long long right) {
    const T weight = T(op.weight), plus_weight = T(op.plus_weight);
    Entry<T> e;
    e.s = sum.s * weight + T(op.bias);
    e.t = op.affine ? sum.t * weight + e.s : sum.t * weight;
    if (op.plus != NOTHING) {
        e.s += plus_weight * plus.s;
        e.t += plus_weight * plus.t;
    }
    const int count = factor_count(op.point);
    const T* a = w.left + rows.left * w.length + op.factor + left * count;
    const T* b = w.right + rows.right * w.length + op.factor + right * count;
    pointwise(e, op.point, w.tangent, a, b);
    return e;
}

HPCNK_INLINE long long place_of(const Stage& s, const Operation* operations, int buffer) {
    return buffer == 0 ? s.place : operations[buffer - 1].place;
}

template <class T> HPCNK_INLINE void operate(const PlaneWork<T>& p, const Operation& op, int t) {
    const Work<T>& w = p.w;
    const Stage& s = *w.stage;
    const int dy = p.dy * op.y.scale, dx = p.dx * op.x.scale;
    const Area out = overlap(op.y.out, op.x.out, dy, dx);
    const Area in = overlap(op.y.inputs, op.x.inputs, dy * op.y.stride, dx * op.x.stride);
    const long long input = place_of(s, w.operations, op.input);
    const bool more = op.plus != NOTHING;
    const long long plus = more ? place_of(s, w.operations, op.plus) : 0;
    T *to_s = p.values(op.place, 0), *to_t = p.values(op.place, 1);
    for (int k = t; k < out.count(); k += THREADS) {
        const int y = out.y + k / out.width, x = out.x + k % out.width;
        const int at = y * op.x.out + x;
        Entry<T> second{T(0), T(0)};
        if (more) second.s = p.values(plus, 0)[at];
        if (more && w.tangent && op.plus_tangent) second.t = p.values(plus, 1)[at];
        const Entry<T> sum = box(p, op, input, y, x, in);
        const long long right = (long long)(y + dy) * op.x.out + x + dx;
        const Entry<T> e = finished(w, op, sum, second, p.rows, at, right);
        to_s[at] = e.s;
        if (w.tangent) to_t[at] = e.t;
    }
}

// --- what leaves the stage

// Entry of the pooled tensor that takes (y, x), or -1.
HPCNK_INLINE long long pooled(const Stage& s, const Tensor& to, int y, int x, int dy, int dx) {
    const int top = y / s.window_y, left = x / s.window_x;
    const int bottom = (y + dy) / s.window_y, right = (x + dx) / s.window_x;
    const int oy = bottom - top, ox = right - left;
    if (top >= s.target_height || bottom >= s.target_height) return -1;
    if (left >= s.target_width || right >= s.target_width) return -1;
    if (oy < -to.reach_y || oy > to.reach_y || ox < -to.reach_x || ox > to.reach_x) return -1;
    const long long plane =
        (long long)wrapped(oy, to.planes_y) * to.planes_x + wrapped(ox, to.planes_x);
    return to.place + (plane * s.target_height + top) * s.target_width + left;
}

template <class T> HPCNK_INLINE void leave(const PlaneWork<T>& p, long long last, int t) {
    const Work<T>& w = p.w;
    const Stage& s = *w.stage;
    const Tensor& to = w.tables[s.target];
    const Area area = overlap(s.out_height, s.out_width, p.dy, p.dx);
    T *to_s = tensor_of(w, p.pair, 0), *to_t = tensor_of(w, p.pair, 1);
    const long long plane = (long long)wrapped(p.dy, to.planes_y) * to.planes_x
        + wrapped(p.dx, to.planes_x);
    for (int k = t; k < area.count(); k += THREADS) {
        const int y = area.y + k / area.width, x = area.x + k % area.width;
        const int at = y * s.out_width + x;
        const T value = p.values(last, 0)[at];
        const T tangent = w.tangent && s.last_tangent ? p.values(last, 1)[at] : T(0);
        if (s.end == END_TENSOR) {
            const long long entry = to.place + plane * to.height * to.width + at;
            to_s[entry] = value;
            if (w.tangent) to_t[entry] = tangent;
            continue;
        }
        const long long entry = pooled(s, to, y, x, p.dy, p.dx);
        if (entry < 0) continue;
        add_to(to_s + entry, value);
        if (w.tangent && s.last_tangent) add_to(to_t + entry, tangent);
    }
}

template <class T> HPCNK_INLINE void begin_sum(const PlaneWork<T>& p, long long last, int t) {
    const Work<T>& w = p.w;
    const Stage& s = *w.stage;
    const Area area = overlap(s.out_height, s.out_width, p.dy, p.dx);
    T sum = T(0), tangent = T(0);
    for (int k = t; k < area.count(); k += THREADS) {
        const int at = (area.y + k / area.width) * s.out_width + area.x + k % area.width;
        sum += p.values(last, 0)[at];
        if (w.tangent && s.last_tangent) tangent += p.values(last, 1)[at];
    }
    p.sums[t] = sum;
    p.sums[THREADS + t] = tangent;
}

template <class T> HPCNK_INLINE void end_sum(const PlaneWork<T>& p) {
    const Work<T>& w = p.w;
    T* to = w.sums + p.pair * (1 + w.tangent) * w.slots + p.slot;
    to[0] = p.sums[0];
    if (w.tangent) to[w.slots] = p.sums[THREADS];
}

template <class T> HPCNK_INLINE void plane(const PlaneWork<T>& p) {
    const Work<T>& w = p.w;
    const Stage& s = *w.stage;
    const long long last = place_of(s, w.operations, s.operations);
    HPCNK_THREADS(t) read_source(p, t);
    for (int k = 0; k < s.operations; ++k) HPCNK_THREADS(t) operate(p, w.operations[k], t);
    if (s.end != END_MEAN) {
        HPCNK_THREADS(t) leave(p, last, t);
        return;
    }
    HPCNK_THREADS(t) begin_sum(p, last, t);
    for (int half = THREADS / 2; half; half /= 2) {
        HPCNK_THREADS(t) {
            if (t < half) p.sums[t] += p.sums[t + half];
            if (t < half) p.sums[THREADS + t] += p.sums[THREADS + t + half];
        }
    }
    HPCNK_THREADS(t) if (t == 0) end_sum(p);
}

// Block `block` of `blocks`; `shared` is null where the buffers do not fit.
template <class T>
HPCNK_INLINE void planes(const Work<T>& w, long long block, long long blocks, T* shared, T* sums) {
    const Stage& s = *w.stage;
    T* own = w.scratch + block * (1 + w.tangent) * w.scratch_entries;
    const int wide = 2 * s.reach_x + 1, all = wide * (2 * s.reach_y + 1);
    for (long long item = block; item < w.count * all; item += blocks) {
        const long long pair = item / all;
        const int slot = int(item % all);
        plane(PlaneWork<T>{w, shared ? shared : own, sums, pair,
                           rows_of(w.first + pair, w.columns, w.upper), slot / wide - s.reach_y,
                           slot % wide - s.reach_x, slot});
    }
}

}  // namespace hpcnk
