"""YAML nodes into plain values, with the line of every key and all problems on the way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from hpcnk.deck.environment import expand
from hpcnk.deck.loader import (
    MAP,
    MAX_DEPTH,
    MAX_NODES,
    MERGE,
    SEQ,
    STR,
    compose,
    convert,
    resolve,
    too_large,
)
from hpcnk.deck.problems import KeyPath, Origin, Problem, deck_error, show

Entries = dict[str, tuple[yaml.Node, yaml.Node]]


@dataclass(frozen=True)
class Tree:
    """A deck's plain values and where they stand.

    `broken` are the paths whose value could not be formed; what stands there has no meaning.
    """

    values: object
    origin: Origin
    problems: list[Problem]
    broken: set[KeyPath]

    def covers(self, path: KeyPath) -> bool:
        """Whether the value at this path has, lies in or holds a part that could not be formed."""
        upwards = (path[:length] for length in range(len(path) + 1))
        return path in self._above_broken or any(above in self.broken for above in upwards)

    @cached_property
    def _above_broken(self) -> set[KeyPath]:
        """The broken paths and all above them; looked up, as there may be thousands of each."""
        return {bad[:length] for bad in self.broken for length in range(len(bad) + 1)}


def read_tree(text: str, source: Path, environment: Mapping[str, str]) -> Tree:
    """Parse YAML and expand its variables. Raises DeckError where the text is no YAML at all."""
    node = compose(text, source)
    walk = _Walk(source, environment)
    values = None if node is None else walk.value(node, (), 0)
    return Tree(values, Origin(source, walk.lines), walk.problems, walk.broken)


@dataclass
class _Walk:
    """One pass over the nodes, in which an alias counts each time that it is used."""

    source: Path
    environment: Mapping[str, str]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[KeyPath] = field(default_factory=set)
    visited: int = 0

    def value(self, node: yaml.Node, path: KeyPath, depth: int) -> object:
        self._count(node, depth)
        self.lines.setdefault(path, _line(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (MAP, SEQ):
            self._broken(node, path, f"expected no tag, got {show(node.tag)}")
            return None
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.value(item, (*path, place), depth + 1) for place, item in items]
        return self._mapping(node, path, depth)

    def _mapping(self, node: yaml.Node, path: KeyPath, depth: int) -> dict[str, object]:
        values = {}
        for name, (key, item) in self._entries(node, path, depth).items():
            self.lines[(*path, name)] = _line(key)
            values[name] = self.value(item, (*path, name), depth + 1)
        return values

    def _entries(self, node: yaml.Node, path: KeyPath, depth: int) -> Entries:
        """Collect a mapping's keys: its own first, then those merged in with `<<`."""
        self._count(node, depth, len(node.value))
        own: Entries = {}
        merged: Entries = {}
        for key, item in self._pairs(node, path):
            if key.tag == MERGE:
                merged = self._merged(item, path, depth + 1)
            else:
                own[key.value] = (key, item)
        return {**merged, **own}

    def _pairs(self, node: yaml.Node, path: KeyPath) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Give a mapping's pairs whose key is text that has not come before; report the others."""
        first: dict[str, yaml.Node] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, path, "expected a word as a key, got a list or a mapping")
            elif not _is_unicode(key.value):
                self._report(key, path, f"expected Unicode text as a key, got {show(key.value)}")
            elif key.value in first:
                self._twice(key, first[key.value], (*path, key.value))
            else:
                first[key.value] = key
                yield key, item

    def _merged(self, node: yaml.Node, path: KeyPath, depth: int) -> Entries:
        if isinstance(node, yaml.MappingNode):
            return self._entries(node, path, depth)
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: Entries = {}
        for part in parts:
            if isinstance(part, yaml.MappingNode):
                merged = {**self._entries(part, path, depth), **merged}
            else:
                self._report(part, path, "expected a mapping or a list of mappings after <<")
        return merged

    def _twice(self, key: yaml.Node, first: yaml.Node, path: KeyPath) -> None:
        text = f"expected each key once, got {show(path[-1])} again (first on line {_line(first)})"
        self._report(key, path, text)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        if node.tag == STR:
            return self._text(node, path)
        try:
            return convert(node.tag, node.value)
        except ValueError:
            text = f"expected a plain value, got {show(node.value)} with the tag {show(node.tag)}"
            self._broken(node, path, text)
            return None

    def _text(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        """Expand variables; what they make of unquoted text may be a number."""
        text, problems = expand(node.value, self.environment)
        if not _is_unicode(text):
            problems.append(f"expected Unicode text, got {show(text)}")
        for problem in problems:
            self._broken(node, path, problem)
        if problems:
            return None
        return resolve(text) if node.style is None and text != node.value else text

    def _broken(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        """Report a value that cannot be formed."""
        self._report(node, path, text)
        self.broken.add(path)

    def _report(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(_line(node), path, text))

    def _count(self, node: yaml.Node, depth: int, values: int = 1) -> None:
        """Refuse aliases that expand without end, before they are expanded."""
        self.visited += values
        if self.visited > MAX_NODES or depth > MAX_DEPTH:
            text = f"expected a small deck, got aliases that make {too_large()}"
            raise deck_error(self.source, [Problem(_line(node), (), text)])


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogate, which pydantic cannot take and no file can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
