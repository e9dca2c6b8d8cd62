"""Relu networks in extended precision, written for reading: the truth where float64 loses digits.

Covariances are arrays (height, width, height', width') of numpy.longdouble. The angle comes from
arctan2, and 1 - c^2 below 1e-17 counts as 0: it is the rounding of a correlation of 1.
"""

import numpy as np

WIDE = np.longdouble
PI = 4 * np.arctan(WIDE(1))
PARALLEL = WIDE(1e-17)


def precise_kernel(layers, x, y):
    """Return (S, T) of two images (height, width, channels); vectors are images of one pixel.

    Layers: ("conv", w^2, b^2) of 3 x 3, ("dense", w^2, b^2), "relu", "pool" of 2 x 2, "gap",
    "flatten".
    """
    rows = (image(x), image(y))
    s = {pair: inputs(rows[pair[0]], rows[pair[1]]) for pair in ((0, 0), (0, 1), (1, 1))}
    t = {pair: np.zeros_like(value) for pair, value in s.items()}
    for layer in layers:
        name, *numbers = (layer,) if isinstance(layer, str) else layer
        s, t = LAYERS[name](s, t, *map(WIDE, numbers))
    return s[0, 1].item(), t[0, 1].item()


def image(x):
    return x.astype(WIDE).reshape((1, 1, -1) if x.ndim == 1 else x.shape)


def inputs(x, y):
    return np.einsum("ijc,klc->ijkl", x, y) / WIDE(x.shape[-1])


def linear(mix):
    def apply(s, t, weight, bias):
        new = {pair: weight * mix(value) + bias for pair, value in s.items()}
        return new, {pair: new[pair] + weight * mix(value) for pair, value in t.items()}

    return apply


def box(value):
    """Mean of the nine shifts, the same for both pixels; zero outside."""
    height, width = value.shape[:2]
    padded = np.pad(value, 1)
    total = np.zeros_like(value)
    for dy in range(3):
        for dx in range(3):
            rows, columns = slice(dy, dy + height), slice(dx, dx + width)
            total += padded[rows, columns, rows, columns]
    return total / 9


def relu(s, t):
    new_s, new_t = {}, {}
    for pair, value in s.items():
        own = [np.einsum("ijij->ij", s[k, k]) for k in pair]
        root = np.sqrt(own[0][:, :, None, None] * own[1][None, None])
        c = np.clip(value / np.where(root > 0, root, 1), -1, 1)
        square = (1 - c) * (1 + c)
        sine = np.sqrt(np.where(square < PARALLEL, 0, square))
        angle = np.arctan2(sine, c)
        new_s[pair] = root * (sine + (PI - angle) * c) / (2 * PI)
        new_t[pair] = t[pair] * (PI - angle) / (2 * PI)
    return new_s, new_t


def everywhere(function):
    return lambda s, t: tuple({pair: function(v) for pair, v in one.items()} for one in (s, t))


def pool(value):
    height, width = (size // 2 for size in value.shape[:2])
    cut = value[: 2 * height, : 2 * width, : 2 * height, : 2 * width]
    return cut.reshape(height, 2, width, 2, height, 2, width, 2).mean(axis=(1, 3, 5, 7))


LAYERS = {
    "conv": linear(box),
    "dense": linear(lambda value: value),
    "relu": relu,
    "pool": everywhere(pool),
    "gap": everywhere(lambda value: value.mean().reshape(1, 1, 1, 1)),
    "flatten": everywhere(lambda value: np.einsum("ijij->ij", value).mean().reshape(1, 1, 1, 1)),
}
