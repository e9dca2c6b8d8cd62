"""Text for terminals and files: what could steer a terminal, or has no UTF-8, is spelled out."""

from __future__ import annotations

import os
import sys

_KEPT = "\n\t"


def speak(text: str) -> None:
    """Print one line. Where nobody reads any more, or the disk is full, work goes on mute."""
    try:
        print(printable(text), flush=True)
    except OSError:
        mute()


def mute() -> None:
    """Send what is printed from now on nowhere, or Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """Return the text with all else than printable characters, line ends and tabs as escapes."""
    return "".join(
        letter if letter.isprintable() or letter in _KEPT else _escaped(letter) for letter in text
    )


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
