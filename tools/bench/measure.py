"""One row: hpcnk's engine and its peers in turn, on the same cores in the same minutes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tools.bench.cases import Case
from tools.bench.channel import neutral
from tools.bench.client import Client, WorkerError, engine_client, peer_client
from tools.bench.machine import Clock, load
from tools.bench.results import Row, judged, quantities
from tools.bench.timing import best

AGREEMENT = {"float32": 1e-4, "float64": 1e-9}
# Larger blocks gain nothing and only take memory; more calls fill the time instead.
MOST_ROWS = {"cpu": 4096, "gpu": 8192}
# A batch whose call would take longer than this, going by the last one, is not tried.
LONGEST_CALL_S = 30.0
# A batch this much slower than the best ends the search, for it no longer fits the caches.
SLOWER = 0.7


class Disagreement(Exception):
    """Engine and peer compute different kernels: no time is worth comparing."""


@dataclass(frozen=True)
class Settings:
    """How to measure: `rounds` measurements of at least `seconds` each; one thread a core."""

    cores: tuple[int, ...]
    backend: str = "cpu"
    dtype: str = "float32"
    seconds: float = 1.2
    rounds: int = 3


@dataclass
class Peer:
    """A peer's process and what it says of itself."""

    name: str
    client: Client
    versions: dict[str, str]


