"""What a cluster's nodes are like: read from the header of its jobscripts.

A header is a few lines of shell. `#HPCNK key=value ...` tells of a node; `#SBATCH` lines,
and all that follows the last line of these two kinds, are copied into every script.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from hpcnk.errors import UsageError

BODY = "body.sh"
_ADVICE = "see jobscripts/generic-cpu.sh for what the lines mean"
_TOLD = re.compile(r"#HPCNK|#+SBATCH")
_UNITS = {"M": 1 << 20, "G": 1 << 30}  # Slurm's megabytes and gigabytes are binary


@dataclass(frozen=True)
class Site:
    """A cluster. Memory in bytes of a node, times in seconds."""

    name: str
    cpus: int
    gpus: int
    ranks: int
    memory: int
    time: int
    warning: int
    requeue: bool
    whole_nodes: bool
    directives: tuple[str, ...]
    commands: tuple[str, ...]


def site_names() -> list[str]:
    """Return the names of the sites that come with hpcnk."""
    shipped = (path.name for path in files("hpcnk").joinpath("jobscripts").iterdir())
    return sorted(name.removesuffix(".sh") for name in shipped if name != BODY)


def body() -> str:
    """Return the part of a jobscript that is the same everywhere."""
    return files("hpcnk").joinpath("jobscripts", BODY).read_text(encoding="utf-8")


def read_site(name: str) -> Site:
    """Read the header of a site by its name, or by a path with a `/` or the ending `.sh`.

    Raises UsageError for a site that is not there or whose header says too little.
    """
    if "/" in name or name.endswith(".sh"):
        path = Path(name)
        return _parse(path.stem, name, _text(path))
    if name not in site_names():
        raise UsageError(
            f"--site: expected one of {', '.join(site_names())} or the path of a header, "
            f"got {name!r}",
            "copy jobscripts/generic-cpu.sh for a cluster of your own, and give its path",
        )
    shipped = files("hpcnk").joinpath("jobscripts", f"{name}.sh")
    return _parse(name, f"{name}.sh", shipped.read_text(encoding="utf-8"))


def parse_time(text: str) -> int:
    """Return the seconds of HH:MM:SS or D-HH:MM:SS. Raises UsageError, also below a minute."""
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", text, re.ASCII)
    days, hours, minutes, seconds = map(int, match.groups("0")) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < 60:
        raise UsageError(
            f"expected a time of at least a minute as HH:MM:SS or D-HH:MM:SS, got {text!r}",
            "Slurm counts a job's time in minutes",
        )
    return total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--site: {path} cannot be read: {error}", _ADVICE) from error


def _parse(name: str, source: str, text: str) -> Site:
    """Read a header. Errors name `source` and the line."""
    lines = [line.rstrip() for line in text.splitlines()]
    values = {"gpus": 0, "whole_nodes": False, **dict(_settings(lines, source))}
    missing = [key for key in _KEYS if key.replace("-", "_") not in values]
    if missing:
        raise UsageError(f"{source}: no #HPCNK line says {', '.join(missing)}", _ADVICE)
    if values["ranks"] > values["cpus"]:
        raise UsageError(f"{source}: {values['ranks']} ranks, but {values['cpus']} cpus", _ADVICE)
    head = max(number for number, line in enumerate(lines, 1) if _TOLD.match(line))
    return Site(
        name=name,
        directives=tuple(line for line in lines[:head] if "SBATCH" in _first_word(line)),
        commands=tuple(lines[head:]),
        **values,
    )


def _settings(lines: list[str], source: str) -> Iterator[tuple[str, Any]]:
    """Yield the field and the value of each setting of the #HPCNK lines. Raises UsageError."""
    for number, line in enumerate(lines, 1):
        if _first_word(line) != "#HPCNK":
            continue
        for setting in line.split()[1:]:
            key, _, value = setting.partition("=")
            if key not in _KEYS:
                what = f"{source}:{number}: expected one of {', '.join(_KEYS)}, got {key!r}"
                raise UsageError(what, _ADVICE)
            expected, read = _KEYS[key]
            found = read(value)
            if found is None:
                what = f"{source}:{number}: {key}: expected {expected}, got {value!r}"
                raise UsageError(what, _ADVICE)
            yield key.replace("-", "_"), found


def _first_word(line: str) -> str:
    return line.split(maxsplit=1)[0] if line.strip() else ""


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) and int(text) > 0 else None


def _memory(text: str) -> int | None:
    number = _count(text[:-1])
    return number * _UNITS[text[-1]] if number and text[-1] in _UNITS else None


def _time(text: str) -> int | None:
    try:
        return parse_time(text)
    except UsageError:
        return None


_KEYS: dict[str, tuple[str, Callable[[str], int | None]]] = {
    "cpus": ("a whole number of at least 1", _count),
    "gpus": ("a whole number of at least 0", lambda text: 0 if text == "0" else _count(text)),
    "ranks": ("a whole number of at least 1", _count),
    "memory": ("a number with M or G, such as 240G", _memory),
    "time": ("HH:MM:SS or D-HH:MM:SS", _time),
    "warning": ("seconds, at least 1", _count),
    "requeue": ("yes or no", {"yes": True, "no": False}.get),
    "whole-nodes": ("yes or no", {"yes": True, "no": False}.get),
}
