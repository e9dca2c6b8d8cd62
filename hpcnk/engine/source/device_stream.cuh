// The fast stage on the GPU: conv 3 and relu layers only, one row of pixels in the lanes of a warp.
//
// Offsets are cyclic: lane x holds left pixel x and right pixel (x + dx) mod width, so the offsets
// dx and dx - width fill all lanes together; where the right pixel wraps there is a wall, through
// which no filter reaches. In y likewise. A group of lanes goes through `chunk` planes as one stream
// of rows. Layer l works one row behind layer l - 1 and keeps, in registers, what its next two rows
// need of the rows before. Walls and edges are factors of 0 or 1, so a neighbour's sum costs no more
// than a multiply-add.
#pragma once

#include "formulas.cuh"
#include "device_work.cuh"

namespace hpcnk {

// S: Shape, or on the GPU a type whose members have the same names and are constants.
template <class T, class S> class Stream {
    using N = Number<T>;

  public:
    HPCNK_INLINE Stream(const S& shape, const Work<T>& work, int warp) : s(shape), w(work) {
        const int wide = s.width / s.columns, groups = WARP / wide;
        const Whole lane = lane_index(), group = lane / wide;
        const int chunks = int((w.count * s.planes_y + s.chunk - 1) / s.chunk);
        const Whole number = group + warp * groups;
        live = (group < groups) & (number < s.planes_x * chunks);
        const Whole unit = select(live, number, whole(0));
        family = unit % s.planes_x;
        first_item = unit / s.planes_x * s.chunk;
        x0 = (lane - group * wide) * s.columns;
        const Whole dx = cyclic(family, s.planes_x, s.reach_x, s.width);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            const Whole x = x0 + j, moved = x + dx;
            xr[j] = moved - select(moved >= s.width, whole(s.width), whole(0));
            open[j] = flag((x > 0) & (xr[j] > 0));
        }
        const Whole next = x0 + s.columns, moved = next + dx;
        open[s.columns] = flag((next < s.width) & (moved != s.width));
        begin();
    }

    HPCNK_INLINE void run() {
        // After the last plane as many rows more as layers: what is left in flight comes out.
        const int items = s.chunk + (s.layers + s.height - 1) / s.height;
        for (int item = 0; item < items; ++item) {
            start_item(item);
            const int more = s.layers - (item - s.chunk) * s.height;
            const int rows = more < s.height ? more : s.height;
            HPCNK_UNROLL_ROWS
            for (int y = 0; y < rows; ++y) {
                row(y);
                leave();
            }
        }
    }

  private:
    static HPCNK_INLINE N flag(Whole c) { return select(c, splat<N>(1.0), splat<N>(0.0)); }

    static HPCNK_INLINE Whole cyclic(Whole number, int planes, int reach, int size) {
        return select(number <= reach, number, number - planes + size);
    }

