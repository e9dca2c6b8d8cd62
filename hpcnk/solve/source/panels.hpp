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

// A block is 110 KB; two of them are half a small second-level cache. Multiples of all groups below.
constexpr int ROWS = 48;
constexpr int CHUNKS = 288 / LINE;
constexpr int STEP = (ROWS + 1) * LINE;  // from chunk to chunk; odd, or all fall into a few cache sets
// Rows from what is widened to what is fetched from memory, and into which cache: with vectors of 64
// bytes the buffers of the first one are all taken by the blocks.
#if defined(__AVX512F__)
constexpr int FETCHED = 4, CACHE = 2;
#else
constexpr int FETCHED = 2, CACHE = 3;
#endif
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

// Rows of a call, and chunks of one: as many sums beside each other as registers hold.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int row_group(int n) { return n == 1 ? 16 : n == 2 ? 12 : n == 3 ? 8 : n == 4 ? 6 : 4; }
constexpr int chunk_group(int n) { return n < 3 ? 6 : n < 5 ? 3 : 2; }
#else
constexpr int row_group(int n) { return n == 1 ? 8 : n == 2 ? 6 : n == 3 ? 4 : n == 4 ? 3 : 2; }
constexpr int chunk_group(int n) { return n == 1 ? 4 : n == 2 ? 3 : n == 3 ? 2 : 1; }
#endif

// Where a block comes from.
template <class T> struct Source {
    const T* entries;
    long long stride;
    int rows, width;
    const T* row(long long k) const { return entries + k * stride; }
};

// Chunks of one row that an inner loop widens, one between two of its steps.
template <class T> struct Run {
    const T *from, *fetched;  // the latter some rows farther on
    double* to;
    int count;
    HPCNK_INLINE void step() {
        HPCNK_UNROLL
        for (int k = 0; k < LINE; k += 64 / int(sizeof(T)))
            __builtin_prefetch(fetched + k, 0, CACHE);
        HPCNK_UNROLL
        for (int lane = 0; lane < LINE; lane += VECTOR) store(to + lane, load(from + lane));
        from += LINE;
        fetched += LINE;
        to += STEP;
    }
};

// The next block, widened while the inner loops work on the present one. Its lines are fetched from
// memory a few rows before: early enough, and not so many that a stride which is a power of two,
// and so puts them into a few cache sets, makes them push each other out.
template <class T> class Widening {
  public:
    // `after` is the block after it (no rows: none).
    Widening(const Source<T>& source, const Source<T>& after, double* block)
        : source_(source), after_(after), block_(block), full_(source.width / LINE),
          chunks_((long long)source.rows * full_) {}

    // Shares it out over calls of so many steps in all; there are no shares before.
    void spread(long long steps) { steps_ = steps; }

    // The share of a call of so many steps: at most one chunk a step.
    Run<T> share(int steps) {
        const long long even = steps_ > 0 ? (chunks_ * steps + steps_ - 1) / steps_ : 0;
        steps_ -= steps;
        return take(int(least(even, steps)));
    }

    // Widens what the shares have left.
    void finish() {
        while (chunks_ > 0)
            for (Run<T> run = take(full_); run.count > 0; --run.count) run.step();
        for (int i = 0, rest = source_.width % LINE; i < source_.rows && rest; ++i)
            for (int k = 0; k < LINE; ++k)
                block_[full_ * STEP + i * LINE + k] =
                    k < rest ? double(source_.row(i)[full_ * LINE + k]) : 0.0;
    }

  private:
    Run<T> take(int most) {
        const int start = done_, count = int(least(most, least(full_ - done_, chunks_)));
        const Run<T> run{source_.row(row_) + start * LINE, fetched() + start * LINE,
                         block_ + start * STEP + row_ * LINE, count};
        done_ += count;
        chunks_ -= count;
        if (done_ == full_) ++row_, done_ = 0;
        return run;
    }
    const T* fetched() const {
        const int beyond = row_ + FETCHED - source_.rows;
        if (beyond < 0) return source_.row(row_ + FETCHED);
        return after_.rows > 0 ? after_.row(least(beyond, after_.rows - 1)) : source_.row(row_);
    }

    const Source<T> source_, after_;
    double* const block_;
    const int full_;            // chunks of a row without what is less than one
    long long chunks_;          // to come
    long long steps_ = 0;
    int row_ = 0, done_ = 0;    // and the place of the next one: its row, and chunks before it
};

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

