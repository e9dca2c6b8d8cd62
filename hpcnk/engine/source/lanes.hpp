// Vectors of the host: lane l of a vector belongs to pair l, so no lane ever needs another.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define HPCNK_INLINE inline __attribute__((always_inline))
#define HPCNK_UNROLL _Pragma("GCC unroll 24")
#define HPCNK_LAMBDA __attribute__((always_inline))

namespace hpcnk {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;  // SSE2, NEON
#endif

template <class T> struct Lanes {
    static constexpr int count = VECTOR_BYTES / sizeof(T);
    typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
    typedef T Anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};
using Floats = Lanes<float>::Vector;
using Doubles = Lanes<double>::Vector;

template <class T> HPCNK_INLINE typename Lanes<T>::Vector load(const T* p) {
    return *reinterpret_cast<const typename Lanes<T>::Anywhere*>(p);
}
template <class T> HPCNK_INLINE void store(T* p, typename Lanes<T>::Vector v) {
    *reinterpret_cast<typename Lanes<T>::Anywhere*>(p) = v;
}

HPCNK_INLINE Floats absolute(Floats a) {
    typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    return (Floats)((Bits)a & 0x7fffffff);
}
HPCNK_INLINE Doubles absolute(Doubles a) {
    typedef int64_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    return (Doubles)((Bits)a & INT64_C(0x7fffffffffffffff));
}

// A number in all lanes, the larger, the smaller, the root: the processor's own where it has them.
template <class V> HPCNK_INLINE V splat(float x);
template <class V> HPCNK_INLINE V splat(double x);
#if defined(__AVX__)
#if defined(__AVX512F__)
#define HPCNK_SIMD(name) _mm512_##name
using NativeFloats = __m512;
using NativeDoubles = __m512d;
#else
#define HPCNK_SIMD(name) _mm256_##name
using NativeFloats = __m256;
using NativeDoubles = __m256d;
#endif
template <> HPCNK_INLINE Floats splat(float x) { return (Floats)HPCNK_SIMD(set1_ps)(x); }
template <> HPCNK_INLINE Doubles splat(double x) { return (Doubles)HPCNK_SIMD(set1_pd)(x); }
HPCNK_INLINE Floats maximum(Floats a, Floats b) {
    return (Floats)HPCNK_SIMD(max_ps)((NativeFloats)a, (NativeFloats)b);
}
HPCNK_INLINE Doubles maximum(Doubles a, Doubles b) {
    return (Doubles)HPCNK_SIMD(max_pd)((NativeDoubles)a, (NativeDoubles)b);
}
HPCNK_INLINE Doubles minimum(Doubles a, Doubles b) {
    return (Doubles)HPCNK_SIMD(min_pd)((NativeDoubles)a, (NativeDoubles)b);
}
HPCNK_INLINE Floats square_root(Floats a) {
    return (Floats)HPCNK_SIMD(sqrt_ps)((NativeFloats)a);
}
HPCNK_INLINE Doubles square_root(Doubles a) {
    return (Doubles)HPCNK_SIMD(sqrt_pd)((NativeDoubles)a);
}
#else
template <> HPCNK_INLINE Floats splat(float x) { return Floats{} + x; }
template <> HPCNK_INLINE Doubles splat(double x) { return Doubles{} + x; }
template <class V> HPCNK_INLINE V maximum(V a, V b) { return a > b ? a : b; }
template <class V> HPCNK_INLINE V minimum(V a, V b) { return a < b ? a : b; }
#if defined(__aarch64__)
HPCNK_INLINE Floats square_root(Floats a) { return (Floats)vsqrtq_f32((float32x4_t)a); }
HPCNK_INLINE Doubles square_root(Doubles a) { return (Doubles)vsqrtq_f64((float64x2_t)a); }
#else
template <class V> HPCNK_INLINE V square_root(V a) {
    for (size_t k = 0; k < sizeof(V) / sizeof(a[0]); ++k) a[k] = std::sqrt(a[k]);
    return a;
}
#endif
#endif

}  // namespace hpcnk
