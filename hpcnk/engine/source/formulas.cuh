// The pointwise layers on covariances; one source for the CPU and the GPU.
//
// V is one number on the GPU and a vector of lanes on the CPU. Every pair of rows brings factors
// that depend on one row alone (`factors_of`), so the pair's formulas take no root of a variance.
// Equations: relu, Cho and Saul 2009; erf, Williams 1997; gelu, Tsuchida et al. 2021; layer norm
// with Neural Tangents' epsilon. tools/polynomials.py computes the coefficients.
#pragma once

#include "program.cuh"

namespace hpcnk {

constexpr double PI = 3.14159265358979323846;
constexpr double LAYER_NORM_EPSILON = 1e-12;
constexpr int MAX_FACTORS = 3;

template <class T> struct Coefficients;

template <> struct Coefficients<float> {
    static constexpr int ANGLE = 8, GAP = 7;  // relative errors 1.9e-8
    static HPCNK_INLINE constexpr float angle(int k) {
        constexpr float c[ANGLE] = {0.2250790765f,   0.01875691404f,  0.004213544756f,
                                    0.001307733349f, 0.000235367851f, 0.0005313255694f,
                                    -0.0003168206671f, 0.0001928540558f};
        return c[k];
    }
    static HPCNK_INLINE constexpr float gap(int k) {
        constexpr float c[GAP] = {0.1500527211f,   0.007502467681f, 0.001208418483f,
                                  0.0002639242079f, 0.0001181346624f, -2.804315748e-5f,
                                  3.7317277e-5f};
        return c[k];
    }
};

template <> struct Coefficients<double> {
    static constexpr int ANGLE = 19, GAP = 18, ARCSINE = 13;  // relative errors 2e-17
    static HPCNK_INLINE constexpr double angle(int k) {
        constexpr double c[ANGLE] = {
            0.22507907903927652001,    0.0187565899199378194,     0.0042202327322125356917,
            0.0012560216357264653169,  0.00042739652129661942939, 0.00015735549058682878853,
            0.000061067757413941018998, 0.000024272397576686312357, 0.000011597729337715221401,
            -1.1436557480099898824e-6, 0.000017302099949112776786, -0.000032626634974539276914,
            0.000055401636292990387426, -0.000068438129797571061901, 0.000063771520696847355033,
            -0.000042788240936708331303, 0.000019775268851851785519, -5.6306400692012379742e-6,
            7.6355237009142898951e-7};
        return c[k];
    }
    static HPCNK_INLINE constexpr double gap(int k) {
        constexpr double c[GAP] = {
            0.15005271935951767762,    0.0075026359679762987166,  0.0012057807805230489068,
            0.00027911592331436304485, 0.000077708367893475758821, 0.000024209726744554320269,
            8.1319031696313287489e-6,  2.9203542381489401031e-6,  9.2894421569468195337e-7,
            8.699071889311083816e-7,   -9.7289198368815878283e-7, 2.1540879697132992975e-6,
            -2.8566585841695666447e-6, 2.9474140790105977861e-6,  -2.1451095854048355784e-6,
            1.0766916498465904084e-6,  -3.3047172476929275851e-7, 4.8795292971535840838e-8};
        return c[k];
    }
    static HPCNK_INLINE constexpr double arcsine(int k) {
        constexpr double c[ARCSINE] = {
            1.0000000000000000128,   0.1666666666666494118,   0.075000000003852016734,
            0.044642856805998938418, 0.030381959697685138233, 0.022371749733164054133,
            0.017359779641349980067, 0.013884842826402080755, 0.01217013859239172629,
            0.0065293020047365692817, 0.019513468251252168004, -0.016187392271599133212,
            0.031879621400812839426};
        return c[k];
    }
};

// Sum of coefficient(k) w^k, even and odd powers apart: half the latency of Horner's rule, and the
// square of w, which several polynomials share, is the only operation more.
template <int COUNT, class V, class C> HPCNK_INLINE V polynomial(V w, V square, C coefficient) {
    V high = splat<V>(coefficient(COUNT - 1)), low = splat<V>(coefficient(COUNT - 2));
    HPCNK_UNROLL
    for (int k = COUNT - 3; k >= 0; k -= 2) {
        high = high * square + coefficient(k);
        if (k > 0) low = low * square + coefficient(k - 1);
    }
    return COUNT % 2 ? low * w + high : high * w + low;
}

// arccos(1 - w) / (2 pi sqrt(w)) and (sin b - b cos b) / (2 pi w sqrt(w)) with cos b = 1 - w.
template <class T, class V> HPCNK_INLINE V angle_over_root(V w, V square) {
    return polynomial<Coefficients<T>::ANGLE>(w, square, Coefficients<T>::angle);
}
template <class T, class V> HPCNK_INLINE V gap_over_root(V w, V square) {
    return polynomial<Coefficients<T>::GAP>(w, square, Coefficients<T>::gap);
}

// S' = sqrt(q q') (sin a + (pi - a) cos a) / 2 pi and T' = T (pi - a) / 2 pi, cos a = S / sqrt(q q').
// With w = 1 - |cos a| both are free of cancellation: sin a - a cos a is even in the cosine, so
// S' = sqrt(q q') w sqrt(w) gap(w) + max(S, 0) / 2, and the angle is b = arccos |cos a| or pi - b.
// Factors: 1 / sqrt(q), sqrt(q).
template <bool TANGENT, class T, class V>
HPCNK_INLINE void relu(V& s, V& t, const V* left, const V* right) {
    const V zero = splat<V>(T(0)), half = splat<V>(T(0.5));
    const V w = maximum(splat<V>(T(1)) - absolute(s) * (left[0] * right[0]), zero);
    const V root = square_root(w), square = w * w;
    if (TANGENT) {
        const V turn = root * angle_over_root<T>(w, square);
        t = t * (s < zero ? turn : half - turn);
    }
    s = (left[1] * right[1]) * (w * root) * gap_over_root<T>(w, square) + half * maximum(s, zero);
}

// arcsin(x), |x| <= 1, with full relative accuracy at 0.
template <class V> HPCNK_INLINE V arcsine(V x) {
    using C = Coefficients<double>;
    const V h = absolute(x), half = splat<V>(0.5);
    const V far = (splat<V>(1.0) - h) * half;  // arcsin h = pi / 2 - 2 arcsin sqrt((1 - h) / 2)
    const V z = h > half ? far : h * h;
    const V sum = polynomial<C::ARCSINE>(z, z * z, C::arcsine);
    const V root = square_root(far);
    const V value = h > half ? splat<V>(PI / 2) - (root + root) * sum : h * sum;
    return x < splat<V>(0.0) ? -value : value;
}

// sqrt(1 - rho^2), not below the value at S = sqrt(q q'); u = 1 / (1 + 2 q) or 1 / (1 + q).
template <class V> HPCNK_INLINE V cosine(V rho, V left, V right) {
    const V u = left * left, v = right * right;
    return square_root(maximum(splat<V>(1.0) - rho * rho, u + v - u * v));
}

template <class V> HPCNK_INLINE V clipped(V rho) {
    return minimum(maximum(rho, splat<V>(-1.0)), splat<V>(1.0));
}

// S' = 2/pi arcsin(2 S / sqrt(A A')), T' = T 4/pi / sqrt(A A' - 4 S^2), A = 1 + 2 q.
// Factor: 1 / sqrt(A).
template <bool TANGENT, class V>
HPCNK_INLINE void erf(V& s, V& t, const V* left, const V* right) {
    const V scale = left[0] * right[0];
    const V rho = clipped((s + s) * scale);
    if (TANGENT) t = t * (scale / cosine(rho, left[0], right[0])) * splat<V>(4 / PI);
    s = arcsine(rho) * splat<V>(2 / PI);
}

// With rho = S / sqrt((1 + q)(1 + q')), k = sqrt(1 - rho^2), D = k sqrt((1 + q)(1 + q')):
// S' = (rho^2 / D + w w' D + S arcsin rho) / 2 pi + S / 4, w = q / (1 + q);
// T' = T (1/4 + arcsin(rho) / 2 pi + (1 / D^2 + v v' - w w' + 1) rho / k / 2 pi), v = 1 / (1 + q).
// Factors: 1 / sqrt(1 + q), sqrt(1 + q), w.
template <bool TANGENT, class V>
HPCNK_INLINE void gelu(V& s, V& t, const V* left, const V* right) {
    const V inverse = left[0] * right[0], share = left[2] * right[2];
    const V one = splat<V>(1.0), quarter = splat<V>(0.25), turn = splat<V>(1 / (2 * PI));
    const V rho = clipped(s * inverse);
    const V k = cosine(rho, left[0], right[0]);
    const V delta = k * (left[1] * right[1]);
    const V angle = arcsine(rho);
    if (TANGENT) {
        const V slope = (one / (delta * delta) + inverse * inverse - share + one) * (rho / k);
        t = t * (quarter + (slope + angle) * turn);
    }
    s = s * (quarter + angle * turn) + (rho * rho / delta + share * delta) * turn;
}

// S' = S / sqrt((q + eps)(q' + eps)), T likewise. Factor: 1 / sqrt(q + eps).
template <bool TANGENT, class V>
HPCNK_INLINE void layer_norm(V& s, V& t, const V* left, const V* right) {
    const V scale = left[0] * right[0];
    s = s * scale;
    if (TANGENT) t = t * scale;
}

HPCNK_INLINE constexpr int factor_count(int point) {
    return point == POINT_NONE ? 0 : point == POINT_RELU ? 2 : point == POINT_GELU ? 3 : 1;
}

// One pointwise layer on a pair. Erf and gelu kernels cross zero, so their networks are computed in
// float64 (see host.py), and in float32 they are not compiled.
template <int POINT, bool TANGENT, class T, class V>
HPCNK_INLINE void apply(V& s, V& t, const V* left, const V* right) {
    if constexpr (POINT == POINT_RELU) relu<TANGENT, T>(s, t, left, right);
    if constexpr (POINT == POINT_LAYER_NORM) layer_norm<TANGENT>(s, t, left, right);
    if constexpr (sizeof(T) == 8) {
        if constexpr (POINT == POINT_ERF) erf<TANGENT>(s, t, left, right);
        if constexpr (POINT == POINT_GELU) gelu<TANGENT>(s, t, left, right);
    }
}

}  // namespace hpcnk
