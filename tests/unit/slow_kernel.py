"""A second implementation for tests: loops over pixels, formulas as they stand in the papers.

It shares no code with the program. Covariances are dictionaries {(pixel, pixel'): value} of one
pair; three pairs (x, x), (x, y), (y, y) are carried along together.
"""

from itertools import product
from math import acos, asin, pi, prod, sqrt

PAIRS = ("xx", "xy", "yy")


def slow_kernel(layers, x, y):
    """Return (S, T) of one pair of arrays (*spatial, channels); layers as in a deck, in full."""
    rows = {"x": x, "y": y}
    sizes = x.shape[:-1]
    pixels = list(product(*map(range, sizes)))
    s = {
        pair: {
            (p, q): float(rows[pair[0]][p] @ rows[pair[1]][q]) / x.shape[-1]
            for p, q in product(pixels, pixels)
        }
        for pair in PAIRS
    }
    t = {pair: dict.fromkeys(s[pair], 0.0) for pair in PAIRS}
    s, t, sizes = chain(layers, s, t, sizes)
    assert sizes == ()
    return s["xy"][(), ()], t["xy"][(), ()]


def chain(layers, s, t, sizes):
    for layer in layers:
        name, value = (layer, {}) if isinstance(layer, str) else next(iter(layer.items()))
        s, t, sizes = APPLY[name](value, s, t, sizes)
    return s, t, sizes


def linear(weight, bias, s, t, mix):
    new_s = {pair: {k: weight * v + bias for k, v in mix(s[pair]).items()} for pair in PAIRS}
    mixed = {pair: mix(t[pair]) for pair in PAIRS}
    new_t = {
        pair: {k: new_s[pair][k] + weight * v for k, v in mixed[pair].items()} for pair in PAIRS
    }
    return new_s, new_t


def conv(options, s, t, sizes):
    axes = len(sizes)
    filters = (
        [options["filter"]] * axes if isinstance(options["filter"], int) else options["filter"]
    )
    strides = options["strides"]
    strides = [strides] * axes if isinstance(strides, int) else strides
    if options["padding"] == "same":
        after = tuple(-(-n // step) for n, step in zip(sizes, strides, strict=True))
        axes = zip(after, strides, filters, sizes, strict=True)
        total = [max(0, (m - 1) * d + f - n) for m, d, f, n in axes]
        before = [pad // 2 for pad in total]
    else:
        after = tuple((n - f) // d + 1 for n, f, d in zip(sizes, filters, strides, strict=True))
        before = [0] * axes
    outputs = list(product(*map(range, after)))

    def source(pixel, shift):
        axes = zip(pixel, strides, shift, before, strict=True)
        return tuple(o * d + k - b for o, d, k, b in axes)

    def mix(array):
        shifts = list(product(*map(range, filters)))
        return {
            (p, q): sum(array.get((source(p, k), source(q, k)), 0.0) for k in shifts)
            for p, q in product(outputs, outputs)
        }

    weight = options["w_std"] ** 2 / prod(filters)
    return (*linear(weight, options["b_std"] ** 2, s, t, mix), after)


def dense(options, s, t, sizes):
    return (*linear(options["w_std"] ** 2, options["b_std"] ** 2, s, t, dict), sizes)


def avg_pool(window, s, t, sizes):
    window = [window] * len(sizes) if isinstance(window, int) else window
    after = tuple(n // w for n, w in zip(sizes, window, strict=True))
    outputs = list(product(*map(range, after)))

    def inside(pixel):
        axes = zip(pixel, window, strict=True)
        return list(product(*(range(o * w, o * w + w) for o, w in axes)))

    def mean(array):
        return {
            (p, q): sum(array[a, b] for a in inside(p) for b in inside(q)) / prod(window) ** 2
            for p, q in product(outputs, outputs)
        }

    return *({pair: mean(array[pair]) for pair in PAIRS} for array in (s, t)), after


def flatten(_, s, t, sizes):
    def mean(array):
        return {((), ()): sum(v for (p, q), v in array.items() if p == q) / prod(sizes)}

    return *({pair: mean(array[pair]) for pair in PAIRS} for array in (s, t)), ()


def global_avg_pool(_, s, t, sizes):
    def mean(array):
        return {((), ()): sum(array.values()) / len(array)}

    return *({pair: mean(array[pair]) for pair in PAIRS} for array in (s, t)), ()


def residual(sides, s, t, sizes):
    branch_s, branch_t, after = chain(sides["branch"], s, t, sizes)
    short_s, short_t, _ = chain(sides["shortcut"], s, t, sizes)

    def add(one, two):
        return {pair: {k: v + two[pair][k] for k, v in one[pair].items()} for pair in PAIRS}

    return add(branch_s, short_s), add(branch_t, short_t), after


def pointwise(formula):
    def apply(_, s, t, sizes):
        new_s, new_t = {}, {}
        for pair in PAIRS:
            left, right = s[pair[0] * 2], s[pair[1] * 2]
            values = {(p, q): formula(v, left[p, p], right[q, q]) for (p, q), v in s[pair].items()}
            new_s[pair] = {k: value for k, (value, _) in values.items()}
            new_t[pair] = {k: t[pair][k] * slope for k, (_, slope) in values.items()}
        return new_s, new_t, sizes

    return apply


def relu(s, q, r):
    norm = sqrt(q * r)
    if norm == 0:
        return 0.0, 0.25
    c = min(1.0, max(-1.0, s / norm))
    a = acos(c)
    return norm / (2 * pi) * (sqrt(1 - c * c) + (pi - a) * c), (pi - a) / (2 * pi)


def erf(s, q, r):
    d = (1 + 2 * q) * (1 + 2 * r)
    return 2 / pi * asin(2 * s / sqrt(d)), 4 / pi / sqrt(d - 4 * s * s)


def gelu(s, q, r):
    d = (1 + q) * (1 + r)
    root = sqrt(d - s * s)
    angle = asin(s / sqrt(d))
    value = ((s * s + q * r * root * root) / (d * root) + s * angle) / (2 * pi) + s / 4
    slope = s / root / (2 * pi) * (1 / root**2 + (1 - q * r) / d + 1) + 0.25 + angle / (2 * pi)
    return value, slope


def layer_norm(s, q, r):
    norm = sqrt((q + 1e-12) * (r + 1e-12))
    return s / norm, 1 / norm


APPLY = {
    "conv": conv,
    "dense": dense,
    "avg_pool": avg_pool,
    "flatten": flatten,
    "global_avg_pool": global_avg_pool,
    "residual": residual,
    "relu": pointwise(relu),
    "erf": pointwise(erf),
    "gelu": pointwise(gelu),
    "layer_norm": pointwise(layer_norm),
}
