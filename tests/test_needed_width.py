"""The width an error asks for, and the exponent of its growth as fewer weights are kept."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

import ntklc_helpers as nh

INVERSE = np.array([1, 1.25, 2, 3, 5, 10.0])
WIDTHS = np.array([50, 200, 800, 3200, 12800.0])


def drawn_errors(exponent, networks=20, noise=0.1, seed=0):
    """Errors of networks for which 100 + 50 α^(−k) is the width at which the mean error is 1."""
    needed = 100 + 50 * INVERSE**exponent
    factors = np.random.default_rng(seed).lognormal(0, noise, (len(INVERSE), len(WIDTHS), networks))
    return np.sqrt(needed[:, None] / WIDTHS)[..., None] * factors


def growth(exponent, n_resamples=100, **how):
    errors = drawn_errors(exponent, **how)
    return nh.theory.width_exponent(1 / INVERSE, WIDTHS, errors, 0.8, n_resamples=n_resamples)


# --- one width


@given(slope=st.floats(-2, -0.1), start=st.floats(0.1, 10), share=st.floats(0.01, 0.99))
def test_required_width_inverts_a_power_law(slope, start, share):
    widths = np.array([10.0, 30, 100, 500])
    width = 10 * 50**share
    found = nh.theory.required_width(widths, start * widths**slope, start * width**slope)
    assert found == pytest.approx(width, rel=1e-9)


def test_required_width_is_the_first_crossing():
    assert nh.theory.required_width([1, 2, 4, 8], [4, 1, 3, 0.5], 2.0) == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize(
    ("widths", "errors", "target", "message"),
    [
        ([1, 2], [3.0, 1.0], 0.5, "errors must cross the target 0.5 .* they go from 3 to 1"),
        ([1, 2], [3.0, 1.0], 4.0, "errors must cross the target"),
        ([2, 1], [3.0, 1.0], 2.0, "widths must increase"),
        ([1, 2, 3], [3.0, 1.0], 2.0, "widths must increase and be as many"),
        ([1, 2], [3.0, 0.0], 2.0, "widths and errors must be positive"),
        ([1, 2], [3.0, 1.0], -1.0, "target must be a positive"),
        ([], [], 1.0, "widths must increase"),
    ],
)
def test_bad_sweeps_have_no_required_width(widths, errors, target, message):
    with pytest.raises(ValueError, match=message):
        nh.theory.required_width(widths, errors, target)


# --- the law


@given(
    exponent=st.floats(0.1, 4.9),
    offset=st.floats(-0.9, 100),
    scale=st.floats(0.1, 100),
    unit=st.floats(0.01, 100),
)
@settings(deadline=None)
def test_a_law_is_found_from_its_values(exponent, offset, scale, unit):
    assume(offset + scale > 0.05 * scale)
    y = offset + scale * INVERSE**exponent
    found = nh.theory.offset_power_law(INVERSE, y)
    assert found.exponent == pytest.approx(exponent, abs=1e-3 + 1e-4 * offset / scale)
    np.testing.assert_allclose(found(INVERSE), y, rtol=1e-4)
    # Units of x and of y change the scale alone, and the offset with those of y.
    other = nh.theory.offset_power_law(unit * INVERSE, 3 * y)
    assert other.exponent == pytest.approx(found.exponent, abs=1e-3 + 1e-4 * offset / scale)
    np.testing.assert_allclose(other(unit * INVERSE), 3 * found(INVERSE), rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_law_leaves_no_more_than_that_of_a_general_fit(seed):
    rng = np.random.default_rng(seed)
    y = (1 + 2 * INVERSE**1.3) * (1 + 0.05 * rng.standard_normal(len(INVERSE)))

    def law(x, a, b, k):
        return a + b * x**k

    peer = law(INVERSE, *curve_fit(law, INVERSE, y, p0=(1, 2, 1.3), sigma=y, maxfev=10**5)[0])
    found = nh.theory.offset_power_law(INVERSE, y)
    left, least = (((values / y - 1) ** 2).sum() for values in (found(INVERSE), peer))
    assert left == pytest.approx(least, rel=1e-5)


def test_what_is_beyond_the_range_ends_at_its_end():
    assert nh.theory.offset_power_law(INVERSE, np.exp(INVERSE)).exponent == 5
    assert nh.theory.offset_power_law(INVERSE, 1 + np.log(INVERSE)).exponent == 0.05


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "four or more different x"),
        ([1, 2, 3, 3], [1, 2, 3, 4], "four or more different x"),
        ([1, 2, 3, 4], [1, 2, 3], "x and y must have one length"),
        ([0, 2, 3, 4], [1, 2, 3, 4], "x and y must be positive"),
        ([1, 2, 3, 4], [1, 2, 3, -4], "x and y must be positive"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "y must not be the same at all x"),
        ([1, 2, 3, np.nan], [1, 2, 3, 4], "x must be finite"),
    ],
)
def test_no_law_through_bad_points(x, y, message):
    with pytest.raises(ValueError, match=message):
        nh.theory.offset_power_law(x, y)


# --- its exponent, and how well it is known


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_intervals_hold_the_exponent_as_often_as_they_should(exponent):
    found = [growth(exponent, seed=seed).interval for seed in range(20)]
    # Of 20 intervals at 95%, 14 or fewer would be right in one of three thousand tries.
    assert sum(low < exponent < high for low, high in found) > 14


def test_few_noisy_networks_tell_less():
    many, few = growth(1.0, networks=80).interval, growth(1.0, networks=5).interval
    assert 2.5 * np.ptp(many) < np.ptp(few)
    # One over the share and one over its root are told apart by enough networks.
    assert many[0] > 0.5 and growth(0.5, networks=80).interval[1] < 1


def test_what_is_found_is_of_the_mean_errors():
    errors = drawn_errors(1.0)
    found = growth(1.0)
    needed = [nh.theory.required_width(WIDTHS, curve, 0.8) for curve in errors.mean(axis=2)]
    np.testing.assert_array_equal(found.needed, needed)
    assert found.law == nh.theory.offset_power_law(INVERSE, needed) and found.target == 0.8
    assert found.interval[0] < found.law.exponent < found.interval[1]
    assert growth(1.0).interval == found.interval
    narrow = nh.theory.width_exponent(
        1 / INVERSE, WIDTHS, errors, 0.8, level=0.5, n_resamples=100, seed=1
    )
    assert np.ptp(narrow.interval) < 0.6 * np.ptp(found.interval)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": [1, 0.5, 0.2]}, "kept must hold four or more different shares"),
        ({"kept": INVERSE}, r"kept must hold four or more different shares in \(0, 1\]"),
        ({"errors": np.ones((6, 5))}, "errors must have 3 dimension"),
        ({"errors": np.ones((6, 3, 9))}, r"errors must have shape \(6, 5, networks\), .* got"),
        ({"errors": np.ones((6, 5, 1))}, "2 networks or more"),
        ({"target": 100.0}, "errors must cross the target 100"),
        ({"target": 0}, "target must be a positive"),
        ({"level": 1.0}, r"level must be a number in \(0, 1\)"),
        ({"n_resamples": 1}, "n_resamples must be a whole number of at least 2"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    given = {"kept": 1 / INVERSE, "widths": WIDTHS, "errors": drawn_errors(1.0), "target": 0.8}
    with pytest.raises(ValueError, match=message):
        nh.theory.width_exponent(**given | {"n_resamples": 9} | change)
