"""What the files of a run are made from, and the check that it is still the same."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hpcnk.deck import Deck
from hpcnk.errors import MismatchError
from hpcnk.kernels import Architecture
from hpcnk.store import differences, library
from hpcnk.version import __version__

_CODE = "code"
_NUMERICAL = ("data", "engine", "kernels", "tiling")  # the packages that decide the stored bytes
_SHUFFLE = "data.shuffle"  # absent where rows are in the published order, as in older files
_SOURCES = frozenset({".py", ".cuh", ".hpp", ".cpp", ".cu"})


@cache
def code_version() -> str:
    """Return the version and a hash of the sources that decide the bytes of inputs and tiles."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for name in _NUMERICAL:
        sources = (file for file in (package / name).rglob("*") if file.suffix in _SOURCES)
        for source in sorted(sources):
            digest.update(source.relative_to(package).as_posix().encode() + source.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def inputs_provenance(deck: Deck) -> dict[str, Any]:
    """Return what the preprocessed inputs depend on, the contents of the data apart."""
    return _train(deck) | {"data.test": _selection(deck.data.test)}


def settings_provenance(deck: Deck, architecture: Architecture) -> dict[str, Any]:
    """Return what of the training kernel's origin the deck alone decides."""
    return _train(deck) | {
        "kernel.layers": architecture.canonical(),
        "kernel.kind": deck.kernel.kind,
        "kernel.tile": deck.kernel.tile,
    }


def kernel_provenance(
    deck: Deck, architecture: Architecture, backend: str, contents: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the training kernel depends on; `contents` are the attributes of the inputs."""
    return (
        settings_provenance(deck, architecture)
        | {
            "kernel.backend": backend,
        }
        | train_contents(contents)
    )


def train_contents(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what the training kernel was computed from, of the attributes of the inputs."""
    key = "contents of the training data"
    return {key: contents[key]}


def test_contents(deck: Deck, contents: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what the test kernel was computed from."""
    key = "contents of the test data"
    test = {key: contents[key], "data.test": _selection(deck.data.test)}
    return train_contents(contents) | test


def solution_provenance(deck: Deck, kernel_id: str, contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a solution depends on, beside its kernel file and that file's origin."""
    return {
        "kernel file": kernel_id,
        "solve.ridge": str(list(deck.solve.ridge)),
        "solve.sizes": str(list(deck.solve.sizes)),
    } | train_contents(contents)


def solver_settings(deck: Deck) -> dict[str, str]:
    """Return what a solution depends on beside its kernel, data and ridges."""
    return {
        "solve.tolerance": str(deck.solve.tolerance),
        "solve.max_iterations": str(deck.solve.max_iterations),
        "solve.preconditioner": str(deck.solve.preconditioner),
        "solve.reproducible": str(deck.solve.reproducible),
        "solve.method": deck.solve.method,
        "solve.block": str(deck.solve.block),
        "solve.leave_one_out": str(deck.solve.leave_one_out),
        "solve.evidence": str(deck.solve.evidence),
        "data.validation": str(deck.data.validation),
        "data.seed": str(deck.data.seed),
    }


def test_provenance(
    deck: Deck, architecture: Architecture, backend: str, contents: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the test kernel depends on."""
    kernel = kernel_provenance(deck, architecture, backend, contents)
    return kernel | test_contents(deck, contents)


def variances_provenance(
    deck: Deck,
    architecture: Architecture,
    engine: tuple[str, str],
    contents: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the variances depend on; `engine`: its back end and its working precision."""
    wanted = test_provenance(deck, architecture, engine[0], contents)
    del wanted["kernel.tile"]
    return wanted | {"working dtype": engine[1]}


def require_same(
    path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], complete: bool
) -> str:
    """Check that a stored file is what is wanted now; return a note, empty if all is the same.

    A change of code is refused while the file is incomplete, for its tiles would be of two kinds;
    a complete file stays usable and the change is noted. Raises MismatchError naming the changes.
    """
    known = {key: stored[key] for key in stored if key in wanted or key == _SHUFFLE}
    changed = differences(known, wanted)
    if complete and known.get(_CODE) != wanted.get(_CODE):
        note = f"{path.name} was made by hpcnk {known.get(_CODE)}, this is {wanted[_CODE]}"
        changed = [line for line in changed if not line.startswith(f"{_CODE}:")]
    else:
        note = ""
    if changed:
        raise MismatchError(
            f"{path} was made from something else:\n  " + "\n  ".join(changed),
            "go back to what it was made from, or give the deck another `output`; "
            f"removing {path.name} computes it anew",
        )
    return note


def report_head(deck: Deck, ranks: int, threads: int) -> dict[str, Any]:
    """Return the fields of the report that every stage refreshes."""
    return {
        "name": deck.name,
        "deck": str(deck.source),
        "deck_hash": deck_hash(deck),
        "versions": {
            "hpcnk": code_version(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "mpi4py")},
            **library(),
        },
        "ranks": ranks,
        "threads": threads,
    }


def deck_hash(deck: Deck) -> str:
    """Return the SHA-256 of all values of the deck, defaults included."""
    return hashlib.sha256(json.dumps(deck.flat(), sort_keys=True).encode()).hexdigest()


def _train(deck: Deck) -> dict[str, Any]:
    data = deck.data
    return {
        _CODE: code_version(),
        "data.dataset": data.dataset,
        "data.train": _selection(data.train),
        "data.normalize": data.normalize,
        "data.whitening.regularization": data.whitening and data.whitening.regularization,
        "data.whitening.fit": data.whitening and data.whitening.fit,
        "kernel.dtype": deck.kernel.dtype,
        **({_SHUFFLE: f"true, by data.seed {data.seed}"} if data.shuffle else {}),
    }


def _selection(rows: Any) -> Any:
    return rows.model_dump() if rows is not None else "all"
