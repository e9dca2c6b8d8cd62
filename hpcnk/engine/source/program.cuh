// What the engine computes: a network laid out for rows of one shape. hpcnk/engine/program.py
// builds these tables and mirrors every field; all counts and positions are in numbers, not bytes.
//
// A pair of rows has covariances S (and tangents T) between pixel (y, x) of the left row and pixel
// (y + dy, x + dx) of the right one. A *plane* is one offset (dy, dx). Everything but a pool keeps
// the offset (a stride divides it), so a *stage*, which is all that happens between two pools, is
// computed plane by plane, and only what leaves the stage is kept, in a *tensor*.
#pragma once

namespace hpcnk {

enum Point { POINT_NONE, POINT_RELU, POINT_ERF, POINT_GELU, POINT_LAYER_NORM };
enum End { END_TENSOR, END_POOL, END_MEAN };
enum { IMAGES = -1, NOTHING = -1 };

// An axis of an operation: `out` outputs, output o reading inputs o * stride - pad + k, k < filter.
// At its output the plane's offset is `scale` times the stage's output offset.
struct Axis {
    int inputs, out, filter, stride, pad, scale;
};

// S' = weight * box(S) + bias + plus_weight * S[plus], T likewise without the bias, and with S' of
// the box added where the layer is `affine` (conv, dense); then a pointwise layer.
// Operation k of a stage writes buffer k + 1; buffer 0 is the stage's source.
struct Operation {
    int input, plus;                    // buffers
    int input_tangent, plus_tangent;    // 0 where T is still zero there
    int affine, point, conv3_relu;      // conv3_relu: 3 wide, stride 1, same, then relu, no plus
    int factor, variance, pixels;       // of the pointwise layer, in a row's factors and variances
    int ring;                           // rows of the output buffer less one; 2^k - 1
    long long place;                    // of the output buffer, in entries
    Axis y, x;
    double weight, bias, plus_weight;
};

struct Stage {
    int source, source_tangent;         // a tensor, or IMAGES
    int height, width;                  // of the source
    int out_height, out_width;          // before the end
    int stride_y, stride_x;             // source offset = stride * output offset
    int reach_y, reach_x;               // output offsets from -reach to reach are wanted
    int ring;
    long long place;                    // of buffer 0
    int first, operations;
    int last_tangent;
    int end, target, window_y, window_x;
    int target_height, target_width;
    double scale;                       // of a mean
};

// Entries [dy mod planes_y][dx mod planes_x][y][x] for offsets from -reach to reach. With all
// offsets planes_y is the height: dy and dy - height hold different rows of one plane.
struct Tensor {
    long long place;
    int height, width, planes_y, planes_x, reach_y, reach_x;
};

// Either a stage, or the sum of two tensors into a third (a residual sum around a pool).
struct Step {
    int stage;                          // or NOTHING
    int left, right, target;
    int left_tangent, right_tangent;
    double left_weight, right_weight;
};

struct Program {
    int steps, stages, operations, tensors;
    int pixels, channels, factors, variances;
    int result, result_tangent;         // the tensor of one entry that holds the kernel
    long long buffer_entries, tensor_entries;
    int widest;                         // the widest row
    int reserved;
};

}  // namespace hpcnk
