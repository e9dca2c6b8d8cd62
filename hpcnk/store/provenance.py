"""What a stored file was made from, and how that differs from what is asked for now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

_ABSENT = "(nothing)"


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return one line for each key whose value changed, naming both values."""
    lines = []
    for key in sorted({*stored, *wanted}):
        was, now = stored.get(key, _ABSENT), wanted.get(key, _ABSENT)
        if was != now:
            where, was, now = _first_difference(key, was, now)
            lines.append(f"{where}: was {_short(was)}, is now {_short(now)}")
    return lines


def _first_difference(key: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Go down into lists to the first item that differs."""
    if not (isinstance(was, list) and isinstance(now, list)):
        return key, was, now
    pairs = zip_longest(was, now, fillvalue=_ABSENT)
    index, pair = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"{key}[{index}]", *pair


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
