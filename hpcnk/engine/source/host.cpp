// The CPU engine: entry points for hpcnk/engine/library.py.
#include "stage.hpp"

using namespace hpcnk;

namespace {

struct Tables {
    const Program* program;
    const Step* steps;
    const Stage* stages;
    const Operation* operations;
    const Tensor* tensors;
};

template <class T, bool TANGENT, class Left> Network<T, TANGENT, Left> network(const Tables& t, T* w) {
    return {*t.program, t.steps, t.stages, t.operations, t.tensors, w};
}

// All `rows` left rows with one vector of right rows: out[row * stride + lane].
template <class T, bool TANGENT>
void pairs(const Tables& tables, const T* left_x, const T* left_factors, int rows, const T* right_x,
           const T* right_factors, T* workspace, T* out, long long stride) {
    auto run = network<T, TANGENT, OneRow>(tables, workspace);
    const Program& p = *tables.program;
    const long long inputs = (long long)p.channels * p.pixels;
    for (long long k = 0; k < rows; ++k) {
        const Pair<T> pair{left_x + k * inputs, left_factors + k * p.factors, right_x,
                           right_factors, Lanes<T>::count};
        store(out + k * stride, run.run(pair, nullptr));
    }
}

// A network without pixels: products[row * stride + column] in, the kernel out in its place.
template <class T, bool TANGENT>
void chain(const Tables& tables, const T* left_factors, int rows, const T* right_factors,
           long long right_stride, int columns, T* workspace, T* block, long long stride) {
    auto run = network<T, TANGENT, OneNumber>(tables, workspace);
    for (long long k = 0; k < rows; ++k) {
        const Pair<T> pair{nullptr, left_factors + k * tables.program->factors, nullptr,
                           right_factors, right_stride};
        run.chain(pair, block + k * stride, columns, block + k * stride);
    }
}

// A vector of rows with themselves: variances[position][lane], the exact kernel[lane].
template <bool TANGENT>
void own(const Tables& tables, const double* x, double tiny, double* workspace, double* factors,
         double* variances, double* kernel) {
    auto run = network<double, TANGENT, OwnRow>(tables, workspace);
    const Found found{variances, factors, tiny};
    const Pair<double> pair{x, factors, x, factors, Lanes<double>::count};
    store(kernel, run.run(pair, &found));
}

// Factors of one row from its variances, [position].
template <class T>
void factors_of_row(const Tables& tables, const T* variances, double tiny, T* factors) {
    for (int k = 0; k < tables.program->operations; ++k) {
        const Operation& op = tables.operations[k];
        const int count = factor_count(op.point);
        for (int pixel = 0; count && pixel < op.pixels; ++pixel) {
            double f[MAX_FACTORS];
            factors_of(op.point, variances[op.variance + pixel], tiny, f);
            for (int j = 0; j < count; ++j)
                factors[op.factor + (long long)j * op.pixels + pixel] = T(f[j]);
        }
    }
}

}  // namespace

#define HPCNK_ENTRIES(T, NAME)                                                                    \
    extern "C" int hpcnk_lanes_##NAME() { return Lanes<T>::count; }                               \
    extern "C" void hpcnk_pairs_##NAME(const Tables* t, int tangent, const T* left_x,             \
                                       const T* left_f, int rows, const T* right_x,               \
                                       const T* right_f, T* workspace, T* out, long long stride) { \
        (tangent ? pairs<T, true> : pairs<T, false>)(*t, left_x, left_f, rows, right_x, right_f,  \
                                                     workspace, out, stride);                     \
    }                                                                                             \
    extern "C" void hpcnk_chain_##NAME(const Tables* t, int tangent, const T* left_f, int rows,   \
                                       const T* right_f, long long right_stride, int columns,     \
                                       T* workspace, T* block, long long stride) {                \
        (tangent ? chain<T, true> : chain<T, false>)(*t, left_f, rows, right_f, right_stride,     \
                                                     columns, workspace, block, stride);          \
    }                                                                                             \
    extern "C" void hpcnk_factors_##NAME(const Tables* t, const T* variances, double tiny,        \
                                         T* factors) {                                            \
        factors_of_row<T>(*t, variances, tiny, factors);                                          \
    }

HPCNK_ENTRIES(float, float32)
HPCNK_ENTRIES(double, float64)

extern "C" void hpcnk_own(const Tables* t, int tangent, const double* x, double tiny,
                          double* workspace, double* factors, double* variances, double* kernel) {
    (tangent ? own<true> : own<false>)(*t, x, tiny, workspace, factors, variances, kernel);
}
