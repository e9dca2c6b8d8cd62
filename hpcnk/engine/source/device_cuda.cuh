// A lane of a warp, and a block of threads, under CUDA. No header may be included here.
#pragma once

#define HPCNK_INLINE __device__ __forceinline__
#define HPCNK_UNROLL _Pragma("unroll")
#define HPCNK_UNROLL_ROWS _Pragma("unroll 4")
#define HPCNK_UNROLL_CHANNELS _Pragma("unroll 4")
// A phase: all threads t of the block, which then wait for each other. No thread keeps anything of
// its own from phase to phase, so a loop over t on the host does the same.
#define HPCNK_THREADS(t) \
    for (int t = threadIdx.x, once = 1; once; once = 0, __syncthreads())

namespace hpcnk {

using Whole = int;         // a whole number of each lane
template <class T> struct LanesOf { using Number = T; };
template <class T> using Number = typename LanesOf<T>::Number;

template <class V> HPCNK_INLINE V splat(double x) { return V(x); }
HPCNK_INLINE float maximum(float a, float b) { return fmaxf(a, b); }
HPCNK_INLINE double maximum(double a, double b) { return fmax(a, b); }
HPCNK_INLINE float minimum(float a, float b) { return fminf(a, b); }
HPCNK_INLINE double minimum(double a, double b) { return fmin(a, b); }
HPCNK_INLINE float absolute(float a) { return fabsf(a); }
HPCNK_INLINE double absolute(double a) { return fabs(a); }
HPCNK_INLINE double square_root(double a) { return sqrt(a); }
HPCNK_INLINE float square_root(float a) {
    float root;  // of 1 - |cosine|: 0, or no less than 6e-8
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(a));
    return root;
}

HPCNK_INLINE Whole lane_index() { return threadIdx.x; }
HPCNK_INLINE Whole whole(int x) { return x; }
template <class V> HPCNK_INLINE V select(bool c, V a, V b) { return c ? a : b; }
HPCNK_INLINE bool any(bool c) { return __any_sync(0xffffffffu, c); }
template <class T> HPCNK_INLINE T up(T v) { return __shfl_up_sync(0xffffffffu, v, 1); }
template <class T> HPCNK_INLINE T down(T v, int by = 1) {
    return __shfl_down_sync(0xffffffffu, v, by);
}
// Where a lane reads a row's numbers.
template <class T> using Place = const T*;
template <class T>
HPCNK_INLINE Place<T> place(const T* rows, Whole row, long long length, Whole at) {
    return rows + row * length + at;
}
template <class T> HPCNK_INLINE Place<T> moved(const T* p, Whole by) { return p + by; }
HPCNK_INLINE void load_two(const float* p, int at, float* to) {
    const float2 two = __ldg(reinterpret_cast<const float2*>(p + at));
    to[0] = two.x, to[1] = two.y;
}
HPCNK_INLINE void load_two(const double* p, int at, double* to) {
    const double2 two = __ldg(reinterpret_cast<const double2*>(p + at));
    to[0] = two.x, to[1] = two.y;
}
HPCNK_INLINE void add_to(float* p, float v) {
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "f"(v));
}
HPCNK_INLINE void add_to(double* p, double v) {
    asm volatile("red.global.add.f64 [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "d"(v));
}
// Where a lane reads or writes what belongs to a pair.
template <class T> using Spot = T*;
template <class T> HPCNK_INLINE T* spot(T* all, Whole pair, long long length) {
    return all + pair * length;
}
template <class T> HPCNK_INLINE T* shifted(T* p, long long by) { return p + by; }
template <class T> HPCNK_INLINE T load_at(const T* p, Whole at) { return __ldg(p + at); }
template <class T> HPCNK_INLINE void store_at(T* p, Whole at, T v, bool on) {
    if (on) p[at] = v;
}
template <class T> HPCNK_INLINE void add_at(T* p, Whole at, T v, bool on) {
    if (on) add_to(p + at, v);
}

// What each lane works out by itself.
template <class F> HPCNK_INLINE void each_lane(int in, F f, int& a, int& b) { f(in, a, b); }

}  // namespace hpcnk
