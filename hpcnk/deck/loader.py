"""YAML text into nodes with line numbers, and single nodes into plain values.

The numbers are those of YAML 1.2: `1e-6` and `1.0E6` are numbers (PyYAML takes them for text),
`010` and `12:30` are text (PyYAML makes 8 and 750 of them). Dates are text.
"""

import re

import yaml

from hpcnk.deck.problems import Problem, deck_error

MAX_DEPTH = 64
MAX_NODES = 20_000

_TAG = "tag:yaml.org,2002:"
NULL, BOOL, INT, FLOAT, STR, SEQ, MAP, MERGE = (
    _TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
)

_PATTERNS = {
    # More digits than 18 are no row count or size, and Python refuses to convert thousands.
    INT: re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,17})"),
    FLOAT: re.compile(
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
    ),
    BOOL: re.compile(r"(?i:true|false|yes|no|on|off)"),
    NULL: re.compile(r"~|null|Null|NULL|"),
}


class _Loader(yaml.SafeLoader):
    """Composes nodes, with a bound on their number and depth."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own form: filled below, per class

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node; refuse a deck that would exhaust the stack or the memory."""
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, too_large(), mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _tag, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern.pattern})\\Z"), None)
_Loader.add_implicit_resolver(MERGE, re.compile(r"<<\Z"), ["<"])


def too_large() -> str:
    """Say what the size limits of a deck are."""
    return f"more than {MAX_NODES} values, or nested deeper than {MAX_DEPTH} levels"


def compose(text: str, source: object) -> yaml.Node | None:
    """Parse one YAML document into nodes; None for an empty one.

    Raises DeckError with line and column where the text is no YAML.
    """
    try:
        return _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise deck_error(source, [Problem(line, (), _syntax(error, text))]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        sentence = f"expected printable characters, got {chr(error.character)!r}"
        raise deck_error(source, [Problem(line, (), sentence)]) from None
    except (ValueError, OverflowError) as error:
        # PyYAML lets a code point such as "\UFFFFFFFF" and a monstrous %YAML version through.
        sentence = f"expected valid YAML, got a number or character out of range ({error})"
        raise deck_error(source, [Problem(1, (), sentence)]) from None


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    at = f" at column {mark.column + 1}" if mark else ""
    if "'\\t'" in (error.problem or ""):
        return f"expected spaces, got a tab{at}"
    fact = ", ".join(part for part in (error.problem, error.context) if part)
    return f"expected valid YAML, got: {fact}{at}"


def resolve(text: str) -> object:
    """Read a plain text that came out of a variable: a number, true or false, or else text.

    Never None: an empty variable must not pass for a key that was left out.
    """
    for tag in (INT, FLOAT, BOOL):
        if _PATTERNS[tag].fullmatch(text):
            return convert(tag, text)
    return text


def convert(tag: str, text: str) -> object:
    """Make the plain value of a scalar. Raises ValueError where tag and text do not fit."""
    if tag == STR:
        return text
    if tag not in _PATTERNS or not _PATTERNS[tag].fullmatch(text):
        raise ValueError(f"{tag} {text!r}")
    if tag == NULL:
        return None
    if tag == BOOL:
        return text.lower() in ("true", "yes", "on")
    number = text.replace("_", "")
    if tag == INT:
        return int(number)
    return float(number.lower().replace(".inf", "inf").replace(".nan", "nan"))
