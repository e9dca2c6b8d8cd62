"""JSON that strangers may have written: a mapping of bounded size, depth and numbers."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcnk.errors import StorageError

MOST_BYTES = 64 << 20
DEEPEST = 250  # levels; a deck may have 64, and the canonical form of its layers a few times that
_DIGITS = 40  # of an integer


def parse_mapping(path: Path, text: str) -> dict[str, Any]:
    """Return the JSON mapping that a file holds. Raises StorageError if it holds none."""
    try:
        content = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"no valid JSON ({_reason(error)})") from error
    if not isinstance(content, dict):
        raise _refusal(path, "no JSON mapping")
    if any(depth > DEEPEST for _, depth in _walk(content)):
        raise _refusal(path, f"JSON nested deeper than {DEEPEST} levels")
    return content


def parse_provenance(path: Path, text: str) -> dict[str, Any]:
    """Return a mapping as hpcnk writes it into its files: finite numbers and printable text."""
    content = parse_mapping(path, text)
    for value, _ in _walk(content):
        if isinstance(value, str) and not value.isprintable():
            raise _refusal(path, "provenance with text that cannot be printed")
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise _refusal(path, f"provenance with the number {value}")
    return content


def read_mapping(path: Path) -> dict[str, Any]:
    """Return what a file of JSON holds.

    Raises FileNotFoundError if there is none, StorageError if it is no small regular file with a
    JSON mapping in UTF-8.
    """
    content = read_regular(path, MOST_BYTES)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refusal(path, f"no UTF-8 text ({error.reason})") from error
    return parse_mapping(path, text)


def read_regular(path: Path, most: int, flags: int = 0) -> bytes:
    """Return the bytes of a regular file of at most `most` bytes; `flags` are for `os.open`.

    A named pipe or a device would keep a reader waiting. Raises OSError when the system refuses,
    StorageError for another kind of file and a larger one.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _refusal(path, "no bytes of its own: it is no regular file")
        if found.st_size > most:
            raise _refusal(path, f"{found.st_size} bytes, where at most {most} make sense")
        return file.read(found.st_size)  # asked for `most`, Python would allocate it


def _walk(content: Any) -> Iterator[tuple[Any, int]]:
    """Give every key and value with its depth, without recursion."""
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if isinstance(value, dict):
            waiting += ((item, depth + 1) for pair in value.items() for item in pair)
        elif isinstance(value, list):
            waiting += ((item, depth + 1) for item in value)


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _refusal(path: Path, found: str) -> StorageError:
    return StorageError(
        f"reading {path} failed: it holds {found}",
        "the file is damaged or was not written by hpcnk: remove it and run the stage that "
        "writes it again",
    )
