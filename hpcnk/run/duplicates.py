"""Equal training rows, which make a system without a ridge singular."""

from __future__ import annotations

import hashlib

from hpcnk.errors import UsageError
from hpcnk.run.session import Session
from hpcnk.store import read_rows, read_shape

ROWS = 4096  # read at once


def require_different_rows(session: Session) -> None:
    """Raise UsageError if the deck asks for ridge 0 and two training rows are equal."""
    if 0.0 not in session.deck.solve.ridge:
        return
    path = session.folder.inputs
    n = read_shape(path, "x_train")[0]
    first: dict[bytes, int] = {}
    for start in range(0, n, ROWS):
        block = read_rows(path, "x_train", slice(start, min(n, start + ROWS)))
        for row, values in enumerate(block, start):
            digest = hashlib.blake2b((values + 0.0).tobytes(), digest_size=16).digest()
            if first.setdefault(digest, row) != row:
                raise UsageError(
                    f"solve.ridge has 0, and training rows {first[digest]} and {row} are equal: "
                    "the kernel is singular",
                    "take 0 out of solve.ridge (1e-6 is close to it), or drop one of the rows",
                )
