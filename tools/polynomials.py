"""Prints the polynomials of hpcnk/engine/source/formulas.cuh; needs mpmath.

With w = 1 - |c|, analytic around [0, 1] up to w = 2, so a coefficient gains about 0.8 digits:
    arccos(1 - w) / (2 pi)                         = sqrt(w) * angle(w)
    (sqrt(1 - c^2) - |c| arccos(|c|)) / (2 pi)     = w sqrt(w) * gap(w)
    arcsin(x)                                      = x * arcsine(x^2),   x^2 <= 1/4
"""

from mpmath import acos, asin, chebyfit, mp, mpf, nstr, pi, sqrt

FITS = (("angle", "float", 8), ("gap", "float", 7), ("angle", "double", 19), ("gap", "double", 18))


def angle(w):
    return (acos(1 - w) / sqrt(w) if w else sqrt(mpf(2))) / (2 * pi)


def gap(w):
    if w < mpf(10) ** -12:
        return 2 * sqrt(mpf(2)) / 3 / (2 * pi)
    return (sqrt(w * (2 - w)) - (1 - w) * acos(1 - w)) / (w * sqrt(w)) / (2 * pi)


def arcsine(z):
    return asin(sqrt(z)) / sqrt(z) if z else mpf(1)


def show(name, kind, function, interval, count):
    coefficients, error = chebyfit(function, interval, count, error=True)
    relative = nstr(error / function(mpf(interval[1]) / 2), 2)
    digits = 10 if kind == "float" else 20
    print(f"// {name}, {kind}, {count} coefficients: relative error {relative}")
    print(",\n".join(nstr(value, digits) for value in reversed(coefficients)), "\n")


if __name__ == "__main__":
    mp.dps = 40
    for name, kind, count in FITS:
        show(name, kind, {"angle": angle, "gap": gap}[name], [0, 1], count)
    show("arcsine", "double", arcsine, [0, mpf(1) / 4], 13)