    HPCNK_INLINE void begin() {
        HPCNK_UNROLL
        for (int l = 0; l <= s.layers; ++l) {
            joined[l] = splat<N>(0.0);
            left[l] = place(w.left, whole(0), 0, whole(0));
            HPCNK_UNROLL
            for (int j = 0; j < s.columns; ++j) right[l][j] = place(w.right, whole(0), 0, whole(0));
        }
        HPCNK_UNROLL
        for (int l = 0; l < s.layers; ++l) {
            HPCNK_UNROLL
            for (int j = 0; j < s.columns; ++j)
                one_s[l][j] = two_s[l][j] = one_t[l][j] = two_t[l][j] = splat<N>(0.0);
        }
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) sum_s[j] = sum_t[j] = splat<N>(0.0);
        end_y = -s.layers, end_item = 0;
        if (s.end == END_POOL) aim();
    }

    // --- a new plane: an item is a pair and an offset in y

    struct Item {
        Whole pair, number, dy, on;
    };

    HPCNK_INLINE Item item_of(int k) const {
        const int all = int(w.count) * s.planes_y;
        const Whole wanted = first_item + k;
        const Whole found = select(wanted < all, wanted, whole(all - 1));
        Item item;
        item.pair = found / s.planes_y;
        item.number = found - item.pair * s.planes_y;
        item.dy = cyclic(item.number, s.planes_y, s.reach_y, s.height);
        item.on = live & (wanted < all);
        return item;
    }

    HPCNK_INLINE void start_item(int k) {
        now = item_of(k);
        Whole row_left, row_right;
        rows_at(now.pair, row_left, row_right);
        left_row = place(w.left, row_left, w.length, 2 * x0);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j)
            right_row[j] = place(w.right, row_right, w.length, 2 * xr[j]);
        if (!s.images) source = spot(w.tensors + w.source_place, now.pair, pair_entries());
    }

    HPCNK_INLINE void rows_at(Whole pair, Whole& row_left, Whole& row_right) const {
        each_lane(pair, [&](int p, int& a, int& b) {
            const Rows rows = rows_of(w.first + p, w.columns, w.upper);
            a = rows.left, b = rows.right;
        }, row_left, row_right);
    }

    // --- one row through all layers

    HPCNK_INLINE void row(int y) {
        Whole yr = y + now.dy;
        yr = yr - select(yr >= s.height, whole(s.height), whole(0));
        joined[0] = flag((yr > 0) & whole(y > 0));
        left[0] = moved(left_row, whole(y * (2 * s.width)));
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) right[0][j] = moved(right_row[j], yr * (2 * s.width));
        if (s.images) read_images();
        else read_tensor(y, yr);
        HPCNK_UNROLL
        for (int l = 0; l < s.layers; ++l) layer(l);
        HPCNK_UNROLL
        for (int l = s.layers; l > 0; --l) {
            joined[l] = joined[l - 1];
            left[l] = left[l - 1];
            HPCNK_UNROLL
            for (int j = 0; j < s.columns; ++j) right[l][j] = right[l - 1][j];
        }
    }

    HPCNK_INLINE void read_images() {
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            v_s[j] = v_t[j] = splat<N>(0.0);
            HPCNK_UNROLL_CHANNELS
            for (int c = 0; c < s.channels; c += 2) {
                N a[2], b[2];
                load_two(left[0], c * s.height * s.width + 2 * j, a);
                load_two(right[0][j], c * s.height * s.width, b);
                v_s[j] = v_s[j] + a[0] * b[0];
                if (c + 1 < s.channels) v_s[j] = v_s[j] + a[1] * b[1];
            }
        }
    }

    // Entries whose offset is not wanted read another plane's: finite numbers that go nowhere.
    HPCNK_INLINE void read_tensor(int y, Whole yr) {
        const Whole oy = plane_of(yr - y, s.source_planes_y);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            const Whole x = x0 + j, ox = plane_of(xr[j] - x, s.source_planes_x);
            const Whole at = ((oy * s.source_planes_x + ox) * s.height + y) * s.width + x;
            v_s[j] = load_at(source, at);
            v_t[j] = splat<N>(0.0);
            if (s.source_tangent) v_t[j] = load_at(shifted(source, w.tensor_entries), at);
        }
    }

    static HPCNK_INLINE Whole plane_of(Whole offset, int planes) {
        const Whole plane = select(offset < 0, offset + planes, offset);
        return select((plane < 0) | (plane >= planes), whole(0), plane);
    }

    HPCNK_INLINE void layer(int l) {
        const bool has_tangent = s.tangent && (l > 0 || s.source_tangent);
        box(l, v_s, one_s[l], two_s[l]);
        if (has_tangent) box(l, v_t, one_t[l], two_t[l]);
        const int factors = s.first_factor + l * (2 * s.height * s.width);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            v_s[j] = v_s[j] * w.weight[l] + w.bias[l];
            if (s.tangent) v_t[j] = has_tangent ? v_t[j] * w.weight[l] + v_s[j] : v_s[j];
            N a[2], b[2];
            load_two(left[l + 1], factors + 2 * j, a);
            load_two(right[l + 1][j], factors, b);
            if (s.tangent) relu<true, T>(v_s[j], v_t[j], a, b);
            else relu<false, T>(v_s[j], v_t[j], a, b);
        }
    }

    // In: a row. Out: the filter's sum of the row before it, all three rows being known now.
    HPCNK_INLINE void box(int l, N* v, N* one, N* two) {
        N sum[MAX_COLUMNS];
        const N before = up(v[s.columns - 1]), after = down(v[0]);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            sum[j] = v[j] + open[j] * (j ? v[j ? j - 1 : 0] : before);
            sum[j] = sum[j] + open[j + 1] * (j + 1 < s.columns ? v[j + 1 < s.columns ? j + 1 : 0] : after);
        }
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            v[j] = two[j] + joined[l] * sum[j];
            two[j] = sum[j] + joined[l] * one[j];
            one[j] = sum[j];
        }
    }

    // --- what leaves the stage

    HPCNK_INLINE void leave() {
        if (end_y == 0) start_end();
        if (end_y >= 0) {
            Whole yr = end_y + end.dy;
            yr = yr - select(yr >= s.height, whole(s.height), whole(0));
            if (s.end == END_POOL) pool(yr);
            else if (s.end == END_TENSOR) keep();
            else add(yr);
        }
        if (++end_y == s.height) {
            if (s.end == END_MEAN) put_sums();
            end_y = 0, ++end_item;
        }
    }

    HPCNK_INLINE void start_end() {
        end = s.layers < s.height ? now : item_of(end_item);
        if (s.end == END_MEAN) return;
        target = spot(w.tensors + w.target_place, end.pair, pair_entries());
    }

    HPCNK_INLINE long long pair_entries() const { return (1 + s.tangent) * w.tensor_entries; }

    HPCNK_INLINE void keep() {
        const Whole plane = end.number * s.planes_x + family;
        const Whole at = (plane * s.height + end_y) * s.width + x0;
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            store_at(target, at + j, v_s[j], end.on);
            if (s.tangent) store_at(shifted(target, w.tensor_entries), at + j, v_t[j], end.on);
        }
    }

    HPCNK_INLINE void add(Whole yr) {
        const Whole near_y = near(yr - end_y, s.reach_y, s.height);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            const N wanted = flag(near_y & near(xr[j] - (x0 + j), s.reach_x, s.width));
            sum_s[j] = sum_s[j] + wanted * v_s[j];
            if (s.tangent) sum_t[j] = sum_t[j] + wanted * v_t[j];
        }
    }

    static HPCNK_INLINE Whole near(Whole offset, int reach, int size) {
        return reach >= size - 1 ? whole(1) : within(offset, reach);
    }

    static HPCNK_INLINE Whole within(Whole offset, int reach) {
        return (offset <= reach) & (offset >= -reach);
    }

    HPCNK_INLINE void put_sums() {
        const Spot<T> sums = spot(w.sums, end.pair, (1 + s.tangent) * (long long)w.slots);
        const Whole slot = end.number * s.planes_x + family, on = end.on & (x0 == 0);
        store_at(sums, slot, group_sum(sum_s), on);
        if (s.tangent) store_at(sums, slot + w.slots, group_sum(sum_t), on);
    }

    HPCNK_INLINE N group_sum(N* values) {
        N sum = values[0];
        HPCNK_UNROLL
        for (int j = 1; j < s.columns; ++j) sum = sum + values[j];
        HPCNK_UNROLL
        for (int by = WARP / 2; by; by /= 2)
            sum = sum + flag(x0 + by * s.columns < s.width) * down(sum, by);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) values[j] = splat<N>(0.0);
        return sum;
    }

    // Rows and lanes of one window are added up before they go to the tensor; a window that the edge
    // cuts off adds up what is not its own, and goes nowhere. What follows from x:
    HPCNK_INLINE void aim() {
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            const Whole x = x0 + j, first = x / s.window_x, last = xr[j] / s.window_x;
            const Whole inside = x - first * s.window_x, inside_right = xr[j] - last * s.window_x;
            const Whole ox = last - first;
            put_x[j] = ((inside == 0) | (inside_right == 0)) & (first < s.target_width)
                & (last < s.target_width) & within(ox, s.target_reach_x);
            at_x[j] = select(ox < 0, ox + s.target_planes_x, ox) * (s.target_height * s.target_width)
                + first;
            HPCNK_UNROLL
            for (int k = 1; k < s.window_x; ++k)
                shared[k - 1][j] = flag((inside + k < s.window_x) & (inside_right + k < s.window_x));
        }
    }

    HPCNK_INLINE void pool(Whole yr) {
        const int top = end_y / s.window_y, inside = end_y - top * s.window_y;
        const Whole bottom = yr / s.window_y, inside_right = yr - bottom * s.window_y;
        const N same = flag((inside_right > 0) & whole(inside > 0));
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            sum_s[j] = v_s[j] + same * sum_s[j];
            if (s.tangent) sum_t[j] = v_t[j] + same * sum_t[j];
        }
        const Whole ends = (inside_right == s.window_y - 1) | whole(inside == s.window_y - 1);
        if (any(ends)) put_pooled(top, bottom, ends);
    }

    HPCNK_INLINE void put_pooled(int top, Whole bottom, Whole ends) {
        const Whole oy = bottom - top;
        // Where the windows leave nothing over, these tests are constants.
        const bool whole_windows = s.height % s.window_y == 0;
        const Whole on = end.on & ends
            & (whole(whole_windows) | (whole(top < s.target_height) & (bottom < s.target_height)))
            & near(oy, s.target_reach_y, s.target_height);
        const Whole plane = select(oy < 0, oy + s.target_planes_y, oy) * s.target_planes_x;
        const Whole row = (plane * s.target_height + top) * s.target_width;
        N all_s[MAX_COLUMNS], all_t[MAX_COLUMNS];
        window_sums(sum_s, all_s);
        if (s.tangent) window_sums(sum_t, all_t);
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) {
            const Whole put = on & put_x[j], at = row + at_x[j];
            add_at(target, at, all_s[j], put);
            if (s.tangent) add_at(shifted(target, w.tensor_entries), at, all_t[j], put);
        }
    }

    // For the first pixel of a window (of either image) the sum over those that share both windows.
    HPCNK_INLINE void window_sums(const N* values, N* all) {
        N moved[MAX_COLUMNS];
        HPCNK_UNROLL
        for (int j = 0; j < s.columns; ++j) moved[j] = all[j] = values[j];
        HPCNK_UNROLL
        for (int k = 1; k < s.window_x; ++k) {
            const N after = down(moved[0]);
            HPCNK_UNROLL
            for (int j = 0; j < s.columns; ++j) {
                moved[j] = j + 1 < s.columns ? moved[j + 1 < s.columns ? j + 1 : 0] : after;
                all[j] = all[j] + shared[k - 1][j] * moved[j];
            }
        }
    }

    const S s;
    const Work<T>& w;
    Whole live, family, first_item, x0, xr[MAX_COLUMNS];
    N open[MAX_COLUMNS + 1];  // 1 where pixel x - 1 is a neighbour of pixel x, else 0
    // Of the row that entered the stage l steps ago: 1 where the row before it is its neighbour, and
    // where its factors lie.
    N joined[MAX_LAYERS + 1];
    Place<T> left[MAX_LAYERS + 1], right[MAX_LAYERS + 1][MAX_COLUMNS];
    N one_s[MAX_LAYERS][MAX_COLUMNS], two_s[MAX_LAYERS][MAX_COLUMNS];  // sums of the last 1, 2 rows
    N one_t[MAX_LAYERS][MAX_COLUMNS], two_t[MAX_LAYERS][MAX_COLUMNS];
    N v_s[MAX_COLUMNS], v_t[MAX_COLUMNS];
    Place<T> left_row, right_row[MAX_COLUMNS];
    Spot<T> source, target;  // of the pair that enters, of the one that leaves
    Item now, end;  // entering and leaving the stage
    int end_y, end_item;
    N sum_s[MAX_COLUMNS], sum_t[MAX_COLUMNS];
    Whole put_x[MAX_COLUMNS], at_x[MAX_COLUMNS];  // of a pool
    N shared[MAX_WINDOW - 1][MAX_COLUMNS];
};

}  // namespace hpcnk
