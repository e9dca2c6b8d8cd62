"""What a stored file was made from, and how that differs from what is asked for now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT = "(nothing)"


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return one line for each key whose value changed, naming both values."""
    lines = []
    for key in sorted({*stored, *wanted}):
        was, now = stored.get(key, _ABSENT), wanted.get(key, _ABSENT)
        if was != now:
            lines.append(f"{key}: was {_short(was)}, is now {_short(now)}")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
