"""One item's way: ridges scored on rows held out, the best one fitted again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root
from hpcnk.report import better, score
from hpcnk.run.compare.fits import Said, say, say_exactly
from hpcnk.run.compare.ground import Array, Ground, Training
from hpcnk.run.compare.items import EXACT, Item, kernel_entries
from hpcnk.run.compare.queries import HeldOut, Queries, TestRows
from hpcnk.run.compare.record import Entry
from hpcnk.run.labels import read_targets
from hpcnk.run.stored import read_labels

Metrics = dict[str, float]


class Trial:
    """Fits items and scores them. All methods are collective."""

    def __init__(self, ground: Ground, tests: TestRows) -> None:
        self._ground, self._tests = ground, tests
        self._without_held = ground.without_held()
        self._ridges = ground.session.deck.solve.ridge

    def entries(self, items: Sequence[Item]) -> list[Entry]:
        """Return the entries of compare.json for items of one method."""
        first, choices = self._choose(items)
        ridges = [self._ridges[best or 0] for best, _ in choices]
        trainings = [self._ground.training(item.rows) for item in items]
        second = self._say(items, trainings, [(ridge,) for ridge in ridges], self._tests)
        return [
            self._entry(item, training, ridge, (choice, metrics, best), said)
            for item, training, ridge, choice, (best, metrics), said in zip(
                items, trainings, ridges, first, choices, second, strict=True
            )
        ]

    def _choose(
        self, items: Sequence[Item]
    ) -> tuple[list[Said | None], list[tuple[int | None, list[Metrics]]]]:
        """Return what was said of the rows held out, and for each item the number of the best
        ridge, None if none could be solved, with the metrics of all.
        """
        if len(self._ridges) == 1:
            return [None] * len(items), [(0, [])] * len(items)
        ground = self._without_held
        trainings = [ground.training(item.rows) for item in items]
        said = self._say(items, trainings, [self._ridges] * len(items), HeldOut(ground))
        return list(said), [self._best(one) for one in said]

    def _say(
        self,
        items: Sequence[Item],
        trainings: Sequence[Training],
        ridges: Sequence[Sequence[float]],
        queries: Queries,
    ) -> list[Said]:
        if items[0].method in EXACT:
            return say_exactly(items[0].method, trainings, ridges, queries)
        parts = zip(items, trainings, ridges, strict=True)
        return [say(item, training, some, queries) for item, training, some in parts]

    def _best(self, said: Said) -> tuple[int | None, list[Metrics]]:
        metrics = self._score("train", said.values, self._ground.held)
        best = None
        for i in np.flatnonzero(said.sound).tolist():
            if best is None or better(metrics[i], metrics[best]):
                best = i
        return best, metrics

    def _score(self, part: str, values: Array, rows: NDArray[np.int64] | None) -> list[Metrics]:
        """Score predictions (ridges, queries, outputs) of rows of one part; None: of all."""
        inputs = self._ground.session.folder.inputs

        def scored() -> list[Metrics]:
            targets = read_targets(inputs)
            encoded, raw = read_labels(inputs, part)
            chosen = slice(None) if rows is None else rows
            decoded = [targets.decode(one) for one in values]
            labels = (raw[chosen], encoded[chosen], targets.std)
            return [score(targets.task, one, *labels) for one in decoded]

        return on_root(self._ground.session.comm, scored)

    def _entry(
        self,
        item: Item,
        training: Training,
        ridge: float,
        choice: tuple[Said | None, list[Metrics], int | None],
        said: Said,
    ) -> Entry:
        first, metrics, best = choice
        good = best is not None and said.sound[0]
        held = self._ground.held if first else self._ground.held[:0]
        random = self._ground.session.deck.compare.inducing == "random"
        entry: dict[str, Any] = {
            "method": item.method,
            "rows": item.rows,
            "budget": item.budget,
            "ridge": ridge,
            "ridge_absolute": ridge * training.scale,
            "validation": metrics[best] if metrics and best is not None else None,
            "test": self._score("test", said.values, None)[0] if good else None,
            "iterations": said.iterations,
            "entries": kernel_entries(item, held, self._tests.count, random),
            "seconds": {
                "choice": first.fit + first.predict if first else 0.0,
                "fit": said.fit,
                "predict": said.predict,
            },
        }
        return entry
