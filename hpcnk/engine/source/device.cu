// The GPU engine: kernels for hpcnk/engine/device_engine.py, one thread or warp of each. NUMBER is
// float or double; SHAPE, where it is set, gives every field of the Shape that `stream` is made for.
#include "device_cuda.cuh"
#include "device_stream.cuh"
#include "device_pairs.cuh"

using namespace hpcnk;

#define HPCNK_KERNEL extern "C" __global__ void
#define HPCNK_WORK const __grid_constant__ Work<HPCNK_NUMBER> w

#ifdef HPCNK_SHAPE
struct FixedShape {
    static constexpr int HPCNK_SHAPE;
};

HPCNK_KERNEL __launch_bounds__(WARP, HPCNK_WARPS) hpcnk_stream(HPCNK_WORK) {
    Stream<HPCNK_NUMBER, FixedShape>(FixedShape(), w, blockIdx.x).run();
}
#else
HPCNK_INLINE long long thread_number() { return (long long)blockIdx.x * THREADS + threadIdx.x; }

HPCNK_KERNEL __launch_bounds__(THREADS) hpcnk_planes(HPCNK_WORK) {
    extern __shared__ double memory[];
    HPCNK_NUMBER* sums = reinterpret_cast<HPCNK_NUMBER*>(memory);
    HPCNK_NUMBER* shared = w.scratch ? nullptr : sums + 2 * THREADS;
    planes(w, (long long)blockIdx.x, (long long)gridDim.x, shared, sums);
}

HPCNK_KERNEL hpcnk_finish(HPCNK_WORK) {
    if (thread_number() < w.count) finish(w, thread_number());
}

HPCNK_KERNEL hpcnk_chain(HPCNK_WORK) {
    if (thread_number() < w.count) chain(w, thread_number());
}

HPCNK_KERNEL hpcnk_deliver(HPCNK_WORK) {
    if (thread_number() < w.count) deliver(w, thread_number());
}

HPCNK_KERNEL hpcnk_add(HPCNK_WORK) {
    if (thread_number() < w.count) add(w, thread_number());
}
#endif
