// A row with itself: at equal pixels the correlation is 1, and S' and T' follow from the variance
// q = S alone, with no arccos near 1, where rounding would cost half the digits. Float64 only.
#pragma once

#include <cmath>

#include "program.cuh"

namespace hpcnk {

// The factors that pairs need of a variance; below `tiny` it counts as 0 (relu).
inline void factors_of(int point, double q, double tiny, double* f) {
    if (point == POINT_RELU) {
        f[1] = q >= tiny ? std::sqrt(q) : 0.0;
        f[0] = q >= tiny ? 1.0 / f[1] : 0.0;
    } else if (point == POINT_ERF) {
        f[0] = 1.0 / std::sqrt(1.0 + 2.0 * q);
    } else if (point == POINT_GELU) {
        f[1] = std::sqrt(1.0 + q);
        f[0] = 1.0 / f[1];
        f[2] = q / (1.0 + q);
    } else if (point == POINT_LAYER_NORM) {
        f[0] = 1.0 / std::sqrt(q + LAYER_NORM_EPSILON);
    }
}

inline void exact_gelu(double& s, double& t) {
    const double q = s, delta = std::sqrt(1.0 + 2.0 * q), angle = std::atan2(q, delta);
    const double slope = (1.0 / (delta * delta) + (1.0 - q) / (1.0 + q) + 1.0) * q / delta + angle;
    s = q * (0.25 + (q / ((1.0 + q) * delta) + angle / 2.0) / PI);
    t *= 0.25 + slope / (2.0 * PI);
}

// S = q and T of equal pixels through a pointwise layer, in place.
inline void exact(int point, double& s, double& t) {
    const double q = s;
    if (point == POINT_RELU) {
        s = 0.5 * q;
        t *= 0.5;
    } else if (point == POINT_ERF) {
        const double root = std::sqrt(1.0 + 4.0 * q);
        s = 2.0 / PI * std::atan2(2.0 * q, root);
        t *= 4.0 / PI / root;
    } else if (point == POINT_GELU) {
        exact_gelu(s, t);
    } else if (point == POINT_LAYER_NORM) {
        const double slope = 1.0 / (q + LAYER_NORM_EPSILON);
        s = q * slope;
        t *= slope;
    }
}

}  // namespace hpcnk