@dataclass
class Session:
    """The processes of a run. Peers that cannot work are told in `notes` and left out."""

    settings: Settings
    engine: Client
    clock: Clock
    peers: list[Peer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_session(settings: Settings, pythons: list[str], stack: ExitStack) -> Session:
    """Start the engine's process and those of the peers; `stack` ends them."""
    cores = list(settings.cores)
    session = Session(settings, stack.enter_context(engine_client(cores)), Clock())
    for number, python in enumerate(pythons, start=1):
        client = stack.enter_context(peer_client(python, cores, settings.backend, settings.dtype))
        _admit(session, client, number)
    if not pythons:
        session.notes.append("no peer: pass --peer with a Python that has neural_tangents")
    return session


def _admit(session: Session, client: Client, number: int) -> None:
    try:
        versions = client.ask("versions")
    except (WorkerError, OSError) as error:
        session.notes.append(f"peer {number} left out: {neutral(str(error))}")
        return
    name = f"Neural Tangents {versions['neural-tangents']}, JAX {versions['jax']}"
    if session.settings.backend == "gpu" and versions["platform"] == "cpu":
        session.notes.append(f"peer {number} left out: {name} sees no GPU")
        return
    session.peers.append(Peer(name, client, versions))


def measured_case(session: Session, case: Case, reference: float | None) -> Row:
    """Measure a row. `reference` is Myrtle10's el-layers/s, None where not measured.

    Raises Disagreement, and WorkerError if the engine itself fails.
    """
    settings = session.settings
    network = prepare_engine(session.engine, case, settings, len(settings.cores))
    peers = [_prepare_peer(session, case, peer, network) for peer in session.peers]
    clocks: list[float | None] = []
    rounds: list[Row] = []
    products: list[Row] = []
    for _ in range(settings.rounds):
        clocks.append(_clock(session))
        rounds.append(session.engine.ask("measured"))
        for peer, record in zip(session.peers, peers, strict=True):
            _peer_round(peer, record, settings.seconds)
        if case.product:
            products.append(session.engine.ask("product"))
    row = {
        "name": case.name,
        **network,
        "rounds": rounds,
        "pairs_per_s": best(map(rate, rounds)),
        "clock_hz": clocks,
        "product_rounds": products,
        "product_pairs_per_s": best(map(rate, products)),
        "peers": [_with_rate(record) for record in peers],
        "peer_pairs_per_s": best(record["pairs_per_s"] for record in peers),
        "load": load(),
    }
    return _with_judgement(row, case, settings, reference)


def prepare_engine(engine: Client, case: Case, settings: Settings, threads: int) -> Row:
    """Load a network and find the block that takes long enough. Raises WorkerError."""
    network = engine.ask(
        "network",
        layers=case.layers,
        shape=case.shape,
        dtype=settings.dtype,
        backend=settings.backend,
        threads=threads,
    )
    most = MOST_ROWS[settings.backend]
    block = engine.ask("calibrate", seconds=settings.seconds, most=most)
    return {
        "layers": network["canonical"],
        "shape": list(case.shape),
        "operations": network["operations"],
        "backend": network["backend"],
        "reason": neutral(network["reason"]),
        "block": block,
        "prepare": engine.ask("prepare", **block),
    }


def rate(measurement: Row) -> float:
    """Pairs a second of one measurement."""
    return float(measurement["pairs"] / measurement["seconds"])


def _clock(session: Session) -> float | None:
    on_gpu = session.settings.backend == "gpu"
    return None if on_gpu else session.clock.read(list(session.settings.cores))


def _with_judgement(row: Row, case: Case, settings: Settings, reference: float | None) -> Row:
    known = [clock for clock in row["clock_hz"] if clock]
    clock = sum(known) / len(known) if known else None
    found = quantities(case, row, len(settings.cores), clock, reference)
    return {**row, "found": found, "targets": judged(case.targets(settings.backend), found)}


def _prepare_peer(session: Session, case: Case, peer: Peer, network: Row) -> Row:
    """Load the network, compare its kernel with the engine's, and choose the batch."""
    record: Row = {"name": peer.name, "rounds": [], "batches": [], "batch": None}
    try:
        _load_peer(peer, case, network, session.settings)
        record["difference"] = _checked_agreement(session, case, peer)
    except WorkerError as error:
        record["error"] = f"{error.kind}: {error.what}"
        return record
    sizes = case.batches if session.settings.backend == "cpu" else case.gpu_batches
    for size in sizes:
        if _too_slow(record["batches"], size):
            break
        record["batches"].append(_tried(session, case, peer, network, size))
    _choose(session, case, peer, network, record)
    return record


def _load_peer(peer: Peer, case: Case, network: Row, settings: Settings) -> None:
    shape = list(case.shape)
    peer.client.ask("network", layers=network["layers"], shape=shape, dtype=settings.dtype)


def _checked_agreement(session: Session, case: Case, peer: Peer) -> float:
    rng = np.random.default_rng(1)
    x1, x2 = rng.standard_normal((2, case.agree, *case.shape)).astype(np.float32).tolist()
    ours = np.asarray(session.engine.ask("values", x1=x1, x2=x2)["values"])
    theirs = np.asarray(peer.client.ask("values", x1=x1, x2=x2)["values"])
    difference = float(np.max(np.abs(ours - theirs) / np.abs(theirs)))
    if not difference <= AGREEMENT[session.settings.dtype]:
        raise Disagreement(f"{case.name}: hpcnk and {peer.name} differ by {difference:.1e}")
    return difference


def _too_slow(tried: list[Row], size: int) -> bool:
    done = [one for one in tried if "seconds" in one]
    if not done:
        return False
    last, fastest = done[-1], best(map(_batch_rate, done))
    if fastest is not None and _batch_rate(last) < SLOWER * fastest:
        return True
    expected = last["seconds"] * _covariances(size) / _covariances(last["batch"])
    return bool(expected > LONGEST_CALL_S)


def _covariances(batch: int) -> int:
    """What Neural Tangents computes for a batch: all pairs, and every row of both sides alone."""
    return batch**2 + 2 * batch


def _batch_rate(tried: Row) -> float:
    return float(tried["batch"] ** 2 / tried["seconds"])


def _tried(session: Session, case: Case, peer: Peer, network: Row, size: int) -> Row:
    """Compile and time a batch. One that does not fit is recorded as such."""
    try:
        if not peer.client.alive:
            _load_peer(peer, case, network, session.settings)
        return {"batch": size, **peer.client.ask("compiled", batch=size)}
    except WorkerError as error:
        return {"batch": size, "error": f"{error.kind}: {error.what}"}


def _choose(session: Session, case: Case, peer: Peer, network: Row, record: Row) -> None:
    done = [one for one in record["batches"] if "seconds" in one]
    if not done:
        record["error"] = "no batch could be computed"
        return
    record["batch"] = max(done, key=_batch_rate)["batch"]
    if record["batches"][-1] is done[-1] and done[-1]["batch"] == record["batch"]:
        return  # it is loaded still
    again = _tried(session, case, peer, network, record["batch"])
    if "error" in again:
        record["error"] = again["error"]


def _peer_round(peer: Peer, record: Row, seconds: float) -> None:
    if "error" in record:
        return
    try:
        record["rounds"].append(peer.client.ask("measured", seconds=seconds))
    except WorkerError as error:
        record["error"] = f"{error.kind}: {error.what}"


def _with_rate(record: Row) -> Row:
    record["pairs_per_s"] = best(map(rate, record["rounds"]))
    return record


def peer_versions(session: Session) -> list[dict[str, Any]]:
    """Tell who the peers are."""
    return [{"name": peer.name, **peer.versions} for peer in session.peers]
