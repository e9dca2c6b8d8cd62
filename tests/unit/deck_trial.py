"""What the tests of the deck share: a stand-in for the kernels, and decks made of a few lines."""

from pathlib import Path

import pytest

from hpcnk.deck import Deck, read_deck
from hpcnk.errors import ArchitectureError, DeckError

DECKS = Path(__file__).parents[1] / "decks"
MINIMAL = (DECKS / "good" / "minimal.yaml").read_text()


def check_layers(layers, path=()):
    """A stand-in for the kernels: knows every layer but `teleport`."""
    if layers == "teleport" or layers is None:
        return [ArchitectureError("no layer is called 'teleport'", path, "write relu")]
    if not isinstance(layers, (list, dict)):
        return []
    items = enumerate(layers) if isinstance(layers, list) else layers.items()
    return [error for step, item in items for error in check_layers(item, (*path, step))]


def read_text(folder: Path, text: str | bytes) -> Deck:
    file = folder / "trial.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_deck(file, check_layers)


def problems_of(folder: Path, text: str | bytes) -> list[tuple[int, str]]:
    """All (line, rest of the entry) of the error that a text gives."""
    with pytest.raises(DeckError) as caught:
        read_text(folder, text)
    prefix = f"{folder / 'trial.yaml'}:"
    entries = caught.value.what.split("\n")
    assert all(entry.startswith(prefix) for entry in entries)
    pairs = [entry.removeprefix(prefix).split(": ", 1) for entry in entries]
    return [(int(line), rest) for line, rest in pairs]


def with_key(section, line):
    """The minimal deck, one key a line, with one more or another line in a section."""
    sections = {"data": ["dataset: digits"], "kernel": ["layers: cv8"], "solve": ["ridge: 1e-6"]}
    key = line.split(":")[0]
    sections.setdefault(section, [])
    kept = [old for old in sections[section] if not old.startswith(f"{key}:")]
    sections[section] = [*kept, line]
    return "".join(
        f"{name}:\n" + "".join(f"  {row}\n" for row in rows) for name, rows in sections.items()
    )


def rows_of(error: DeckError) -> list[str]:
    return error.what.split("\n")
