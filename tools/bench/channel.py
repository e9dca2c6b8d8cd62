"""A worker process that answers JSON requests, one a line; standard library only.

A request is an object with the name of a handler under `do` and its options beside it. The answer
is what the handler returns, or an object with `error` and `type`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

LONGEST_MESSAGE = 300
PATH = re.compile(r"(?:file://|(?<![\w./]))~?(?:/[\w.+~-]+){2,}/?")


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests until standard input ends."""
    # Libraries print to standard output as they please: the answers get a copy of it to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_answer(handlers, request)), file=answers, flush=True)


def _answer(handlers: Mapping[str, Callable[..., Any]], request: dict[str, Any]) -> Any:
    try:
        return handlers[request.pop("do")](**request)
    # A batch that does not fit or a network that is refused is a result, not the worker's end.
    except Exception as error:
        return {"error": neutral(str(error)), "type": type(error).__name__}


def neutral(message: str) -> str:
    """Shorten a message to its first lines, without the paths of this machine."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return PATH.sub("<path>", " ".join(lines))[:LONGEST_MESSAGE]
