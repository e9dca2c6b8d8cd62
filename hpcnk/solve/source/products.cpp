// Both products of one tile with many columns: entry points for hpcnk/solve/products.py.
//
// A block of the tile is widened to doubles once, in the second-level cache, and serves both
// products while it is there; meanwhile the next one is widened, bit by bit. Lanes lie along the tile's rows, never along the vectors' columns, so
// no number of columns wastes lanes, and a column's sums are in the same order whatever is beside
// it. Columns go in panels of at most six: as many sums as registers hold and as hide the latency.
#include "panels.hpp"

using namespace hpcnk;

namespace {

constexpr int PANEL = 6;  // the most columns of a panel
constexpr int TOGETHER = 54;  // the most columns whose vectors and sums are at work

// The columns [start, start + count) of a panel.
struct Panel {
    long long start;
    int count;
};

// Columns in panels as even as can be: four to six of each but where there are fewer than eight.
class Panels {
  public:
    explicit Panels(long long columns)
        : count((columns + PANEL - 1) / PANEL), least_(columns / count), larger_(columns % count) {}
    Panel operator[](long long k) const {
        const long long before = k < larger_ ? k : larger_;
        return {k * least_ + before, int(least_ + (k < larger_))};
    }
    const long long count;

  private:
    const long long least_, larger_;
};

template <class T> struct Tile {
    const T* entries;
    long long stride, height, width;
    bool across, down;  // which products: of the tile with v_columns, of its transpose with v_rows
    long long chunks() const { return (width + LINE - 1) / LINE; }
};

struct Matrix {
    double* data;
    long long stride;
};

// A tile and its place in the matrix: an address, and numbers of entries.
struct Placed {
    long long entries, stride, height, width, row, column, columns;
};

// Working memory. Every part has the columns of a panel side by side, in the inner loops' order.
struct Memory {
    double *blocks, *v_rows, *row_sums, *v_columns, *column_sums;
    static long long size(long long chunks, long long columns) {
        return 2 * BLOCK + columns * (ROWS + ROWS * VECTOR + 2 * chunks * LINE) + LINE;
    }
    Memory(double* start, long long chunks, long long columns) {
        const auto misplaced = reinterpret_cast<uintptr_t>(start) / sizeof(double) % LINE;
        blocks = start + (LINE - misplaced) % LINE;
        row_sums = blocks + 2 * BLOCK;
        v_columns = row_sums + columns * ROWS * VECTOR;
        column_sums = v_columns + columns * chunks * LINE;
        v_rows = column_sums + columns * chunks * LINE;
    }
};

// Calls work(integral_constant<int, N>) for the panel's number of columns.
template <class Work> void with_count(int count, Work work) {
    switch (count) {
        case 1: return work(std::integral_constant<int, 1>());
        case 2: return work(std::integral_constant<int, 2>());
        case 3: return work(std::integral_constant<int, 3>());
        case 4: return work(std::integral_constant<int, 4>());
        case 5: return work(std::integral_constant<int, 5>());
        default: return work(std::integral_constant<int, 6>());
    }
}

// V's rows [0, rows) from `v`, as [row][column of the panel].
void pack_rows(const Panels& panels, const double* v, long long stride, long long rows, double* out) {
    for (long long k = 0; k < panels.count; ++k) {
        const Panel p = panels[k];
        double* to = out + p.start * ROWS;
        for (long long i = 0; i < rows; ++i)
            for (int n = 0; n < p.count; ++n) *to++ = v[i * stride + p.start + n];
    }
}

// V's rows as [chunk][column of the panel][lane], with zeros after the last.
void pack_lanes(const Panels& panels, Matrix v, long long rows, long long chunks, double* out) {
    for (long long k = 0; k < panels.count; ++k) {
        const Panel p = panels[k];
        with_count(p.count, [&](auto count) {
            constexpr int N = count();
            double* to = out + p.start * chunks * LINE;
            for (long long j = 0; j < rows; ++j)
                for (int n = 0; n < N; ++n)
                    to[(j / LINE * N + n) * LINE + j % LINE] = v.data[j * v.stride + p.start + n];
            for (long long j = rows; j < chunks * LINE; ++j)
                for (int n = 0; n < N; ++n) to[(j / LINE * N + n) * LINE + j % LINE] = 0;
        });
    }
}

// Adds sums as [chunk][column of the panel][lane] to a matrix.
void add_lanes(const Panels& panels, const double* sums, long long rows, long long chunks, Matrix out) {
    for (long long k = 0; k < panels.count; ++k) {
        const Panel p = panels[k];
        with_count(p.count, [&](auto count) {
            constexpr int N = count();
            const double* from = sums + p.start * chunks * LINE;
            for (long long j = 0; j < rows; ++j)
                for (int n = 0; n < N; ++n)
                    out.data[j * out.stride + p.start + n] += from[(j / LINE * N + n) * LINE + j % LINE];
        });
    }
}

// Adds sums as [row][column of the panel][lane of a vector] to a matrix.
void add_rows(const Panels& panels, const double* sums, long long rows, double* out, long long stride) {
    for (long long k = 0; k < panels.count; ++k) {
        const Panel p = panels[k];
        const double* from = sums + p.start * ROWS * VECTOR;
        for (long long i = 0; i < rows; ++i)
            for (int n = 0; n < p.count; ++n, from += VECTOR)
                out[i * stride + p.start + n] += sum_of_lanes(from);
    }
}

template <class T> class Product {
  public:
    Product(const Tile<T>& tile, long long columns, double* memory)
        : tile_(tile), panels_(columns), chunks_(tile.chunks()), columns_(columns),
          memory_(memory, chunks_, columns) {}

    void run(Matrix v_rows, Matrix v_columns, Matrix rows_out, Matrix columns_out) {
        if (tile_.across) pack_lanes(panels_, v_columns, tile_.width, chunks_, memory_.v_columns);
        if (tile_.down) clear(memory_.column_sums, columns_ * chunks_ * LINE);
        Widening<T>(source({0, 0}), source(after({0, 0})), memory_.blocks).finish();
        for (long long i = 0; i < tile_.height; i += ROWS) {
            const long long rows = least(ROWS, tile_.height - i);
            if (tile_.down)
                pack_rows(panels_, v_rows.data + i * v_rows.stride, v_rows.stride, rows, memory_.v_rows);
            if (tile_.across) clear(memory_.row_sums, columns_ * ROWS * VECTOR);
            for (long long chunk = 0; chunk < chunks_; chunk += CHUNKS) block({i, chunk});
            if (tile_.across)
                add_rows(panels_, memory_.row_sums, rows, rows_out.data + i * rows_out.stride,
                         rows_out.stride);
        }
        if (tile_.down)
            add_lanes(panels_, memory_.column_sums, tile_.width, chunks_, columns_out);
    }

  private:
    struct Place {
        long long row, chunk;
    };
    Place after(Place p) const {
        return p.chunk + CHUNKS < chunks_ ? Place{p.row, p.chunk + CHUNKS} : Place{p.row + ROWS, 0};
    }
    // The block at a place; without rows below the tile.
    Source<T> source(Place p) const {
        const long long rows = least(ROWS, tile_.height - p.row), first = p.chunk * LINE;
        if (rows <= 0) return {tile_.entries, tile_.stride, 0, 0};
        return {tile_.entries + p.row * tile_.stride + first, tile_.stride, int(rows),
                int(least(CHUNKS * LINE, tile_.width - first))};
    }

    // Both products of the block at a place; meanwhile the next one is widened.
    void block(Place place) {
        const int rows = int(least(ROWS, tile_.height - place.row));
        const int chunks = int(least(CHUNKS, chunks_ - place.chunk));
        const double* entries = memory_.blocks + turn_ * BLOCK;
        turn_ = 1 - turn_;
        Widening<T> next(source(after(place)), source(after(after(place))),
                         memory_.blocks + turn_ * BLOCK);
        const auto [in_rows, in_columns] = steps(rows, chunks);
        // The second pass bears it better, if it is long enough: four steps for a line of 64 bytes.
        const bool second = in_columns * 64 >= 4LL * rows * chunks * LINE * (long long)sizeof(T);
        if (!second) next.spread(in_rows + in_columns);
        for (long long k = 0; k < panels_.count && tile_.across; ++k) {
            const Panel p = panels_[k];
            const double* v = memory_.v_columns + (p.start * chunks_ + p.count * place.chunk) * LINE;
            double* sums = memory_.row_sums + p.start * ROWS * VECTOR;
            with_count(p.count, [&](auto count) {
                row_panel<count()>(entries, rows, chunks, v, sums, next);
            });
        }
        if (second) next.spread(in_columns);
        for (long long k = 0; k < panels_.count && tile_.down; ++k) {
            const Panel p = panels_[k];
            const double* v = memory_.v_rows + p.start * ROWS;
            double* sums = memory_.column_sums + (p.start * chunks_ + p.count * place.chunk) * LINE;
            with_count(p.count, [&](auto count) {
                column_panel<count()>(entries, rows, chunks, v, sums, next);
            });
        }
        next.finish();
    }

    struct Steps {
        long long rows, columns;
    };
    // Steps of all inner loops for one block: those of A times v, and of its transpose.
    Steps steps(int rows, int chunks) const {
        Steps sum{0, 0};
        for (long long k = 0; k < panels_.count; ++k) {
            const int n = panels_[k].count;
            if (tile_.across) sum.rows += row_steps(n, rows, chunks);
            if (tile_.down) sum.columns += column_steps(n, rows, chunks);
        }
        return sum;
    }

    const Tile<T> tile_;
    const Panels panels_;
    const long long chunks_, columns_;
    const Memory memory_;
    int turn_ = 0;  // which of the two blocks
};

// Some columns at a time: more would push each other's vectors and sums out of the second cache.
template <class T>
void product(const Tile<T>& tile, long long columns, Matrix v_rows, Matrix v_columns,
             Matrix rows_out, Matrix columns_out, double* memory) {
    const long long groups = (columns + TOGETHER - 1) / TOGETHER;
    for (long long k = 0; k < groups; ++k) {
        const long long start = columns * k / groups, stop = columns * (k + 1) / groups;
        const auto part = [&](Matrix m) { return Matrix{m.data + start, m.stride}; };
        Product<T>(tile, stop - start, memory)
            .run(part(v_rows), part(v_columns), part(rows_out), part(columns_out));
    }
}

}  // namespace