// R rows of the block times N columns: adds to sums[row][column][lane of a vector].
template <int R, int N, class T>
void rows_times(const double* block, int chunks, const double* v, double* sums, Run<T> run) {
    Vector sum[R][N] = {};
    const auto step = [&]() HPCNK_LAMBDA {
        HPCNK_UNROLL
        for (int lane = 0; lane < LINE; lane += VECTOR)
            multiply(
                sum, [&](int r) HPCNK_LAMBDA { return load(block + r * LINE + lane); },
                [&](int n) HPCNK_LAMBDA { return load(v + n * LINE + lane); });
        block += STEP;
        v += N * LINE;
    };
    int k = 0;
    for (const int both = run.count; k < both; ++k) step(), run.step();
    for (; k < chunks; ++k) step();
    HPCNK_UNROLL
    for (int r = 0; r < R; ++r) {
        HPCNK_UNROLL
        for (int n = 0; n < N; ++n) add(sums + (r * N + n) * VECTOR, sum[r][n]);
    }
}

// All rows of the block times N columns.
template <int N, class T>
void row_panel(const double* block, int rows, int chunks, const double* v, double* sums,
               Widening<T>& next) {
    constexpr int R = row_group(N);
    int i = 0;
    for (; i + R <= rows; i += R)
        rows_times<R, N>(block + i * LINE, chunks, v, sums + i * N * VECTOR, next.share(chunks));
    for (; i < rows; ++i)
        rows_times<1, N>(block + i * LINE, chunks, v, sums + i * N * VECTOR, next.share(chunks));
}

// M chunks of the block, transposed, times N columns: adds to sums[chunk][column][lane].
template <int M, int N, class T>
void chunks_times(const double* block, int rows, const double* v, double* sums, Run<T> run) {
    Vector sum[M * 2][N] = {};
    const auto step = [&]() HPCNK_LAMBDA {
        multiply(
            sum, [&](int m) HPCNK_LAMBDA { return load(block + m / 2 * STEP + m % 2 * VECTOR); },
            [&](int n) HPCNK_LAMBDA { return splat(v + n); });
        block += LINE;
        v += N;
    };
    int i = 0;
    for (const int both = run.count; i < both; ++i) step(), run.step();
    for (; i < rows; ++i) step();
    HPCNK_UNROLL
    for (int m = 0; m < M * 2; ++m) {
        HPCNK_UNROLL
        for (int n = 0; n < N; ++n) add(sums + (m / 2 * N + n) * LINE + m % 2 * VECTOR, sum[m][n]);
    }
}

// The whole block, transposed, times N columns.
template <int N, class T>
void column_panel(const double* block, int rows, int chunks, const double* v, double* sums,
                  Widening<T>& next) {
    constexpr int M = chunk_group(N);
    int k = 0;
    for (; k + M <= chunks; k += M)
        chunks_times<M, N>(block + k * STEP, rows, v, sums + k * N * LINE, next.share(rows));
    for (; k < chunks; ++k)
        chunks_times<1, N>(block + k * STEP, rows, v, sums + k * N * LINE, next.share(rows));
}

// Steps of the two above.
constexpr long long row_steps(int n, int rows, int chunks) {
    return (long long)(rows / row_group(n) + rows % row_group(n)) * chunks;
}
constexpr long long column_steps(int n, int rows, int chunks) {
    return (long long)(chunks / chunk_group(n) + chunks % chunk_group(n)) * rows;
}

}  // namespace hpcnk
