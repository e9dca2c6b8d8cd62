"""A deck's problems: where each lies, how it is written, and the one error that lists them all."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpcnk.errors import DeckError

KeyPath = tuple[str | int, ...]

MAX_SHOWN = 50
ADVICE = "correct the deck and run the command again; `hpcnk check --help` lists every key"


@dataclass(frozen=True)
class Problem:
    """One mistake: the deck's line (from 1), the key's path (empty: the whole file), a sentence."""

    line: int
    path: KeyPath
    text: str


@dataclass(frozen=True)
class Origin:
    """Where a deck's values stand: its file, and the line of each key path.

    Not compared: two decks with the same values are equal wherever they were read.
    """

    source: Path = field(default=Path(), compare=False)
    lines: Mapping[KeyPath, int] = field(default_factory=dict, compare=False)

    def existing(self, path: KeyPath) -> KeyPath:
        """Cut a path to the part that the file holds."""
        lengths = range(len(path), -1, -1)
        return next((path[:length] for length in lengths if path[:length] in self.lines), ())

    def line(self, path: KeyPath) -> int:
        """Give the line of a path, or of the nearest key above it that the file holds."""
        return self.lines.get(self.existing(path), 1)


def show_path(path: KeyPath) -> str:
    """Write a key path as `solve.ridge[1]`; a key that is no plain word stands in quotes."""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            shown += f".{_word(step)}" if shown else _word(step)
    return shown


def _word(key: str) -> str:
    """Write a key as it is, or in quotes where it is no plain word."""
    return key if re.fullmatch(r"[\w-]{1,60}", key) else show(key)


def show(value: object, width: int = 60) -> str:
    """Write a value as it would stand in YAML on one line, cut to `width` characters."""
    text = _flow(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _flow(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        pairs = (f"{_word(str(key))}: {_flow(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return repr(value)


def with_advice(what: str, advice: str) -> str:
    """Join a fact and what to do about it into one sentence."""
    return f"{what} ({advice})" if advice else what


def deck_error(source: object, problems: Iterable[Problem]) -> DeckError:
    """Join problems, sorted by line and each once, into the error that a command prints."""
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: problem.line)
    entries = [_entry(source, problem) for problem in ordered[:MAX_SHOWN]]
    if len(ordered) > MAX_SHOWN:
        entries.append(f"{source}: and {len(ordered) - MAX_SHOWN} more problems")
    # An undecodable byte in a name must not turn the message into a second error when printed.
    what = "\n".join(entries).encode("utf-8", "backslashreplace").decode("utf-8")
    return DeckError(what, ADVICE)


def _entry(source: object, problem: Problem) -> str:
    place = f"{show_path(problem.path)}: " if problem.path else ""
    one_line = " ".join(problem.text.split())
    return f"{source}:{problem.line}: {place}{one_line}"
