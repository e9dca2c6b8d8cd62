// Both products of one tile with many columns: entry points for hpcnk/solve/products.py.
//
// A tile is taken in blocks of some rows and columns, each with one panel of the vectors' columns
// after the other, while the next block is fetched from memory. Lanes lie along the tile's rows,
// never along the vectors' columns, so no number of columns wastes lanes, and a column's sums are in
// the same order whatever is beside it.
#include "panels.hpp"

using namespace hpcnk;

namespace {

constexpr int TOGETHER = 52;  // the most columns whose vectors and sums are at work
constexpr int WIDENED = 7;  // the least panels for which a block of floats is widened once

// The columns [start, start + count) of a panel.
struct Range {
    long long start;
    int count;
};

// Columns in panels as even as can be.
class Panels {
  public:
    explicit Panels(long long columns)
        : count((columns + PANEL - 1) / PANEL), columns(columns), least_(columns / count),
          larger_(columns % count) {}
    Range operator[](long long k) const {
        const long long before = k < larger_ ? k : larger_;
        return {k * least_ + before, int(least_ + (k < larger_))};
    }
    // Calls of the inner loop for so many rows.
    long long calls(int rows) const {
        const int n = int(least_), more = n < PANEL ? n + 1 : n;
        return larger_ * groups(rows, more) + (count - larger_) * groups(rows, n);
    }
    const long long count, columns;

