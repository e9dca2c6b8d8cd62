"""Values of layer options: each reader returns a clean value or raises with the option's path."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real

from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import Size

Path = tuple[str | int, ...]
MAX_AXES = 2


def place(path: Path) -> str:
    """Write a path as a reader sees it: `layers[1].residual.branch[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "layers" + "".join(parts)


def refuse(path: Path, expected: str, got: object, advice: str = "") -> ArchitectureError:
    """Make the error for a value that is not what was expected."""
    return ArchitectureError(f"{place(path)}: expected {expected}, got {got!r}", path, advice)


def nearest(name: str, known: Collection[str]) -> str:
    """Advise the known name that lies closest, or list all."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(sorted(known))


def number(value: object, path: Path) -> float:
    """Read a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise refuse(path, "a number", value)
    if not math.isfinite(value) or value < 0:
        raise refuse(path, "a finite number of at least 0", value)
    return float(value)


def integer(value: object, path: Path, low: int, high: int | None = None) -> int:
    """Read an integer between `low` and `high`, both included."""
    wanted = f"an integer from {low} to {high}" if high is not None else f"an integer >= {low}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise refuse(path, wanted, value)
    whole = int(value)
    if whole < low or (high is not None and whole > high):
        raise refuse(path, wanted, value)
    return whole


def size(value: object, path: Path) -> Size:
    """Read one positive integer, or a list with one per spatial axis."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return integer(value, path, 1)
    if not 1 <= len(value) <= MAX_AXES:
        raise refuse(path, "an integer, or a list of 1 or 2 integers", value)
    return tuple(integer(part, (*path, index), 1) for index, part in enumerate(value))


def choice(value: object, path: Path, known: tuple[str, ...]) -> str:
    """Read one of a few words."""
    if not isinstance(value, str):
        raise refuse(path, "one of " + ", ".join(known), value)
    if value not in known:
        raise refuse(path, "one of " + ", ".join(known), value, nearest(value, known))
    return value


def mapping(value: object, path: Path) -> Mapping[str, object]:
    """Read a mapping with text keys; nothing at all counts as an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refuse(path, "a mapping of options", value)
    for key in value:
        if not isinstance(key, str):
            raise refuse(path, "option names that are text", key)
    return value


def only_known(options: Mapping[str, object], known: Collection[str], path: Path) -> None:
    """Refuse the first option that does not exist, naming the nearest that does."""
    for key in options:
        if key not in known:
            advice = nearest(key, known) if known else "remove it; this layer takes no options"
            raise ArchitectureError(
                f"{place((*path, key))}: unknown option {key!r}", (*path, key), advice
            )
