"""Reading a deck's file into a Deck, with all its problems in one error."""

import os
from pathlib import Path

from pydantic import ValidationError

from hpcnk.deck.explain import expected, explain
from hpcnk.deck.problems import Problem, deck_error, show
from hpcnk.deck.schema import CheckLayers, Deck
from hpcnk.deck.tree import Tree, read_tree
from hpcnk.errors import DeckError

MAX_BYTES = 2**20


def read_deck(path: str | os.PathLike[str], check_layers: CheckLayers) -> Deck:
    """Read and check a deck.

    `check_layers` takes the plain value of `kernel.layers` and returns what is wrong with it.
    Relative paths in the deck are left relative to the working directory.
    Raises DeckError with all problems: those of the file, the keys, the values and the layers.
    """
    source = Path(path)
    tree = read_tree(_text(source), source, os.environ)
    if not isinstance(tree.values, dict):
        text = f"expected {expected(())}, got {_shape(tree)}"
        raise deck_error(source, [*tree.problems, Problem(tree.origin.line(()), (), text)])
    context = {"check_layers": check_layers, "origin": tree.origin}
    try:
        deck = Deck.model_validate(_named(tree.values, source), context=context)
    except ValidationError as error:
        problems = tree.problems + explain(error.errors(include_url=False), tree)
        raise deck_error(source, problems) from None
    if tree.problems:
        raise deck_error(source, tree.problems)
    return deck


def _named(values: dict[str, object], source: Path) -> dict[str, object]:
    """Add the name and the output folder where the deck leaves them out."""
    stem = source.stem.encode("utf-8", "backslashreplace").decode("utf-8")
    name = values.get("name", stem)
    return {"name": name, "output": f"runs/{name}", **values}


def _shape(tree: Tree) -> str:
    if tree.values is None:
        return "an empty file"
    return "a list" if isinstance(tree.values, list) else show(tree.values)


def _text(source: Path) -> str:
    """Read the file as UTF-8, no more of it than a deck may have."""
    if not os.path.isfile(source):
        raise _unreadable(source, "another kind of file" if os.path.exists(source) else "none")
    try:
        with open(source, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(source, f"an error ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise deck_error(source, [Problem(1, (), "expected at most 1 MiB of YAML, got more")])
    return _decoded(content, source)


def _unreadable(source: Path, got: str) -> DeckError:
    kind = "a folder" if os.path.isdir(source) else got
    return deck_error(source, [Problem(1, (), f"expected a readable deck file, got {kind}")])


def _decoded(content: bytes, source: Path) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        sentence = f"expected UTF-8 text, got the byte 0x{content[error.start]:02x}"
        raise deck_error(source, [Problem(line, (), sentence)]) from None
    tabs = _tab_lines(text)
    if tabs:
        sentence = "expected spaces as indentation, got a tab"
        raise deck_error(source, [Problem(line, (), sentence) for line in tabs])
    return text


def _tab_lines(text: str) -> list[int]:
    lines = enumerate(text.split("\n"), start=1)
    return [number for number, line in lines if "\t" in line[: len(line) - len(line.lstrip())]]
