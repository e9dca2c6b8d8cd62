"""The memory of a comparison: what its largest fit takes beside the kernel.

A low-rank fit with m inducing rows has a few matrices of this rank's rows by m, and on rank 0 a few
of m by m. A fit by blocks of b rows has a few matrices of b by b on every rank, and a committee
the kernel of the queries by b rows. The coefficients are blocks of all rows by the outputs and
ridges, as in a solve; the passes over the kernel are checked with the solve's own memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hpcnk.comm import agreement
from hpcnk.errors import UsageError
from hpcnk.report import size
from hpcnk.run.compare.items import COMMITTEE, EXACT, LOW_RANK, Item
from hpcnk.run.needs.available import memory_share
from hpcnk.run.needs.kernel_memory import FLOAT64, there_is
from hpcnk.run.session import Session
from hpcnk.solve.approximations.regression import PIECE
from hpcnk.solve.spread import ROWS
from hpcnk.store import read_shape
from hpcnk.tiling import share_blocks

FEATURES = 5  # matrices (rows of this rank, m): columns, B, Q, U and a product
TRIANGLES = 3  # the ranks' triangles (m, m) on rank 0: as they come, and two while decomposed
SQUARES = 5  # more (m, m): K_mm, its eigenvectors and their work space
EXPERT = 4  # matrices (b, b): gathered, as they come, shifted and factored
OPINION = 3  # matrices (queries, b): gathered, kept, and solved with
COEFFICIENTS = 3  # blocks (n, outputs x ridges) while a fit is put together


def item_bytes(item: Item, n: int, queries: int, ranks: int) -> int:
    """Return what one fit takes on the rank with the most, beside its coefficients."""
    if item.method == "dense":
        return 3 * n * n * FLOAT64  # on rank 0: the kernel, and a part of it shifted and factored
    if item.method in EXACT:
        return 0  # is in the solve's own
    budget = item.budget or item.rows
    gathered = 2 * n * min(PIECE, budget)  # columns of all rows, and these rows of this rank
    if item.method in LOW_RANK:
        first = share_blocks(n, ranks, 0, ROWS)
        rows = first.stop - first.start
        squares = (SQUARES + TRIANGLES * ranks) * budget**2
        return (FEATURES * rows * budget + squares + gathered) * FLOAT64
    asked = OPINION * queries * budget if item.method == COMMITTEE else 0
    return (EXPERT * budget**2 + asked + gathered) * FLOAT64


def session_with_room(session: Session, items: Sequence[Item], held: int) -> Session:
    """Return a session whose solve leaves the room that the largest fit takes. Collective.

    Its training-set sizes are those compared; `held` counts the rows held out. Raises UsageError
    if a rank cannot have that much.
    """
    n, outputs = read_shape(session.folder.inputs, "y_train")
    queries = max(held, read_shape(session.folder.inputs, "x_test")[0])
    solve, comm = session.deck.solve, session.comm
    largest = max(items, key=lambda item: item_bytes(item, n, queries, comm.size))
    need = item_bytes(largest, n, queries, comm.size)
    need += COEFFICIENTS * n * outputs * len(solve.ridge) * FLOAT64
    share, ranks = memory_share(comm)
    asked = None if solve.memory is None else int(solve.memory * 1e9)
    known = [limit for limit in (share, asked) if limit is not None]
    changed = {"sizes": tuple(sorted({item.rows for item in items if item.method in EXACT}))}
    with agreement(comm):
        if known and min(known) <= need:
            raise UsageError(
                f"comparing {largest} needs {size(need)} of memory a rank, and "
                f"{there_is(min(known), ranks)}",
                "leave out the largest of compare.budgets, start fewer ranks on a host, or take "
                "hosts with more memory",
            )
    room = {"memory": (min(known) - need) / 1e9} if known else {}
    deck = session.deck.model_copy(update={"solve": solve.model_copy(update={**changed, **room})})
    return replace(session, deck=deck)
