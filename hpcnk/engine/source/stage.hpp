// Stages on the host: a plane streams through all operations row by row.
//
// An operation makes its next row as soon as its inputs' rows are there, so a row is read while it
// is still in the first cache, and a buffer holds the few rows that somebody still needs.
#pragma once

#include <cstring>

#include "rows.hpp"
#include "variances.hpp"

namespace hpcnk {

constexpr int MAX_OPERATIONS = 4096;  // of one stage

// Rows of one left example, and a vector of right ones. Positions: [factor or channel][pixel].
template <class T> struct Pair {
    const T *left_x, *left_factors;
    const T *right_x, *right_factors;  // lanes innermost
    long long right_stride;            // between two positions: lanes, or columns in `chain`
};

// What rows with themselves find on the way, lanes innermost.
struct Found {
    double *variances, *factors;
    double tiny;
};

template <class T, bool TANGENT, class Left> class Network {
    static constexpr int N = Lanes<T>::count, STRIDE = (TANGENT ? 2 : 1) * N;
    using V = typename Lanes<T>::Vector;

  public:
    Network(const Program& program, const Step* steps, const Stage* stages,
            const Operation* operations, const Tensor* tensors, T* workspace)
        : program_(program), steps_(steps), stages_(stages), operations_(operations),
          tensors_(tensors), buffers_(workspace),
          tensor_data_(buffers_ + program.buffer_entries * STRIDE),
          sums_(tensor_data_ + program.tensor_entries * STRIDE),
          targets_(reinterpret_cast<int*>(sums_ + program.widest * STRIDE)) {}

    static size_t workspace(const Program& p) {
        return (p.buffer_entries + p.tensor_entries + p.widest) * STRIDE * sizeof(T)
            + p.widest * sizeof(int);
    }

    // All steps for one pair vector; returns the kernel's lanes.
    V run(const Pair<T>& pair, const Found* found) {
        pair_ = pair;
        found_ = found;
        for (int k = 0; k < program_.steps; ++k) {
            const Step& step = steps_[k];
            if (step.stage == NOTHING) sum(step);
            else run(stages_[step.stage]);
        }
        const T* result = entry(program_.result, 0);
        if (TANGENT) return program_.result_tangent ? load(result + N) : splat<V>(T(0));
        return load(result);
    }

    // One row of pairs through a network without pixels: `columns` scalar products in, kernel out.
    void chain(const Pair<T>& pair, const T* products, int columns, T* out) {
        pair_ = pair;
        found_ = nullptr;
        stage_ = &stages_[0];
        const int width = columns / N;
        T* source = buffers_ + stage_->place * STRIDE;
        for (int x = 0; x < width; ++x) store(source + x * STRIDE, load(products + x * N));
        begin_plane(0, 0);
        for (int b = 0; b <= stage_->operations; ++b) y_[b] = {0, 1}, x_[b] = {0, width};
        done_[0] = 1;
        const int last = stage_->operations;
        need(last, 0);
        const T* result = row(last, 0) + (TANGENT ? N : 0);
        for (int x = 0; x < width; ++x) store(out + x * N, load(result + x * STRIDE));
    }

  private:
    // --- tensors

    T* entry(int tensor, long long index) {
        return tensor_data_ + (tensors_[tensor].place + index) * STRIDE;
    }

    static long long entries(const Tensor& t) {
        return (long long)t.planes_y * t.planes_x * t.height * t.width;
    }

    static int wrap(int offset, int size) { return offset < 0 ? offset + size : offset; }

    static long long plane_of(const Tensor& t, int dy, int dx) {
        const long long plane = (long long)wrap(dy, t.planes_y) * t.planes_x + wrap(dx, t.planes_x);
        return plane * t.height * t.width;
    }

    void sum(const Step& step) {
        const Tensor &a = tensors_[step.left], &b = tensors_[step.right], &c = tensors_[step.target];
        for (int dy = 0; dy < c.planes_y; ++dy)
            for (int dx = 0; dx < c.planes_x; ++dx)
                add(step, entry(step.left, plane_of(a, dy, dx)),
                    entry(step.right, plane_of(b, dy, dx)),
                    entry(step.target, plane_of(c, dy, dx)), c.height * c.width);
    }

    static void add(const Step& step, const T* a, const T* b, T* c, int count) {
        const V wa = splat<V>(T(step.left_weight)), wb = splat<V>(T(step.right_weight));
        for (int p = 0; p < count * STRIDE; p += STRIDE) {
            store(c + p, wa * load(a + p) + wb * load(b + p));
            if (!TANGENT) continue;
            V t = splat<V>(T(0));
            if (step.left_tangent) t += wa * load(a + p + N);
            if (step.right_tangent) t += wb * load(b + p + N);
            store(c + p + N, t);
        }
    }

    // --- a stage, plane by plane

    void run(const Stage& stage) {
        stage_ = &stage;
        found_equal_ = false;
        const Tensor& target = tensors_[stage.target];
        std::memset(entry(stage.target, 0), 0, entries(target) * STRIDE * sizeof(T));
        if (Left::OWN) offsets(0, 0, 0);
        // Bands of as many dy as a pool joins: their planes go to the same pooled planes, one dx
        // after the other, while those are in the cache.
        const int band = stage.end == END_POOL ? stage.window_y : 1;
        for (int dy = -stage.reach_y; dy <= stage.reach_y;) {
            const int next = dy + band - wrap(dy % band, band);
            offsets(dy, next - 1 < stage.reach_y ? next - 1 : stage.reach_y, stage.reach_x);
            dy = next;
        }
    }

    // Offsets dy from `first` to `last`, dx from -reach to reach. Means are summed plane by plane,
    // band by band: short sums keep float32 exact.
    void offsets(int first, int last, int reach) {
        V mean[2] = {};
        for (int dx = -reach; dx <= reach; ++dx) {
            for (int dy = first; dy <= last; ++dy) {
                const bool equal = Left::OWN && dy == 0 && dx == 0;
                if (equal && found_equal_) continue;
                exact_ = equal;
                plane(dy, dx, mean);
                found_equal_ |= equal;
            }
        }
        if (stage_->end == END_MEAN) add_mean(mean);
    }

    void add_mean(const V* mean) {
        T* result = entry(stage_->target, 0);
        const V scale = splat<V>(T(stage_->scale));
        store(result, load(result) + mean[0] * scale);
        if (TANGENT) store(result + N, load(result + N) + mean[1] * scale);
    }

    void plane(int dy, int dx, V* mean) {
        begin_plane(dy, dx);
        const int last = stage_->operations;
        V sum[2] = {};
        if (stage_->end == END_POOL) aim(dx);
        for (int y = y_[last].begin; y < y_[last].end; ++y) {
            const bool two = stage_->end == END_POOL && same_window(dy, y);
            need(last, y + two);
            const T* values = row(last, y);
            if (two) pool<2>(values, row(last, y + 1), dy, y), ++y;
            else if (stage_->end == END_POOL) pool<1>(values, values, dy, y);
            else if (stage_->end == END_TENSOR) keep(values, dy, dx, y);
            else add_row(values, x_[last], sum);
        }
        mean[0] += sum[0], mean[1] += sum[1];
    }

    static Span overlap(int size, int offset) {
        return {offset < 0 ? -offset : 0, offset < 0 ? size : size - offset};
    }

    void begin_plane(int dy, int dx) {
        const Stage& s = *stage_;
        dy_[0] = dy * s.stride_y, dx_[0] = dx * s.stride_x;
        y_[0] = overlap(s.height, dy_[0]), x_[0] = overlap(s.width, dx_[0]);
        done_[0] = y_[0].begin;
        for (int k = 0; k < s.operations; ++k) {
            const Operation& op = operations_[s.first + k];
            dy_[k + 1] = dy * op.y.scale, dx_[k + 1] = dx * op.x.scale;
            y_[k + 1] = overlap(op.y.out, dy_[k + 1]), x_[k + 1] = overlap(op.x.out, dx_[k + 1]);
            done_[k + 1] = y_[k + 1].begin;
        }
        if (s.source != IMAGES) source_ = entry(s.source, plane_of(tensors_[s.source], dy_[0], dx_[0]));
    }

    // --- what leaves a stage

    // For every x the pooled entry's position within a row of pooled offsets, or -1.
    void aim(int dx) {
        const Stage& s = *stage_;
        const Span x = x_[s.operations];
        for (int k = x.begin; k < x.end; ++k) {
            const int left = k / s.window_x, right = (k + dx) / s.window_x;
            const int offset = right - left, reach = tensors_[s.target].reach_x;
            const bool kept = left < s.target_width && right < s.target_width
                && -reach <= offset && offset <= reach;
            const int plane = wrap(offset, tensors_[s.target].planes_x);
            targets_[k] = kept ? (plane * s.target_height) * s.target_width + left : -1;
        }
    }

    // Whether rows y and y + 1 go to the same pooled entries.
    bool same_window(int dy, int y) const {
        const int window = stage_->window_y;
        return y + 1 < y_[stage_->operations].end && (y + 1) % window && (y + 1 + dy) % window;
    }

    // Add one or two rows to the pooled entries; what goes to the same one is summed before.
    template <int ROWS> void pool(const T* values, const T* more, int dy, int y) {
        const Stage& s = *stage_;
        const Tensor& t = tensors_[s.target];
        const int left = y / s.window_y, right = (y + dy) / s.window_y, offset = right - left;
        if (left >= s.target_height || right >= s.target_height) return;
        if (offset < -t.reach_y || offset > t.reach_y) return;
        const long long plane = (long long)wrap(offset, t.planes_y) * t.planes_x;
        T* base = entry(s.target, (plane * s.target_height + left) * s.target_width);
        const bool tangent = TANGENT && s.last_tangent;
        auto value = [&](long p) HPCNK_LAMBDA {
            return ROWS == 2 ? load(values + p) + load(more + p) : load(values + p);
        };
        const long end = x_[s.operations].end;
        for (long k = x_[s.operations].begin; k < end; ++k) {
            const int target = targets_[k];
            V sum_s = value(k * STRIDE), sum_t = tangent ? value(k * STRIDE + N) : sum_s;
            while (k + 1 < end && targets_[k + 1] == target) {
                ++k;
                sum_s += value(k * STRIDE);
                if (tangent) sum_t += value(k * STRIDE + N);
            }
            if (target < 0) continue;
            T* to = base + (long long)target * STRIDE;
            store(to, load(to) + sum_s);
            if (tangent) store(to + N, load(to + N) + sum_t);
        }
    }

    void keep(const T* values, int dy, int dx, int y) {
        const Tensor& t = tensors_[stage_->target];
        const Span x = x_[stage_->operations];
        T* to = entry(stage_->target, plane_of(t, dy, dx) + (long long)y * t.width);
        std::memcpy(to + x.begin * STRIDE, values + x.begin * STRIDE,
                    (x.end - x.begin) * STRIDE * sizeof(T));
    }

    void add_row(const T* values, Span x, V* sum) {
        constexpr int SHORT = 32;  // entries that are summed before they join a longer sum
        for (int begin = x.begin; begin < x.end; begin += SHORT) {
            V part[2] = {};
            for (int k = begin; k < begin + SHORT && k < x.end; ++k) {
                part[0] += load(values + k * STRIDE);
                if (TANGENT && stage_->last_tangent) part[1] += load(values + k * STRIDE + N);
            }
            sum[0] += part[0], sum[1] += part[1];
        }
    }

    // --- rows on demand

    T* row(int buffer, int y) {
        if (buffer == 0) {
            const Stage& s = *stage_;
            if (s.source != IMAGES) return source_ + (long long)y * s.width * STRIDE;
            return buffers_ + (s.place + (long long)(y & s.ring) * s.width) * STRIDE;
        }
        const Operation& op = operations_[stage_->first + buffer - 1];
        return buffers_ + (op.place + (long long)(y & op.ring) * op.x.out) * STRIDE;
    }

    // Make all rows of a buffer up to row y.
    void need(int buffer, int y) {
        if (y >= y_[buffer].end) y = y_[buffer].end - 1;
        if (buffer == 0) {
            if (stage_->source != IMAGES) return;
            for (; done_[0] <= y; ++done_[0]) products(done_[0]);
            return;
        }
        const Operation& op = operations_[stage_->first + buffer - 1];
        for (; done_[buffer] <= y; ++done_[buffer]) {
            const int next = done_[buffer];
            need(op.input, next * op.y.stride - op.y.pad + op.y.filter - 1);
            if (op.plus != NOTHING) need(op.plus, next);
            compute(op, buffer, next);
        }
    }

    // S0: scalar products of the pixels' channels.
    void products(int y) {
        const int channels = program_.channels;
        if (channels == 3) products<3>(y, channels);
        else if (channels == 1) products<1>(y, channels);
        else products<0>(y, channels);
    }

    template <int CHANNELS> void products(int y, int channels) {
        const Stage& s = *stage_;
        const long pixels = program_.pixels;
        const long left = (long)y * s.width, right = (long)(y + dy_[0]) * s.width + dx_[0];
        const T* l = pair_.left_x + left * (Left::OWN ? N : 1);
        const T* r = pair_.right_x + right * N;
        T* out = row(0, y);
        const long end = x_[0].end;
        for (long x = x_[0].begin; x < end; ++x) {
            V sum = splat<V>(T(0));
            HPCNK_UNROLL
            for (long c = 0; c < (CHANNELS ? CHANNELS : channels); ++c)
                sum += Left::at(l + c * pixels * (Left::OWN ? N : 1), x)
                    * load(r + (c * pixels + x) * N);
            store(out + x * STRIDE, sum);
        }
    }

    void compute(const Operation& op, int buffer, int y) {
        const T* rows[MAX_FILTER];
        Inputs<T> in{rows, 0, x_[op.input], nullptr};
        const int first = y * op.y.stride - op.y.pad;
        for (int k = 0; k < op.y.filter; ++k) {
            const int source = first + k;
            if (source < y_[op.input].begin || source >= y_[op.input].end) continue;
            rows[in.count++] = row(op.input, source);
        }
        if (op.plus != NOTHING) in.plus = row(op.plus, y);
        T* out = row(buffer, y);
        if (exact_) {
            any_row<T, TANGENT, POINT_NONE, Left>(op, in, x_[buffer], Factors<T>{}, sums_, out);
            if constexpr (Left::OWN) find(op, buffer, y, out);
            return;
        }
        const Factors<T> factors = factors_at(op, buffer, y);
        if (!op.conv3_relu) any(op, in, x_[buffer], factors, out);
        else if (in.count == 3) conv3<3>(op, in, factors, out);
        else if (in.count == 2) conv3<2>(op, in, factors, out);
        else conv3<1>(op, in, factors, out);
    }

    Factors<T> factors_at(const Operation& op, int buffer, int y) const {
        Factors<T> factors{};
        const long long left = (long long)y * op.x.out;
        const long long right = (long long)(y + dy_[buffer]) * op.x.out + dx_[buffer];
        const int count = factor_count(op.point);
        for (int k = 0; k < count; ++k) {
            const long long place = op.factor + (long long)k * op.pixels;
            factors.left[k] = pair_.left_factors + (place + left) * (Left::OWN ? N : 1);
            factors.right[k] = pair_.right_factors + (place + right) * pair_.right_stride;
        }
        return factors;
    }

    template <int ROWS>
    void conv3(const Operation& op, const Inputs<T>& in, const Factors<T>& factors, T* out) {
        if (TANGENT && op.input_tangent)
            conv3_relu<T, TANGENT, TANGENT, ROWS, Left>(op, in, factors, out);
        else
            conv3_relu<T, TANGENT, false, ROWS, Left>(op, in, factors, out);
    }

    void any(const Operation& op, const Inputs<T>& in, Span x, const Factors<T>& f, T* out) {
        switch (op.point) {
            case POINT_RELU: return any_row<T, TANGENT, POINT_RELU, Left>(op, in, x, f, sums_, out);
            case POINT_ERF: return any_row<T, TANGENT, POINT_ERF, Left>(op, in, x, f, sums_, out);
            case POINT_GELU: return any_row<T, TANGENT, POINT_GELU, Left>(op, in, x, f, sums_, out);
            case POINT_LAYER_NORM:
                return any_row<T, TANGENT, POINT_LAYER_NORM, Left>(op, in, x, f, sums_, out);
            default: return any_row<T, TANGENT, POINT_NONE, Left>(op, in, x, f, sums_, out);
        }
    }

    // Equal pixels of rows with themselves: note the variances, make the factors, go on exactly.
    void find(const Operation& op, int buffer, int y, T* out) {
        if (op.point == POINT_NONE) return;
        const int count = factor_count(op.point);
        for (int x = x_[buffer].begin; x < x_[buffer].end; ++x) {
            const long long pixel = (long long)y * op.x.out + x;
            for (int lane = 0; lane < N; ++lane) {
                T* entry = out + x * STRIDE + lane;
                double f[MAX_FACTORS], unused = 0.0;
                found_->variances[(op.variance + pixel) * N + lane] = *entry;
                factors_of(op.point, *entry, found_->tiny, f);
                for (int k = 0; k < count; ++k)
                    found_->factors[(op.factor + (long long)k * op.pixels + pixel) * N + lane] = f[k];
                exact(op.point, *entry, TANGENT ? entry[N] : unused);
            }
        }
    }

    static constexpr int MAX_FILTER = 1024;
    const Program& program_;
    const Step* steps_;
    const Stage* stages_;
    const Operation* operations_;
    const Tensor* tensors_;
    T *buffers_, *tensor_data_, *sums_;
    int* targets_;
    Pair<T> pair_;
    const Found* found_;
    const Stage* stage_;
    T* source_ = nullptr;
    bool exact_ = false, found_equal_ = false;  // rows with themselves: equal pixels come first
    int dy_[MAX_OPERATIONS + 1], dx_[MAX_OPERATIONS + 1], done_[MAX_OPERATIONS + 1];
    Span y_[MAX_OPERATIONS + 1], x_[MAX_OPERATIONS + 1];
};

}  // namespace hpcnk
