// The inner loop: some rows of a tile, some vectors wide, times a panel of N columns.
//
// Every entry is widened to a double in a register, serves both products there, and may be kept as
// a double for other panels. Sums along the rows stay in registers; sums along the columns come from
// the first-level cache and go back to it, once for R rows. With v and its sums in that cache the
// tile itself can stream from memory.
// Vectors are GCC's and Clang's own, with an instruction named where compilers choose badly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define HPCNK_INLINE inline __attribute__((always_inline))
#define HPCNK_UNROLL _Pragma("GCC unroll 16")

namespace hpcnk {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;  // SSE2, NEON
#endif
constexpr int VECTOR = VECTOR_BYTES / sizeof(double);

// Columns of a panel at most, and rows that go with n of them: 2 n rows + rows + 2 registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int PANEL = 4;
constexpr int row_group(int n) { return n == 1 ? 8 : n == 4 ? 3 : 4; }
#else
constexpr int PANEL = 3;
constexpr int row_group(int n) { return n == 1 ? 4 : 2; }
#endif
constexpr int ROWS = 24;  // of a block: a multiple of all groups
constexpr int WIDTH = 256;  // so that a panel of v and its sums fit into the first-level cache

typedef double Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));

HPCNK_INLINE Vector load(const double* p) { return *reinterpret_cast<const Doubles*>(p); }
// GCC must be told these two instructions: it widens in halves, and takes several splats for one
// load and shuffles.
#if defined(__AVX512F__)
HPCNK_INLINE Vector load(const float* p) { return (Vector)_mm512_cvtps_pd(_mm256_loadu_ps(p)); }
HPCNK_INLINE Vector splat(const double* p) { return (Vector)_mm512_set1_pd(*p); }
#elif defined(__AVX__)
HPCNK_INLINE Vector load(const float* p) { return (Vector)_mm256_cvtps_pd(_mm_loadu_ps(p)); }
HPCNK_INLINE Vector splat(const double* p) { return (Vector)_mm256_broadcast_sd(p); }
#else
HPCNK_INLINE Vector load(const float* p) {
    typedef float Half __attribute__((vector_size(VECTOR_BYTES / 2)));
    typedef float Anywhere __attribute__((vector_size(VECTOR_BYTES / 2), aligned(4), may_alias));
    const Half narrow = *reinterpret_cast<const Anywhere*>(p);
    return __builtin_convertvector(narrow, Vector);
}
HPCNK_INLINE Vector splat(const double* p) { return Vector{*p, *p}; }
#endif
HPCNK_INLINE void store(double* p, Vector v) { *reinterpret_cast<Doubles*>(p) = v; }

// sum + a * b, always in the same way: left to choose, GCC fuses it in one loop and not in the next,
// and a column would change with the columns beside it.
HPCNK_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)sum);
#elif defined(__FMA__)
    return (Vector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)sum);
#elif defined(__aarch64__)
    return (Vector)vfmaq_f64((float64x2_t)sum, (float64x2_t)a, (float64x2_t)b);
#elif defined(__FP_FAST_FMA)
    for (int k = 0; k < VECTOR; ++k) sum[k] = __builtin_fma(a[k], b[k], sum[k]);
    return sum;
#else
    return sum + a * b;  // the processor cannot fuse it
