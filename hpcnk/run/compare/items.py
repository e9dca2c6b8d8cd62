"""What a comparison consists of: methods x training-set sizes x budgets, and what each one costs.

The cost is counted in kernel entries, as if the method alone were wanted and each entry were
computed once, the kernel being symmetric:

- `fit`: entries among the size's leading rows that the method uses: all of them, the columns of
  the inducing rows, or the diagonal blocks; with random inducing rows also the diagonal.
- `choice`: what predicting the held-out rows takes besides; 0 if there is but one ridge.
- `test`: what predicting the test rows takes.

Candidates that random pivoting draws and rejects are not counted, and rows without a label are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.deck import Deck

EXACT = ("cg", "dense")
LOW_RANK = ("nystrom", "subset_of_regressors")
COMMITTEE = "bayesian_committee"
SHARES_OF_ROWS = (8, 4, 2, 1)  # sizes are n over these, unless the deck names some
SHARES_OF_BUDGET = (32, 16, 8, 4)  # and budgets n over these


@dataclass(frozen=True)
class Item:
    """One method on the leading `rows` training rows. `budget`: inducing rows, or rows of a block;
    None for an exact method.
    """

    method: str
    rows: int
    budget: int | None

    def __str__(self) -> str:
        kind = "inducing rows" if self.method in LOW_RANK else "rows a block"
        budget = "" if self.budget is None else f", {self.budget} {kind}"
        return f"{self.method.replace('_', ' ')}, {self.rows} rows{budget}"


def asked_items(deck: Deck, n: int, held: NDArray[np.int64]) -> list[Item]:
    """List what the deck compares, on n training rows of which some are held out.

    A budget larger than a size is left out there. Raises DeckError for sizes and budgets that are
    larger than all, and a size of which all rows are held out.
    """
    sizes, budgets = _sizes(deck, n, held), _budgets(deck, n)
    items = []
    for method in deck.compare.methods:
        for rows in sizes:
            if method in EXACT:
                items.append(Item(method, rows, None))
                continue
            most = rows - _inside(held, rows) if method in LOW_RANK else rows
            items += [Item(method, rows, budget) for budget in budgets if budget <= most]
    return items


def _sizes(deck: Deck, n: int, held: NDArray[np.int64]) -> list[int]:
    for i, size in enumerate(deck.compare.sizes):
        path = ("compare", "sizes", i)
        if size > n:
            what = f"expected at most {n}, the training rows, got {size}"
            raise deck.error_at(path, what)
        if _inside(held, size) == size:
            what = f"expected a size with rows to train on, got {size}, which are all held out"
            raise deck.error_at(path, what, "give a larger size, or a smaller data.validation")
    default = {n // share for share in SHARES_OF_ROWS}
    return sorted({*deck.compare.sizes} or {s for s in default if s > _inside(held, s)})


def _budgets(deck: Deck, n: int) -> list[int]:
    largest = max(deck.compare.sizes, default=n)
    for i, budget in enumerate(deck.compare.budgets):
        if budget > largest:
            what = f"expected at most {largest}, the rows of the largest size, got {budget}"
            raise deck.error_at(("compare", "budgets", i), what)
    default = {max(1, largest // share) for share in SHARES_OF_BUDGET}
    return sorted({*deck.compare.budgets} or default)


def _inside(held: NDArray[np.int64], rows: int) -> int:
    return int((held < rows).sum())


def kernel_entries(item: Item, held: NDArray[np.int64], tests: int, random: bool) -> dict[str, int]:
    """Count the kernel entries that an item takes; `random`: whether inducing rows are drawn."""
    n, m, inside = item.rows, item.budget or item.rows, _inside(held, item.rows)
    used, outside = n - inside, len(held) - inside
    if item.method in EXACT:
        return {"fit": _triangle(n), "choice": outside * used, "test": tests * n}
    if item.method in LOW_RANK:
        fit = n * m - _triangle(m - 1) + (n - m if random else 0)
        exact = item.method == "nystrom"
        choice = outside * used + inside * (used - m) if exact else outside * m
        return {"fit": fit, "choice": choice, "test": tests * (n if exact else m)}
    return _of_blocks(item, held[held < n], outside, tests)


def _of_blocks(item: Item, inside: NDArray[np.int64], outside: int, tests: int) -> dict[str, int]:
    size, n = item.budget or item.rows, item.rows
    used = n - len(inside)
    lengths = [min(size, n - start) for start in range(0, n, size)]
    held = np.bincount(inside // size, minlength=len(lengths)).tolist()
    there = sum(h * (length - h) for h, length in zip(held, lengths, strict=True))
    prior = item.method == COMMITTEE  # takes k(x, x) of what it predicts
    return {
        "fit": sum(map(_triangle, lengths)),
        "choice": outside * (used + prior) + len(inside) * used - there,
        "test": tests * (n + prior),
    }


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