#define HPCNK_PRODUCT(T, name)                                                                      \
    void hpcnk_product_##name(const T* entries, long long stride, long long height,                 \
                              long long width, int across, int down, long long columns,             \
                              double* v_rows, long long v_rows_stride, double* v_columns,           \
                              long long v_columns_stride, double* rows_out,                         \
                              long long rows_out_stride, double* columns_out,                       \
                              long long columns_out_stride, double* memory) {                       \
        product<T>({entries, stride, height, width, across != 0, down != 0}, columns,               \
                   {v_rows, v_rows_stride}, {v_columns, v_columns_stride},                          \
                   {rows_out, rows_out_stride}, {columns_out, columns_out_stride}, memory);         \
    }

// One tile after the other of the upper triangle of a matrix, each with the leading `columns` of v.
#define HPCNK_PRODUCTS(T, name)                                                                     \
    void hpcnk_products_##name(const Placed* tiles, long long count, double* v, long long v_stride, \
                               double* out, long long out_stride, double* memory) {                 \
        for (const Placed* t = tiles; t < tiles + count; ++t) {                                     \
            double *v_rows = v + t->row * v_stride, *v_columns = v + t->column * v_stride;          \
            double *rows = out + t->row * out_stride, *below = out + t->column * out_stride;        \
            product<T>({reinterpret_cast<const T*>(t->entries), t->stride, t->height, t->width,     \
                        true, t->row != t->column},                                                 \
                       t->columns, {v_rows, v_stride}, {v_columns, v_stride}, {rows, out_stride},   \
                       {below, out_stride}, memory);                                                \
        }                                                                                           \
    }

extern "C" {
// Doubles of the working memory for a tile of this width and so many columns.
long long hpcnk_memory(long long width, long long columns) {
    return Memory::size((width + LINE - 1) / LINE, least(columns, TOGETHER));
}
HPCNK_PRODUCT(float, float32)
HPCNK_PRODUCT(double, float64)
HPCNK_PRODUCTS(float, float32)
HPCNK_PRODUCTS(double, float64)
}