  private:
    static int groups(int rows, int n) { return rows / row_group(n) + rows % row_group(n); }
    const long long least_, larger_;
};

template <class T> struct Tile {
    const T* entries;
    long long stride, height, width;
    long long vectors() const { return (width + VECTOR - 1) / VECTOR; }
};

struct Matrix {
    double* data;
    long long stride;
    Matrix from(long long row) const { return {data + row * stride, stride}; }
};

// A tile and its place in the matrix: an address, and numbers of entries.
struct Placed {
    long long entries, stride, height, width, row, column, columns;
};

// Working memory. Every part has the columns of a panel side by side, in the inner loop's order.
struct Memory {
    double *wide, *row_sums, *v_columns, *column_sums, *v_rows;
    static long long size(long long vectors, long long columns) {
        return ROWS * WIDTH + columns * (ROWS + ROWS * VECTOR + 2 * vectors * VECTOR) + VECTOR;
    }
    Memory(double* start, long long vectors, long long columns) {
        const auto misplaced = reinterpret_cast<uintptr_t>(start) / sizeof(double) % VECTOR;
        wide = start + (VECTOR - misplaced) % VECTOR;  // a block in doubles
        row_sums = wide + ROWS * WIDTH;
        v_columns = row_sums + columns * ROWS * VECTOR;
        column_sums = v_columns + columns * vectors * VECTOR;
        v_rows = column_sums + columns * vectors * VECTOR;
    }
};

// Calls work(integral_constant<int, N>) for the panel's number of columns.
template <class Work> void with_count(int count, Work work) {
    switch (count) {
        case 1: return work(std::integral_constant<int, 1>());
        case 2: return work(std::integral_constant<int, 2>());
        case 3: return work(std::integral_constant<int, 3>());
        default: return work(std::integral_constant<int, PANEL>());
    }
}

// V's rows from `v`, as [row][column of the panel].
void pack_rows(const Panels& panels, Matrix v, long long rows, double* out) {
    for (long long k = 0; k < panels.count; ++k) {
        const Range p = panels[k];
        with_count(p.count, [&](auto count) {
            constexpr int N = count();
            double* to = out + p.start * ROWS;
            for (long long i = 0; i < rows; ++i, to += N)
                for (int n = 0; n < N; ++n) to[n] = v.data[i * v.stride + p.start + n];
        });
    }
}

// The place of a row's number as [vector][column of the panel][lane].
HPCNK_INLINE long long lane(long long row, int column, int columns) {
    return (row / VECTOR * columns + column) * VECTOR + row % VECTOR;
}

// V's rows as [vector][column of the panel][lane], with zeros after the last.
void pack_lanes(const Panels& panels, Matrix v, long long rows, long long vectors, double* out) {
    if (rows % VECTOR) clear(out, panels.columns * vectors * VECTOR);
    for (long long k = 0; k < panels.count; ++k) {
        const Range p = panels[k];
        with_count(p.count, [&](auto count) {
            constexpr int N = count();
            double* to = out + p.start * vectors * VECTOR;
            for (long long j = 0; j < rows; ++j)
                for (int n = 0; n < N; ++n)
                    to[lane(j, n, N)] = v.data[j * v.stride + p.start + n];
        });
    }
}

// Adds sums as [vector][column of the panel][lane] to a matrix.
void add_lanes(const Panels& panels, const double* sums, long long rows, long long vectors, Matrix out) {
    for (long long k = 0; k < panels.count; ++k) {
        const Range p = panels[k];
        with_count(p.count, [&](auto count) {
            constexpr int N = count();
            const double* from = sums + p.start * vectors * VECTOR;
            for (long long j = 0; j < rows; ++j)
                for (int n = 0; n < N; ++n)
                    out.data[j * out.stride + p.start + n] += from[lane(j, n, N)];
        });
    }
}

// Adds sums as [row][column of the panel][lane] to a matrix.
void add_rows(const Panels& panels, const double* sums, long long rows, Matrix out) {
    for (long long i = 0; i < rows; ++i)
        for (long long k = 0; k < panels.count; ++k) {
            const Range p = panels[k];
            double* to = out.data + i * out.stride + p.start;
            with_count(p.count, [&](auto count) {
                constexpr int N = count();
                double found[4];
                sums_of_lanes<N>(sums + (p.start * ROWS + i * N) * VECTOR, found);
                for (int n = 0; n < N; ++n) to[n] += found[n];
            });
        }
}

// The product of a tile with v_columns (ACROSS), of its transpose with v_rows (DOWN), or both.
template <bool ACROSS, bool DOWN, class T> class Product {
  public:
    Product(const Tile<T>& tile, long long columns, double* memory)
        : tile_(tile), panels_(columns), vectors_(tile.vectors()), memory_(memory, vectors_, columns) {}

    void run(Matrix v_rows, Matrix v_columns, Matrix rows_out, Matrix columns_out) {
        if (ACROSS) pack_lanes(panels_, v_columns, tile_.width, vectors_, memory_.v_columns);
        if (DOWN) clear(memory_.column_sums, panels_.columns * vectors_ * VECTOR);
        for (long long i = 0; i < tile_.height; i += ROWS) {
            const int rows = int(least(ROWS, tile_.height - i));
            if (DOWN) pack_rows(panels_, v_rows.from(i), rows, memory_.v_rows);
            strip(i, rows);
            if (ACROSS) add_rows(panels_, memory_.row_sums, rows, rows_out.from(i));
        }
        if (DOWN) add_lanes(panels_, memory_.column_sums, tile_.width, vectors_, columns_out);
    }

  private:
    // All blocks of some rows.
    void strip(long long i, int rows) {
        const T* start = tile_.entries + i * tile_.stride;
        const long long whole = tile_.width / VECTOR, most = WIDTH / VECTOR;
        for (long long first = 0; first < whole; first += most) {
            const bool last = first + most >= whole;
            const long long below = least(ROWS, tile_.height - i - rows);
            const Fetch<T> next{last ? start + rows * tile_.stride : start + (first + most) * VECTOR,
                                tile_.stride, int(last ? below : rows)};
            block(start + first * VECTOR, tile_.stride, rows, first, least(most, whole - first), next);
        }
        if (whole < vectors_) narrow(start + whole * VECTOR, rows, whole);
    }

    // The columns that are less than a vector: a copy of them with zeros after the last.
    void narrow(const T* entries, int rows, long long first) {
        T copy[ROWS * VECTOR] = {};
        for (int r = 0; r < rows; ++r)
            for (long long k = 0; k < tile_.width % VECTOR; ++k)
                copy[r * VECTOR + k] = entries[r * tile_.stride + k];
        block(copy, VECTOR, rows, first, 1, {copy, VECTOR, 0});
    }

    // A block whose columns begin with vector `first`, times all panels; meanwhile `next` is fetched.
    // The first panel widens floats for the others: on some processors that costs as much as half
    // of the multiplications of a panel.
    void block(const T* entries, long long stride, int rows, long long first, long long vectors,
               Fetch<T> next) {
        const At at{rows, first, vectors};
        long long calls = panels_.calls(rows), k = 0;
        if constexpr (sizeof(T) < sizeof(double))
            if (panels_.count >= WIDENED) {
                panel<true>(entries, stride, at, panels_[k++], next, calls);
                for (; k < panels_.count; ++k)
                    panel<false>(memory_.wide, vectors * VECTOR, at, panels_[k], next, calls);
            }
        for (; k < panels_.count; ++k) panel<false>(entries, stride, at, panels_[k], next, calls);
    }

    // Rows of a block, its first vector and their number.
    struct At {
        int rows;
        long long first, vectors;
    };

    template <bool KEEP, class Entry>
    void panel(const Entry* entries, long long stride, At at, Range range, Fetch<T>& next,
               long long& calls) {
        const long long lanes = (range.start * vectors_ + range.count * at.first) * VECTOR;
        const Panel p{memory_.v_rows + range.start * ROWS,
                      memory_.row_sums + range.start * ROWS * VECTOR, at.first > 0,
                      memory_.v_columns + lanes, memory_.column_sums + lanes};
        const int vectors = int(at.vectors);
        with_count(range.count, [&](auto count) {
            constexpr int N = count(), R = row_group(N);
            int i = 0;
            const auto kept = [&] { return memory_.wide + i * at.vectors * VECTOR; };
            for (; i + R <= at.rows; i += R)
                multiply<R, N, ACROSS, DOWN, KEEP>(entries + i * stride, stride, vectors, p, i, kept(),
                                                   next.share(calls--));
            for (; i < at.rows; ++i)
                multiply<1, N, ACROSS, DOWN, KEEP>(entries + i * stride, stride, vectors, p, i, kept(),
                                                   next.share(calls--));
        });
    }

    const Tile<T> tile_;
    const Panels panels_;
    const long long vectors_;
    const Memory memory_;
};

// Some columns at a time: more would push each other's vectors and sums out of the caches.
template <bool ACROSS, bool DOWN, class T>
void product(const Tile<T>& tile, long long columns, Matrix v_rows, Matrix v_columns,
             Matrix rows_out, Matrix columns_out, double* memory) {
    const long long groups = (columns + TOGETHER - 1) / TOGETHER;
    for (long long k = 0; k < groups; ++k) {
        const long long start = columns * k / groups, stop = columns * (k + 1) / groups;
        const auto part = [&](Matrix m) { return Matrix{m.data + start, m.stride}; };
        Product<ACROSS, DOWN, T>(tile, stop - start, memory)
            .run(part(v_rows), part(v_columns), part(rows_out), part(columns_out));
    }
}

template <class T>
void product(bool across, bool down, const Tile<T>& tile, long long columns, Matrix v_rows,
             Matrix v_columns, Matrix rows_out, Matrix columns_out, double* memory) {
    auto* const work = across && down ? product<true, true, T>
                       : across       ? product<true, false, T>
                                      : product<false, true, T>;
    work(tile, columns, v_rows, v_columns, rows_out, columns_out, memory);
}

}  // namespace

