// The inner loops: a block of a tile, widened to doubles, times a panel of N columns.
//
// The block lies in chunks of two vectors along its rows: block[chunk][row][lane]. Vectors are GCC's
// and Clang's own, with an instruction named where compilers choose badly.
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
#define HPCNK_LAMBDA __attribute__((always_inline))
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
constexpr int LINE = 2 * VECTOR;  // lanes of a chunk

// A block is 110 KB, a quarter of a small second-level cache. Multiples of all groups below.
constexpr int ROWS = 48;
constexpr int CHUNKS = 288 / LINE;
constexpr int STEP = (ROWS + 1) * LINE;  // from chunk to chunk; odd, or all fall into a few cache sets
constexpr long long BLOCK = (long long)CHUNKS * STEP;

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
HPCNK_INLINE void add(double* p, Vector v) { store(p, load(p) + v); }

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

HPCNK_INLINE double sum_of_lanes(const double* p) {
    double sum = p[0];
    for (int k = 1; k < VECTOR; ++k) sum += p[k];
    return sum;
}
HPCNK_INLINE long long least(long long a, long long b) { return a < b ? a : b; }
inline void clear(double* p, long long count) {
    for (long long k = 0; k < count; ++k) p[k] = 0;
}

// Rows of a call, and chunks of one, so that 8 to 12 sums run beside each other.
constexpr int row_group(int n) { return n == 1 ? 8 : n == 2 ? 6 : n == 3 ? 4 : n == 4 ? 3 : 2; }
constexpr int chunk_group(int n) { return n == 1 ? 4 : n == 2 ? 3 : n == 3 ? 2 : 1; }

// Where the block comes from.
template <class T> struct Source {
    const T* entries;
    long long stride;
    int width;
};

// Lines of the next block: while a call works, it fetches those of its rows or chunk that are the
// share of its panel, one by one, for only some lines can be under way at a time.
struct Ahead {
    const char* start;    // of the next block; null: nothing to fetch
    long long row_bytes;  // from row to row
    long long chunk_bytes;
    int panel, panels;
};

// The last chunk of R rows, if it is not full, with zeros after the last entry.
template <int R, class T> void widen_rest(const Source<T>& source, double* block) {
    const int full = source.width / LINE, rest = source.width % LINE;
    for (int r = 0; r < R && rest; ++r)
        for (int k = 0; k < LINE; ++k)
            block[full * STEP + r * LINE + k] =
                k < rest ? double(source.entries[r * source.stride + full * LINE + k]) : 0.0;
}

// sum[m][n] += a(m) * b(n). The fewer are held in registers, the others come one by one: all fit
// into sixteen registers with the sums. Compilers left alone load again or spill.
template <int M, int N, class A, class B>
HPCNK_INLINE void multiply(Vector (&sum)[M][N], const A& a, const B& b) {
    Vector held[N < M ? N : M];
    if constexpr (N < M) {
        HPCNK_UNROLL
        for (int n = 0; n < N; ++n) held[n] = in_register(b(n));
        HPCNK_UNROLL
        for (int m = 0; m < M; ++m) {
            const Vector one = N > 1 ? in_register(a(m)) : a(m);
            HPCNK_UNROLL
            for (int n = 0; n < N; ++n) sum[m][n] = multiply_add(one, held[n], sum[m][n]);
        }
    } else {
        HPCNK_UNROLL
        for (int m = 0; m < M; ++m) held[m] = in_register(a(m));
        HPCNK_UNROLL
        for (int n = 0; n < N; ++n) {
            const Vector one = M > 1 ? in_register(b(n)) : b(n);
            HPCNK_UNROLL
            for (int m = 0; m < M; ++m) sum[m][n] = multiply_add(held[m], one, sum[m][n]);
        }
    }
}

