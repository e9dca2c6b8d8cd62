"""The manual of the deck, printed from the types that check it."""

import textwrap
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from hpcnk.deck.explain import Models, models_in, phrase
from hpcnk.deck.problems import show
from hpcnk.deck.schema import Deck

_WIDTHS = (30, 34, 18, 44)
_HEAD = ("key", "takes", "default", "meaning")

Row = tuple[str, str, str, str]


def manual() -> str:
    """Print every key of the deck with what it takes, its default and its meaning, as a table."""
    rule = "  ".join("-" * width for width in _WIDTHS)
    body = [line for row in _rows([Deck], "") for line in _lines(row)]
    return "\n".join([*_lines(_HEAD), rule, *body]) + "\n"


def _rows(models: Models, above: str) -> Iterator[Row]:
    for model in models:
        for key, info in model.model_fields.items():
            below = models_in(info.annotation)
            if not _is_section(info):
                yield above + key, phrase(info), _default(info), info.description or ""
            yield from _rows(below, f"{above}{key}.")


def _is_section(info: FieldInfo) -> bool:
    """Whether a field is a section, whose keys alone stand in the manual."""
    return info.annotation in models_in(info.annotation)


def _default(info: FieldInfo) -> str:
    if isinstance(info.json_schema_extra, dict):
        return str(info.json_schema_extra["default"])
    if info.is_required():
        return "required"
    value = info.default
    if value is None:
        return "none"
    return show(value.model_dump() if models_in(type(value)) else value).strip("'")


def _lines(row: Row) -> list[str]:
    """Set one row, each cell wrapped to its column."""
    cells = [textwrap.wrap(text, width) or [""] for text, width in zip(row, _WIDTHS, strict=True)]
    height = max(map(len, cells))
    filled = [cell + [""] * (height - len(cell)) for cell in cells]
    return [
        "  ".join(part.ljust(width) for part, width in zip(parts, _WIDTHS, strict=True)).rstrip()
        for parts in zip(*filled, strict=True)
    ]
