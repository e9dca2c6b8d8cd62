"""One way to say that a file cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcnk.errors import DataError


@contextmanager
def damage_reported(path: Path, causes: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn the exceptions that a parser raises on damaged bytes into a DataError."""
    try:
        yield
    except DataError:
        raise
    except causes as error:
        raise DataError(
            f"{path} cannot be read: {_reason(error)}",
            "the file is damaged, cut short or not of its kind: copy or write it again",
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