// R rows of the block times N columns: adds to sums[row][column][lane of a vector]. With WIDEN the
// rows are taken from the tile and left in the block.
template <bool WIDEN, int R, int N, class T>
void rows_times(const Source<T> source, double* block, int chunks, const double* v, double* sums) {
    Vector sum[R][N] = {};
    int k = 0;
    if (WIDEN) {
        widen_rest<R>(source, block);
        const T* entries = source.entries;
        for (const int full = source.width / LINE; k < full; ++k, block += STEP, v += N * LINE) {
            HPCNK_UNROLL
            for (int lane = 0; lane < LINE; lane += VECTOR, entries += VECTOR)
                multiply(
                    sum,
                    [&](int r) HPCNK_LAMBDA {
                        const Vector wide = load(entries + r * source.stride);
                        store(block + r * LINE + lane, wide);
                        return wide;
                    },
                    [&](int n) HPCNK_LAMBDA { return load(v + n * LINE + lane); });
        }
    }
    for (; k < chunks; ++k, block += STEP, v += N * LINE) {
        HPCNK_UNROLL
        for (int lane = 0; lane < LINE; lane += VECTOR)
            multiply(
                sum, [&](int r) HPCNK_LAMBDA { return load(block + r * LINE + lane); },
                [&](int n) HPCNK_LAMBDA { return load(v + n * LINE + lane); });
    }
    HPCNK_UNROLL
    for (int r = 0; r < R; ++r) {
        HPCNK_UNROLL
        for (int n = 0; n < N; ++n) add(sums + (r * N + n) * VECTOR, sum[r][n]);
    }
}

// All rows of the block times N columns.
template <bool WIDEN, int N, class T>
void row_panel(Source<T> source, double* block, int rows, int chunks, const double* v, double* sums) {
    constexpr int R = row_group(N);
    int i = 0;
    for (; i + R <= rows; i += R) {
        rows_times<WIDEN, R, N>(source, block + i * LINE, chunks, v, sums + i * N * VECTOR);
        source.entries += R * source.stride;
    }
    for (; i < rows; ++i) {
        rows_times<WIDEN, 1, N>(source, block + i * LINE, chunks, v, sums + i * N * VECTOR);
        source.entries += source.stride;
    }
}

// M chunks of the block, transposed, times N columns: adds to sums[chunk][column][lane].
template <int M, int N>
void chunks_times(const double* block, int rows, const double* v, double* sums, Ahead ahead) {
    Vector sum[M * 2][N] = {};
    const char* next = ahead.start + rows * ahead.panel / ahead.panels * ahead.row_bytes;
    for (int i = 0; i < rows; next += ahead.row_bytes) {
        HPCNK_UNROLL
        for (int m = 0; m < M; ++m) __builtin_prefetch(next + m * ahead.chunk_bytes, 0, 2);
        for (const int stop = int(least(rows, i + ahead.panels)); i < stop; ++i, block += LINE, v += N)
            multiply(
                sum, [&](int m) HPCNK_LAMBDA { return load(block + m / 2 * STEP + m % 2 * VECTOR); },
                [&](int n) HPCNK_LAMBDA { return splat(v + n); });
    }
    HPCNK_UNROLL
    for (int m = 0; m < M * 2; ++m) {
        HPCNK_UNROLL
        for (int n = 0; n < N; ++n) add(sums + (m / 2 * N + n) * LINE + m % 2 * VECTOR, sum[m][n]);
    }
}

// The whole block, transposed, times N columns.
template <int N>
void column_panel(const double* block, int rows, int chunks, const double* v, double* sums, Ahead ahead) {
    constexpr int M = chunk_group(N);
    int k = 0;
    for (; k + M <= chunks; k += M, ahead.start += M * ahead.chunk_bytes)
        chunks_times<M, N>(block + k * STEP, rows, v, sums + k * N * LINE, ahead);
    for (; k < chunks; ++k, ahead.start += ahead.chunk_bytes)
        chunks_times<1, N>(block + k * STEP, rows, v, sums + k * N * LINE, ahead);
}

}  // namespace hpcnk
