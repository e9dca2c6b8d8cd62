"""A solution depends on every setting that its numbers depend on."""

import pytest

from hpcnk.run.provenance import solver_settings
from tests.unit.deck_trial import read_text

DECK = "data: {{dataset: digits, {data}}}\nkernel: {{layers: cv8}}\nsolve: {{ridge: 1, {solve}}}\n"


@pytest.mark.parametrize(
    "data,solve",
    [
        ("seed: 3", ""),
        ("validation: 5", ""),
        ("", "tolerance: 1e-3"),
        ("", "max_iterations: 7"),
        ("", "preconditioner: none"),
        ("", "preconditioner: {rank: 7}"),
        ("", "reproducible: true"),
    ],
)
def test_each_setting_counts(tmp_path, data, solve):
    one, other = (
        solver_settings(read_text(tmp_path, DECK.format(data=d, solve=s).replace(", }", "}")))
        for d, s in (("", ""), (data, solve))
    )
    assert len({key for key in one if one[key] != other[key]}) == 1


def test_what_only_says_when_to_store_does_not(tmp_path):
    one, other = (
        solver_settings(read_text(tmp_path, DECK.format(data="seed: 0", solve=solve)))
        for solve in ("checkpoint: none", "checkpoint: {minutes: 3}")
    )
    assert one == other
