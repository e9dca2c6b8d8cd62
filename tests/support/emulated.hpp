// What hpcnk/engine/source/device_cuda.cuh is on a GPU, for the host: a warp is a vector of 32
// numbers, a phase of a block is a loop over its threads.
#pragma once

#include <cmath>
#include <cstdint>

#define HPCNK_INLINE inline
#define HPCNK_UNROLL
#define HPCNK_UNROLL_ROWS
#define HPCNK_UNROLL_CHANNELS
#define HPCNK_THREADS(t) for (int t = 0; t < hpcnk::THREADS; ++t)

namespace hpcnk {

constexpr int LANES = 32;
template <class T> struct LanesOf {
    typedef T Number __attribute__((vector_size(LANES * sizeof(T))));
};
template <class T> using Number = typename LanesOf<T>::Number;
using Floats = Number<float>;
using Doubles = Number<double>;
using Whole = Number<int32_t>;

// One number of a thread.
template <class V> V splat(double x) { return V{} + x; }
template <> inline float splat<float>(double x) { return float(x); }
template <> inline double splat<double>(double x) { return x; }
template <> inline Floats splat<Floats>(double x) { return Floats{} + float(x); }
inline float absolute(float a) { return std::fabs(a); }
inline double absolute(double a) { return std::fabs(a); }
inline float square_root(float a) { return std::sqrt(a); }
inline double square_root(double a) { return std::sqrt(a); }
template <class V> V maximum(V a, V b) { return a > b ? a : b; }
template <class V> V minimum(V a, V b) { return a < b ? a : b; }

// A number of each lane.
template <class V, class F> V by_lane(V a, F f) {
    for (int k = 0; k < LANES; ++k) a[k] = f(a[k]);
    return a;
}
inline Floats absolute(Floats a) { return by_lane(a, [](float x) { return std::fabs(x); }); }
inline Doubles absolute(Doubles a) { return by_lane(a, [](double x) { return std::fabs(x); }); }
inline Floats square_root(Floats a) { return by_lane(a, [](float x) { return std::sqrt(x); }); }
inline Doubles square_root(Doubles a) { return by_lane(a, [](double x) { return std::sqrt(x); }); }

inline Whole whole(int x) { return Whole{} + x; }
inline Whole lane_index() {
    Whole lane{};
    for (int k = 0; k < LANES; ++k) lane[k] = k;
    return lane;
}
template <class V> V select(Whole c, V a, V b) {
    for (int k = 0; k < LANES; ++k) a[k] = c[k] ? a[k] : b[k];
    return a;
}
inline bool any(Whole c) {
    for (int k = 0; k < LANES; ++k)
        if (c[k]) return true;
    return false;
}
// As shuffles do: lanes that have no partner keep their own number.
template <class V> V up(V v) {
    V moved = v;
    for (int k = 1; k < LANES; ++k) moved[k] = v[k - 1];
    return moved;
}
template <class V> V down(V v, int by = 1) {
    V moved = v;
    for (int k = 0; k + by < LANES; ++k) moved[k] = v[k + by];
    return moved;
}

template <class T> struct Place {
    const T* of[LANES];
};
template <class T> Place<T> place(const T* rows, Whole row, long long length, Whole at) {
    Place<T> found;
    for (int k = 0; k < LANES; ++k) found.of[k] = rows + row[k] * length + at[k];
    return found;
}
template <class T> Place<T> moved(Place<T> p, Whole by) {
    for (int k = 0; k < LANES; ++k) p.of[k] += by[k];
    return p;
}
template <class T> void load_two(const Place<T>& p, int at, Number<T>* to) {
    for (int k = 0; k < LANES; ++k) {
        if (reinterpret_cast<uintptr_t>(p.of[k] + at) % (2 * sizeof(T))) std::abort();  // misaligned
        to[0][k] = p.of[k][at], to[1][k] = p.of[k][at + 1];
    }
}
template <class T> struct Spot {
    T* of[LANES];
};
template <class T> Spot<T> spot(T* all, Whole pair, long long length) {
    Spot<T> found;
    for (int k = 0; k < LANES; ++k) found.of[k] = all + pair[k] * length;
    return found;
}
template <class T> Spot<T> shifted(Spot<T> p, long long by) {
    for (int k = 0; k < LANES; ++k) p.of[k] += by;
    return p;
}
template <class T> Number<T> load_at(const Spot<T>& p, Whole at) {
    Number<T> found{};
    for (int k = 0; k < LANES; ++k) found[k] = p.of[k][at[k]];
    return found;
}
template <class T> void store_at(const Spot<T>& p, Whole at, Number<T> v, Whole on) {
    for (int k = 0; k < LANES; ++k)
        if (on[k]) p.of[k][at[k]] = v[k];
}
template <class T> void add_at(const Spot<T>& p, Whole at, Number<T> v, Whole on) {
    for (int k = 0; k < LANES; ++k)
        if (on[k]) p.of[k][at[k]] += v[k];
}
template <class F> void each_lane(Whole in, F f, Whole& a, Whole& b) {
    for (int k = 0; k < LANES; ++k) {
        int x, y;
        f(in[k], x, y);
        a[k] = x, b[k] = y;
    }
}
template <class T> void add_to(T* p, T v) { *p += v; }

}  // namespace hpcnk
