// Vectors of the host: lane l of a vector belongs to pair l, so no lane ever needs another.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#define HPCNK_INLINE inline __attribute__((always_inline))
#define HPCNK_UNROLL _Pragma("GCC unroll 24")
#define HPCNK_LAMBDA __attribute__((always_inline))

namespace hpcnk {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#else
constexpr int VECTOR_BYTES = 32;
#endif

template <class T> struct Lanes {
    static constexpr int count = VECTOR_BYTES / sizeof(T);
    typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
    typedef T Anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};
using Floats = Lanes<float>::Vector;
using Doubles = Lanes<double>::Vector;

template <class V> HPCNK_INLINE V splat(float x) { return V{} + x; }
template <class V> HPCNK_INLINE V splat(double x) { return V{} + x; }

template <class T> HPCNK_INLINE typename Lanes<T>::Vector load(const T* p) {
    return *reinterpret_cast<const typename Lanes<T>::Anywhere*>(p);
}
template <class T> HPCNK_INLINE void store(T* p, typename Lanes<T>::Vector v) {
    *reinterpret_cast<typename Lanes<T>::Anywhere*>(p) = v;
}

template <class V> HPCNK_INLINE V maximum(V a, V b) { return a > b ? a : b; }
template <class V> HPCNK_INLINE V minimum(V a, V b) { return a < b ? a : b; }

HPCNK_INLINE Floats absolute(Floats a) {
    typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    return (Floats)((Bits)a & 0x7fffffff);
}
HPCNK_INLINE Doubles absolute(Doubles a) {
    typedef int64_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    return (Doubles)((Bits)a & INT64_C(0x7fffffffffffffff));
}

#if defined(__AVX512F__)
HPCNK_INLINE Floats square_root(Floats a) { return (Floats)_mm512_sqrt_ps((__m512)a); }
HPCNK_INLINE Doubles square_root(Doubles a) { return (Doubles)_mm512_sqrt_pd((__m512d)a); }
#elif defined(__AVX__)
HPCNK_INLINE Floats square_root(Floats a) { return (Floats)_mm256_sqrt_ps((__m256)a); }
HPCNK_INLINE Doubles square_root(Doubles a) { return (Doubles)_mm256_sqrt_pd((__m256d)a); }
#else
template <class V> HPCNK_INLINE V square_root(V a) {
    V root;
    for (size_t k = 0; k < sizeof(V) / sizeof(a[0]); ++k) root[k] = std::sqrt(a[k]);
    return root;
}
#endif

}  // namespace hpcnk
