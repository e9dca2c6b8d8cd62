"""Pydantic's errors into sentences: a user reads what was expected and what came, no jargon."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hpcnk.deck.fields import Expected
from hpcnk.deck.loader import resolve
from hpcnk.deck.problems import KeyPath, Problem, show, with_advice
from hpcnk.deck.schema import Deck
from hpcnk.deck.tree import Tree
from hpcnk.errors import ArchitectureError

Models = Sequence[type[BaseModel]]


def explain(errors: Sequence[Mapping[str, Any]], tree: Tree) -> list[Problem]:
    """Make problems of pydantic's errors, but for values that could not even be read."""
    problems = [problem for error in errors for problem in _problems(error, tree)]
    return [problem for problem in problems if not tree.covers(problem.path)]


def _problems(error: Mapping[str, Any], tree: Tree) -> list[Problem]:
    if error["type"] == "architecture":
        return [_layer(error["loc"], found, tree) for found in error["ctx"]["problems"]]
    return [_problem(error, tree)]


def _layer(path: KeyPath, error: ArchitectureError, tree: Tree) -> Problem:
    path = tree.origin.existing((*path, *error.path))
    what = re.sub(r"^layers\S*: ", "", error.what)  # the entry's own path says it
    return Problem(tree.origin.line(path), path, with_advice(what, error.advice))


def _problem(error: Mapping[str, Any], tree: Tree) -> Problem:
    path: KeyPath = error["loc"]
    context = error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return Problem(tree.origin.line(path), path, _unknown_key(path))
    if error["type"] == "missing":
        text = f"expected {expected(path)}, got nothing: this key is required"
        return Problem(tree.origin.line(path), path, text)
    if error["type"] == "refused":
        text = f"expected {context['expected']}, got {context['got']}"
        return Problem(tree.origin.line(path), path, text)
    text = f"expected {expected(path)}, got {show(error['input'])}{_hint(error)}"
    # A name that the deck leaves out is not in the file, and yet it has a path.
    return Problem(tree.origin.line(path), tree.origin.existing(path) or path, text)


def _hint(error: Mapping[str, Any]) -> str:
    """Say what is wrong with a value that looks right."""
    kind, value = error["type"], error["input"]
    if kind == "int_type" and isinstance(value, float):
        return ", which is not an integer"
    if kind in ("int_type", "float_type", "value_error") and _is_number_as_text(value):
        return ", which is text (write the number without quotes)"
    if kind == "finite_number":
        return ", which is not finite"
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return ", which is not text (put it in quotes)"
    return ""


def _is_number_as_text(value: object) -> bool:
    number = resolve(value) if isinstance(value, str) else None
    return isinstance(number, (int, float)) and not isinstance(number, bool)


def _unknown_key(path: KeyPath) -> str:
    key = str(path[-1])
    valid = valid_keys(path[:-1])
    near = difflib.get_close_matches(key.lower(), valid, n=1)
    advice = f"; did you mean {near[0]!r}?" if near else _elsewhere(key)
    return f"expected one of {', '.join(valid)}, got the unknown key {show(key)}{advice}"


def _elsewhere(key: str) -> str:
    """Point to the section that has such a key, for a deck with wrong indentation."""
    homes = [section for section in valid_keys(()) if key in valid_keys((section,))]
    return f"; it belongs under {homes[0]!r}" if homes else ""


def models_in(annotation: object) -> Models:
    """Find the deck's sections in a field's type, such as both of `Rows | PerClass | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def phrase(info: FieldInfo) -> str:
    """Say what a field takes."""
    phrases = [note.phrase for note in info.metadata if isinstance(note, Expected)]
    return phrases[0] if phrases else _mapping(models_in(info.annotation))


def expected(path: KeyPath) -> str:
    """Say what the key, or the list's item, at a path takes."""
    info = _descend(path)[0]
    if info is None:
        return _mapping([Deck])
    items = [note.item for note in info.metadata if isinstance(note, Expected)]
    return items[0] if isinstance(path[-1], int) and any(items) else phrase(info)


def valid_keys(path: KeyPath) -> list[str]:
    """List the keys that a mapping at this path may hold."""
    return [key for model in _descend(path)[1] for key in model.model_fields]


def _mapping(models: Models) -> str:
    keys = ", ".join(key for model in models for key in model.model_fields)
    return f"a mapping {{{keys}}}"


def _descend(path: KeyPath) -> tuple[FieldInfo | None, Models]:
    """Follow a path through the sections' types: the last field on it and the sections below."""
    info: FieldInfo | None = None
    models: Models = [Deck]
    for step in path:
        fields = {key: field for model in models for key, field in model.model_fields.items()}
        if step in fields:
            info = fields[str(step)]
            models = models_in(info.annotation)
    return info, models