#define HPCNK_PRODUCT(T, name)                                                                      \
    void hpcnk_product_##name(const T* entries, long long stride, long long height,                 \
                              long long width, int across, int down, long long columns,             \
                              double* v_rows, long long v_rows_stride, double* v_columns,           \
                              long long v_columns_stride, double* rows_out,                         \
                              long long rows_out_stride, double* columns_out,                       \
                              long long columns_out_stride, double* memory) {                       \
        product<T>(across != 0, down != 0, {entries, stride, height, width}, columns,               \
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
            product<T>(true, t->row != t->column,                                                   \
                       {reinterpret_cast<const T*>(t->entries), t->stride, t->height, t->width},    \
                       t->columns, {v_rows, v_stride}, {v_columns, v_stride}, {rows, out_stride},   \
                       {below, out_stride}, memory);                                                \
        }                                                                                           \
    }

extern "C" {
// Doubles of the working memory for a tile of this width and so many columns.
long long hpcnk_memory(long long width, long long columns) {
    return Memory::size((width + VECTOR - 1) / VECTOR, least(columns, TOGETHER));
}
HPCNK_PRODUCT(float, float32)
HPCNK_PRODUCT(double, float64)
HPCNK_PRODUCTS(float, float32)
HPCNK_PRODUCTS(double, float64)
}