#endif
}
// Keeps the compiler from loading it again at every use.
HPCNK_INLINE Vector in_register(Vector v) {
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

// The sums over the lanes of N vectors, at most four, that stand one after the other.
template <int N> HPCNK_INLINE void sums_of_lanes(const double* p, double (&sums)[4]) {
    const auto at = [&](int n) { return n < N ? load(p + n * VECTOR) : Vector{}; };
#if defined(__AVX__)
    const auto pairs = [&](int n) {
        const Vector a = at(n), b = at(n + 1);
#if defined(__AVX512F__)
        const __m512d both = _mm512_unpacklo_pd(a, b) + _mm512_unpackhi_pd(a, b);
        return _mm512_castpd512_pd256(both) + _mm512_extractf64x4_pd(both, 1);
#else
        return _mm256_hadd_pd(a, b);
#endif
    };
    const __m256d first = pairs(0), second = pairs(2);
    _mm256_storeu_pd(sums, _mm256_permute2f128_pd(first, second, 0x20) +
                               _mm256_permute2f128_pd(first, second, 0x31));
#else
    for (int n = 0; n < N; ++n) sums[n] = at(n)[0] + at(n)[1];
#endif
}
HPCNK_INLINE long long least(long long a, long long b) { return a < b ? a : b; }

inline void clear(double* p, long long count) {
    for (long long k = 0; k < count; ++k) p[k] = 0;
}

// Rows that a call fetches into the second-level cache, as wide as those that it multiplies.
template <class T> struct Fetch {
    const T* entries;
    long long stride;
    int rows;
    // Takes the next call's part, when so many are left.
    Fetch share(long long calls) {
        const Fetch part{entries, stride, int((rows + calls - 1) / calls)};
        entries += part.rows * stride;
        rows -= part.rows;
        return part;
    }
    HPCNK_INLINE void line(int vector) const {
        constexpr int VECTORS = sizeof(T) * VECTOR < 64 ? 64 / (sizeof(T) * VECTOR) : 1;  // of a line
        if (vector % VECTORS) return;
        for (int r = 0; r < rows; ++r)
            __builtin_prefetch(entries + r * stride + vector * VECTOR, 0, 2);
    }
};

// A panel's vectors and sums, at the place of a block.
struct Panel {
    const double* v_rows;     // [row][column]
    double* row_sums;         // [row][column][lane]
    bool begun;               // whether row_sums have been written
    const double* v_columns;  // [vector][column][lane]
    double* column_sums;      // likewise
};

// R rows of a tile times N columns: ACROSS adds A v_columns, DOWN adds A^T v_rows. A sum is taken in
// the same order for any R and N. KEEP leaves the rows as doubles at `kept`, one after the other.
template <int R, int N, bool ACROSS, bool DOWN, bool KEEP, class T, class Next>
void multiply(const T* entries, long long stride, int vectors, const Panel& p, int row, double* kept,
              Next fetch) {
    Vector sums[R][N] = {}, v_rows[R][N];
    HPCNK_UNROLL
    for (int k = 0; k < R * N; ++k)
        if (DOWN) v_rows[k / N][k % N] = in_register(splat(p.v_rows + row * N + k));
    const double* v = p.v_columns;
    double* down = p.column_sums;
    for (int j = 0; j < vectors; ++j, v += N * VECTOR, down += N * VECTOR) {
        fetch.line(j);
        Vector a[R];
        HPCNK_UNROLL
        for (int r = 0; r < R; ++r) a[r] = in_register(load(entries + r * stride + j * VECTOR));
        HPCNK_UNROLL
        for (int r = 0; r < R; ++r)
            if (KEEP) store(kept + (r * vectors + j) * VECTOR, a[r]);
        HPCNK_UNROLL
        for (int n = 0; n < N; ++n) {
            const Vector one = ACROSS ? in_register(load(v + n * VECTOR)) : Vector{};
            Vector sum = DOWN ? in_register(load(down + n * VECTOR)) : Vector{};
            HPCNK_UNROLL
            for (int r = 0; r < R; ++r) {
                if (ACROSS) sums[r][n] = multiply_add(a[r], one, sums[r][n]);
                if (DOWN) sum = multiply_add(a[r], v_rows[r][n], sum);
            }
            if (DOWN) store(down + n * VECTOR, sum);
        }
    }
    HPCNK_UNROLL
    for (int k = 0; k < R * N; ++k) {
        double* const sum = p.row_sums + (row * N + k) * VECTOR;
        if (ACROSS) store(sum, p.begun ? load(sum) + sums[k / N][k % N] : sums[k / N][k % N]);
    }
}

}  // namespace hpcnk
