"""Stage 0: read, check, normalise and whiten the data once; all ranks then read the result."""

from __future__ import annotations

from typing import Any

from hpcnk.comm import on_root
from hpcnk.data import (
    Examples,
    Inputs,
    label_notes,
    load,
    preprocess,
)
from hpcnk.deck import Deck
from hpcnk.errors import UsageError
from hpcnk.run.duplicates import require_different_rows
from hpcnk.run.folder import Folder
from hpcnk.run.held import draw_held_rows
from hpcnk.run.needs.prepare_memory import require_prepare_memory
from hpcnk.run.provenance import inputs_provenance, require_same
from hpcnk.run.session import Session
from hpcnk.run.stored import check_inputs
from hpcnk.store import check_arrays, read_attributes, write_arrays


def prepare(session: Session) -> bool:
    """Write the inputs file, or check that the one there is made from the same data. Collective.

    Raises DataError for bad data, MismatchError when the folder belongs to other data.
    """
    session.begin("prepare")
    for note in on_root(session.comm, lambda: _prepare(session)):
        session.warn("prepare", note)
    return True


def require_inputs(session: Session) -> dict[str, Any]:
    """Return the attributes of the inputs file, checked against the deck alone. Collective."""
    return on_root(session.comm, lambda: _require_inputs(session))


def require_started(deck: Deck) -> None:
    """Raise UsageError unless the kernel stage has been begun in the deck's output folder."""
    folder = Folder(deck.output)
    if not folder.holds(folder.inputs):
        raise UsageError(
            f"there is no kernel in {deck.output} yet", f"run `hpcnk kernel {deck.source}` first"
        )


def _require_inputs(session: Session) -> dict[str, Any]:
    path = session.folder.inputs
    stored = read_attributes(path)
    require_same(path, stored, _attributes(inputs_provenance(session.deck)), complete=True)
    check_inputs(path, stored)
    return stored


def _prepare(session: Session) -> list[str]:
    """Return what to warn of."""
    deck, path = session.deck, session.folder.inputs
    require_prepare_memory(deck)
    examples = load(deck.data)
    session.watchdog.beat()
    hashes = {"training": examples.digest_train, "test": examples.digest_test}
    session.update_report(data_hash=hashes)
    wanted = _attributes(inputs_provenance(deck) | _contents(examples))
    notes = label_notes(examples.y_train, examples.y_test)
    draw_held_rows(deck, examples.y_train)  # what is wrong with them is refused now
    if path.exists():
        check_arrays(path)
        changed = require_same(path, read_attributes(path), wanted, complete=True)
        require_different_rows(session)
        return [changed, *notes] if changed else notes
    session.say(
        f"data: {len(examples.x_train)} training and {len(examples.x_test)} test rows of shape "
        f"{examples.x_train.shape[1:]}{', whitening' if deck.data.whitening else ''}"
    )
    session.architecture.check(examples.x_train.shape[1:])
    inputs = preprocess(examples, deck.data)
    session.watchdog.beat()
    write_arrays(path, _arrays(inputs, examples, deck.kernel.dtype), wanted)
    session.events.write("inputs", train=len(inputs.x_train), test=len(inputs.x_test))
    require_different_rows(session)
    return notes


def _arrays(inputs: Inputs, examples: Examples, dtype: str) -> dict[str, Any]:
    return {
        "x_train": inputs.x_train.astype(dtype),
        "x_test": inputs.x_test.astype(dtype),
        "y_train": inputs.y_train,
        "y_test": inputs.y_test,
        "target_train": examples.y_train,
        "target_test": examples.y_test,
        "rows_train": examples.train_rows,
        "rows_test": examples.test_rows,
        "target_mean": inputs.targets.mean,
        "target_std": inputs.targets.std,
    }


def _contents(examples: Examples) -> dict[str, str]:
    return {
        "task": examples.task,
        "contents of the training data": examples.digest_train,
        "contents of the test data": examples.digest_test,
    }


def _attributes(provenance: dict[str, Any]) -> dict[str, str]:
    """HDF5 attributes hold no dictionaries: text compares as well."""
    return {key: str(value) for key, value in provenance.items()}
