// The kernels of hpcnk/engine/source/device.cu on the host, one block after the other. The address
// sanitiser of the compiler may be put over it: nothing here hides an access out of bounds.
#include <cstdlib>
#include <vector>

#include "emulated.hpp"

#include "device_stream.cuh"
#include "device_pairs.cuh"

using namespace hpcnk;

namespace {

template <class T> void run_stream(const Work<T>& w, const Shape& shape, long long warps) {
    for (long long k = 0; k < warps; ++k) Stream<T, Shape>(shape, w, int(k)).run();
}

template <class T> void run_planes(const Work<T>& w, long long blocks, int shared_bytes) {
    std::vector<T> memory(shared_bytes / sizeof(T));
    for (long long k = 0; k < blocks; ++k) {
        for (T& number : memory) number = T(NAN);  // shared memory begins with anything
        planes(w, k, blocks, w.scratch ? nullptr : memory.data() + 2 * THREADS, memory.data());
    }
}

template <class T> void run_pairs(const Work<T>& w, void (*kernel)(const Work<T>&, long long)) {
    for (long long k = 0; k < w.count; ++k) kernel(w, k);
}

}  // namespace

#define ENTRIES(T, NAME)                                                                          \
    extern "C" int work_bytes_##NAME() { return sizeof(Work<T>); }                                \
    extern "C" void stream_##NAME(const Work<T>* w, const Shape* shape, long long warps) {        \
        run_stream(*w, *shape, warps);                                                            \
    }                                                                                             \
    extern "C" void planes_##NAME(const Work<T>* w, long long blocks, int shared_bytes) {         \
        run_planes(*w, blocks, shared_bytes);                                                     \
    }                                                                                             \
    extern "C" void finish_##NAME(const Work<T>* w) { run_pairs(*w, finish<T>); }                 \
    extern "C" void chain_##NAME(const Work<T>* w) { run_pairs(*w, chain<T>); }                   \
    extern "C" void deliver_##NAME(const Work<T>* w) { run_pairs(*w, deliver<T>); }               \
    extern "C" void add_##NAME(const Work<T>* w) { run_pairs(*w, add<T>); }

extern "C" int shape_bytes() { return sizeof(Shape); }
ENTRIES(float, float32)
ENTRIES(double, float64)
