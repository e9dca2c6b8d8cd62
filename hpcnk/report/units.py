"""Numbers as people read them."""


def size(nbytes: float) -> str:
    """Bytes in decimal units: 1.5 GB."""
    return _scaled(nbytes, ("B", "kB", "MB", "GB", "TB", "PB"))


def count(number: float) -> str:
    """Counts in decimal units: 3.4 M."""
    return _scaled(number, ("", "thousand", "million", "billion", "trillion", "quadrillion"))


def passes(number: int) -> str:
    """Passes over the kernel, one or several."""
    return f"{number} pass" if number == 1 else f"{number} passes"


def duration(seconds: float) -> str:
    """Seconds as 12.3 s, 4 min 05 s, or 3 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(value) < 1000:
            return f"{value:.4g} {unit}".strip()
        value /= 1000
    return f"{value:.4g} {units[-1]}"
