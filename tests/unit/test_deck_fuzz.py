"""Anything at all gives a deck or a DeckError; good decks are read as they were written."""

import re
from functools import partial

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpcnk.deck import Deck
from hpcnk.errors import DeckError
from tests.unit.deck_trial import MINIMAL, read_text, rows_of

FAST = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def read(tmp_path):
    return partial(read_text, tmp_path)


WORDS = "name output data kernel solve store dataset digits path train count per_class seed layers"
WORDS += " reproducible checkpoint minutes iterations watchdog"
WORDS += " ridge tile preconditioner kind rank whitening regularization validation none cv8 driver"
KEYS = st.sampled_from([*WORDS.split(), "ridgee", "", "<<", "$", "a b"]) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2000)
    | st.integers()
    | st.floats()
    | KEYS
    | st.dates()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={key: VALUES for key in ["name", "output", "data", "kernel", "solve", "store"]},
)
YAML_TEXT = st.text(alphabet="ab:-[]{},&*!|>'\"%#?<$\\U0 1.e\t\n\r~@`\x85\u2028\ufeff", max_size=60)


def _read_or_deck_error(read, content):
    try:
        assert isinstance(read(content), Deck)
    except DeckError as error:
        str(error).encode()
        assert all(re.match(r".*trial\.yaml:\d+: ", row) for row in rows_of(error))


@FAST
@given(VALUES | SECTIONS)
def test_any_values_give_a_deck_or_a_deck_error(read, values):
    _read_or_deck_error(read, yaml.safe_dump(values, allow_unicode=True).encode())


@FAST
@given(st.binary(max_size=80) | YAML_TEXT.map(str.encode))
@example(b"\xff\xfe")
@example(b"? ")
@example(b"!<> x")
@example(b"- !!float\n")
def test_any_bytes_give_a_deck_or_a_deck_error(read, content):
    _read_or_deck_error(read, content)


@FAST
@given(st.integers(0, len(MINIMAL) - 1), YAML_TEXT)
def test_any_damage_gives_a_deck_or_a_deck_error(read, place, noise):
    _read_or_deck_error(read, (MINIMAL[:place] + noise + MINIMAL[place:]).encode())


SELECTIONS = st.one_of(
    st.none(),
    st.fixed_dictionaries({"start": st.integers(0, 10**6), "count": st.integers(1, 10**7)}),
    st.fixed_dictionaries({"per_class": st.integers(1, 999), "seed": st.integers(0, 2**32 - 1)}),
)
POSITIVE = st.floats(1e-300, 1e300)
METHODS = st.sampled_from(["cg", "dense", "nystrom", "block_diagonal"])
GOOD_DECKS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z]w[a-z0-9_.-]{0,20}", fullmatch=True),
        "output": st.from_regex(r"/[a-z]w[a-z0-9 _.-]{0,20}/[a-z]", fullmatch=True),
        "data": st.fixed_dictionaries(
            {
                "dataset": st.just("digits"),
                "path": st.none(),
                "train": SELECTIONS,
                "test": SELECTIONS,
                "shuffle": st.booleans(),
                "validation": st.floats(0, 1, exclude_max=True) | st.integers(0, 10**6),
                "whitening": st.none()
                | st.fixed_dictionaries(
                    {"regularization": POSITIVE, "fit": st.sampled_from(["selected", "all"])}
                ),
                "seed": st.integers(0, 2**32 - 1),
                "normalize": st.booleans(),
            }
        ),
        "kernel": st.fixed_dictionaries(
            {
                "layers": st.sampled_from(["cv8", {"preset": "fc", "depth": 3}])
                | st.lists(st.sampled_from(["relu", {"dense": {"w_std": 1e-7}}, "flatten"])),
                "kind": st.sampled_from(["ntk", "nngp"]),
                "dtype": st.sampled_from(["float32", "float64"]),
                "tile": st.integers(1, 10**6),
                "backend": st.sampled_from(["auto", "cpu", "gpu", "reference"]),
            }
        ),
        "solve": st.fixed_dictionaries(
            {
                "ridge": st.lists(st.floats(0.0, 1e100), min_size=1, max_size=5, unique=True),
                "sizes": st.lists(st.integers(1, 10**7), max_size=3, unique=True).map(sorted),
                "method": st.sampled_from(["cg", "dense"]),
                "block": st.booleans(),
                "operator": st.sampled_from(["auto", "resident", "streamed", "recomputed", "gpu"]),
                "memory": st.none() | POSITIVE,
                "leave_one_out": st.none() | st.integers(1, 10**4),
                "evidence": st.none() | st.integers(1, 10**4),
                "tolerance": st.floats(1e-300, 1, exclude_max=True),
                "max_iterations": st.integers(1, 10**9),
                "preconditioner": st.none()
                | st.fixed_dictionaries(
                    {
                        "kind": st.sampled_from(["pivoted_cholesky", "random_cholesky", "nystrom"]),
                        "rank": st.just("auto") | st.integers(1, 10**5),
                        "seed": st.integers(0, 2**32 - 1),
                    }
                ),
                "reproducible": st.booleans(),
                "checkpoint": st.none()
                | st.fixed_dictionaries(
                    {"minutes": POSITIVE, "iterations": st.none() | st.integers(1, 10**6)}
                ),
            }
        ).filter(lambda solve: not (solve["reproducible"] and solve["operator"] == "gpu")),
        "predict": st.fixed_dictionaries({"variance": st.just(False)}),
        "compare": st.fixed_dictionaries(
            {
                "methods": st.lists(METHODS, min_size=1, unique=True),
                "sizes": st.lists(st.integers(1, 10**7), max_size=3, unique=True).map(sorted),
                "budgets": st.lists(st.integers(1, 10**7), max_size=3, unique=True).map(sorted),
                "inducing": st.sampled_from(["leading", "random"]),
            }
        ),
        "store": st.fixed_dictionaries({"driver": st.sampled_from(["auto", "mpio", "posix"])}),
        "watchdog": st.fixed_dictionaries({"minutes": st.floats(0.01, 1e6)}),
    }
)


@FAST
@given(GOOD_DECKS, st.booleans())
def test_good_decks_round_trip(read, values, flow):
    """What is written is what is read, and what `flat` gives makes the same deck again."""
    deck = read(yaml.safe_dump(values, default_flow_style=flow))
    flat = {
        f"{section}.{key}": value
        for section in ["data", "kernel", "solve", "predict", "compare", "store", "watchdog"]
        for key, value in values[section].items()
    }
    assert deck.flat() == {"name": values["name"], "output": values["output"], **flat}
    again = read(yaml.safe_dump(deck.model_dump(mode="json")))
    assert again == deck
