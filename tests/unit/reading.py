"""What the tests of readers share: a deck's section, refusals, and random damage."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hpcnk import data
from hpcnk.deck import DataSection
from hpcnk.errors import DataError


def section(dataset, path, **keys):
    """The deck's section; a path that does not exist passes here, as it may vanish later."""
    plain = DataSection(dataset="digits", **keys)
    return plain.model_copy(update={"dataset": dataset, "path": path})


def load(dataset, path, **keys):
    return data.load(section(dataset, path, **keys))


def refused(match, dataset, path, **keys):
    with pytest.raises(DataError, match=match) as caught:
        load(dataset, path, **keys)
    assert caught.value.advice


class Evil:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


# Random damage: any bytes either load or are refused by DataError, and nothing else.
# The draw is fixed, so that a failure is the same for everybody.
DAMAGE = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def cut(share):
    """Keep this share of the file's bytes."""
    return lambda content: content[: int(share * len(content))]


def overwrite(flips):
    """Set single bytes, at shares of the file's length."""

    def change(content):
        out = bytearray(content)
        for share, value in flips:
            out[int(share * len(out))] = value
        return bytes(out)

    return change


_SHARE = st.floats(0, 1, exclude_max=True)
_FLIPS = st.lists(st.tuples(_SHARE, st.integers(0, 255)), min_size=1, max_size=8)
damage = st.one_of(st.builds(cut, _SHARE), st.builds(overwrite, _FLIPS))


def loads_or_refuses(dataset, path, damaged_file, change):
    """Damage the file, load from `path`, and put the file back."""
    intact = damaged_file.read_bytes()
    damaged_file.write_bytes(change(intact))
    try:
        data.describe(section(dataset, path, train=4))
        examples = load(dataset, path, train=4)
        assert len(examples.x_train) == len(examples.y_train) == 4
    except DataError as error:
        assert str(error)
    finally:
        damaged_file.write_bytes(intact)
