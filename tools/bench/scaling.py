"""Rows for scaling: more threads in one process, and more processes of one thread."""

from __future__ import annotations

from contextlib import ExitStack

from tools.bench.cases import EFFICIENCY, Case
from tools.bench.client import Client, engine_client
from tools.bench.measure import Settings, prepare_engine, rate
from tools.bench.results import Row, judged
from tools.bench.timing import best


def steps(most: int) -> list[int]:
    """Powers of two below `most`, and `most`."""
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*powers, most]


def thread_scaling(case: Case, settings: Settings) -> Row:
    """One process with 1, 2, 4, ... threads, each bound to as many cores."""
    counts = steps(len(settings.cores))
    rounds: dict[int, list[Row]] = {count: [] for count in counts}
    with ExitStack() as stack:
        engines = {
            count: stack.enter_context(engine_client(list(settings.cores[:count])))
            for count in counts
        }
        networks = {
            count: prepare_engine(engine, case, settings, count)
            for count, engine in engines.items()
        }
        for _ in range(settings.rounds):
            for count, engine in engines.items():
                rounds[count].append(engine.ask("measured"))
    return _row("threads", case, networks[1], rounds)


def process_scaling(case: Case, settings: Settings) -> Row:
    """1, 2, 4, ... processes at the same time, one thread on a core of its own each."""
    counts = steps(len(settings.cores))
    rounds: dict[int, list[Row]] = {count: [] for count in counts}
    with ExitStack() as stack:
        engines = [stack.enter_context(engine_client([core])) for core in settings.cores]
        network = prepare_engine(engines[0], case, settings, 1)
        for engine in engines[1:]:
            _load(engine, case, settings, network)
        for _ in range(settings.rounds):
            for count in counts:
                rounds[count].append(_together(engines[:count]))
    return _row("processes", case, network, rounds)


def _load(engine: Client, case: Case, settings: Settings, network: Row) -> None:
    """Give a process the same block as the first one."""
    engine.ask(
        "network",
        layers=case.layers,
        shape=case.shape,
        dtype=settings.dtype,
        backend=settings.backend,
        threads=1,
    )
    engine.ask("prepare", **network["block"])


def _together(engines: list[Client]) -> Row:
    """Let all compute at once; the slowest ends the measurement."""
    for engine in engines:
        engine.send("measured")
    each = [engine.receive() for engine in engines]
    return {
        "pairs": sum(one["pairs"] for one in each),
        "seconds": max(one["seconds"] for one in each),
        "each": each,
    }


def _row(what: str, case: Case, network: Row, rounds: dict[int, list[Row]]) -> Row:
    rates = {count: best(map(rate, measured)) for count, measured in rounds.items()}
    found = {"efficiency": efficiency(rates), "pairs_per_s": rates[max(rates)]}
    found["el_layers_per_s"] = (found["pairs_per_s"] or 0.0) * network["operations"]
    return {
        "name": f"{what} 1 to {max(rates)}, {case.name}",
        **network,
        "rounds": {str(count): measured for count, measured in rounds.items()},
        "pairs_per_s": {str(count): value for count, value in rates.items()},
        "found": found,
        "targets": judged([EFFICIENCY], found),
    }


def efficiency(rates: dict[int, float | None]) -> float | None:
    """The rate of the largest count, over that many times the rate of one; None for one alone."""
    most, one = max(rates), rates[1]
    many = rates[most]
    return many / (most * one) if one and many and most > 1 else None
