"""Sums in fixed point: the same bits in any order, and as good as float64."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcnk.comm import FixedPointSums, FloatSums
from tests.support.dense import Single


def total(addends, bound, order=None, sums=FixedPointSums):
    found = sums(Single()).begin(addends[0].shape, lambda: np.asarray(bound))
    for k in range(len(addends)) if order is None else order:
        found.add(slice(None), addends[k])
    return found.total()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=64), min_size=1, max_size=40),
    st.integers(0, 2**32 - 1),
    st.integers(-200, 200),
    st.integers(0, 20),
)
def test_any_order_gives_the_rounded_exact_sum(numbers, seed, scale, slack):
    numbers = [float(np.ldexp(number, scale)) for number in numbers]
    bound = float(np.ldexp(sum(map(abs, numbers)), slack))
    addends = [np.array([[number]]) for number in numbers]
    order = np.random.default_rng(seed).permutation(len(addends))
    one, other = total(addends, [bound]), total(addends, [bound], order)
    assert one.tobytes() == other.tobytes()
    exact = sum(map(Fraction, numbers))
    unit = Fraction(bound) / 2**98 * len(numbers)  # what two limbs cannot hold
    assert abs(Fraction(float(one[0, 0])) - exact) <= unit + abs(exact) / 2**52


def test_float_sums_do_depend_on_the_order():
    """Else the test above would show nothing."""
    addends = [np.array([[x]]) for x in (1.0, 1e16, -1e16)]
    order = (1, 2, 0)
    assert total(addends, [3e16], sums=FloatSums) != total(addends, [3e16], order, FloatSums)
    assert total(addends, [3e16]) == total(addends, [3e16], order) == 1.0


def test_columns_have_bounds_of_their_own():
    addends = [np.array([[1e-200, 3e200]]), np.array([[2e-200, -1e200]])]
    np.testing.assert_allclose(total(addends, [1e-199, 1e201]), [[3e-200, 2e200]], rtol=1e-15)


def test_rows_are_added_where_they_belong():
    found = FixedPointSums(Single()).begin((4, 1), lambda: np.array([100.0]))
    found.add(slice(1, 3), np.array([[1.5], [2.5]]))
    found.add(slice(2, 4), np.array([[-1.25], [0.125]]))
    np.testing.assert_array_equal(found.total()[:, 0], [0, 1.5, 1.25, 0.125])


def test_zero_columns_stay_zero():
    np.testing.assert_array_equal(total([np.zeros((2, 2))] * 3, [0.0, 0.0]), np.zeros((2, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 5.0])
def test_what_cannot_be_added_makes_the_sum_nan(bad):
    """5 is above the bound: its limbs might not fit."""
    assert np.isnan(total([np.array([[1.0]]), np.array([[bad]])], [4.0])).all()


def test_what_is_left_after_cancellation_is_right():
    """Both limbs: 2^-90 of the largest addend is far below float64's own 2^-53."""
    small = np.ldexp(1.0, -90)
    found = total([np.array([[x]]) for x in (1.0, small, -1.0)], [2.0])
    assert abs(found[0, 0] - small) <= np.ldexp(1.0, -98)


def test_twenty_thousand_addends_fit():
    """The low limbs alone, all of one sign, as large as they get."""
    tiny = np.full((1, 100), 0.49 * np.ldexp(1.0, -59))  # just under half a unit of the high limb
    found = FixedPointSums(Single()).begin((1, 100), lambda: np.full(100, 2.0))
    for _ in range(20_000):
        found.add(slice(None), tiny)
    np.testing.assert_allclose(found.total(), 20_000 * tiny, rtol=1e-9)
