"""Environment variables in a deck's text: `${NAME}`, `${NAME:-default}` and `$$`."""

import re
from collections.abc import Mapping

from hpcnk.deck.problems import MAX_SHOWN

# The default is bounded, or else a text of nothing but beginnings would take hours to search.
_DOLLAR = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<otherwise>:-(?P<default>[^}]{0,1000}))?\})?"
)


def expand(text: str, environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """Put variables into a text; return the result and a sentence for each that failed.

    `${NAME:-default}` gives the default where NAME is unset or empty, as in a shell; `$$` is a
    dollar sign. What a variable holds is not expanded again.
    """
    problems: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if match["dollar"] or len(problems) >= MAX_SHOWN:
            return "$"
        if name is None:
            problems.append(_lone_dollar(text, match.start()))
        elif match["otherwise"]:
            return environment.get(name) or match["default"]
        elif name not in environment:
            problems.append(_unset(name))
        return environment.get(name, "") if name else "$"

    return _DOLLAR.sub(replace, text), problems


def _unset(name: str) -> str:
    return (
        f"expected the environment variable {name} to be set, got none: "
        f"export {name}=..., or write ${{{name}:-default}}"
    )


def _lone_dollar(text: str, start: int) -> str:
    return (
        f"expected ${{NAME}} or ${{NAME:-default}} for an environment variable, or $$ for a dollar "
        f"sign, got {text[start : start + 20]!r}"
    )
