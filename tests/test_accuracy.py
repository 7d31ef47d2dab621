"""Staircases for accuracy: never forecast worse than what else there is; what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.matching.quantisers import quantisers

pytestmark = pytest.mark.usefixtures("fewer_neurons")

DATA = nh.load_digits(n=120, seed=0)
KNOWN = {"X": nh.normalize(DATA.X), "y": DATA.labels, "widths": [60, 40], "ridge": 1e-3}


def judge(steps):
    known = KNOWN | {"widths": KNOWN["widths"][-len(steps) :]}
    return nh.forecast(activations=steps, tau0=1.0, **known)


@pytest.mark.parametrize("m, depth, grid", [(2, 1, "free"), (3, 2, "uniform")])
def test_never_forecast_worse_than_what_else_there_is(m, depth, grid):
    """The data are few enough that all of them are searched on."""
    names = ("accuracy", "lloyd-max", "exact", "ridge")
    found = {
        name: nh.match(
            ["relu"] * depth, 1.0, m, name, grid, on=judge if name == "accuracy" else None
        ).activations
        for name in names
    }
    forecasts = {n: judge(a) for n, a in found.items()}
    best = forecasts["accuracy"].accuracy
    assert all(best >= one.accuracy - 1e-6 for one in forecasts.values())
    assert m != 2 or best > max(one.accuracy for n, one in forecasts.items() if n != names[0])
    assert all(len(set(steps.levels)) <= m for steps in found["accuracy"])


def test_values_are_judged_by_their_error():
    y = KNOWN["X"] @ np.random.default_rng(0).standard_normal(64)

    def judge(steps):
        return nh.forecast(KNOWN["X"], y, steps, [80], tau0=1.0)

    best = judge(nh.match(["tanh"], 1.0, 3, "accuracy", on=judge).activations)
    others = [
        judge(nh.match(["tanh"], 1.0, 3, name).activations) for name in ("lloyd-max", "exact")
    ]
    assert best.accuracy is None and best.error <= min(one.error for one in others)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["relu", "tanh", "gelu", "cos", "sigmoid"]),
    st.floats(0.3, 2.0),
    st.sampled_from([(1.0, 0.0), (0.0, 1.0)]),
)
def test_tilted_all_the_way_a_quantiser_is_that_of_a_polynomial(name, tau, tilt):
    (steps,) = quantisers([nh.activation(name)], tau, [4], False, [tilt])
    (plain,) = nh.match(
        ["linear" if tilt[0] else "quadratic"], 1.0, 4, objective="lloyd-max"
    ).activations
    signs = np.sign(np.diff(steps.levels)[-1]) if tilt[1] else 1
    np.testing.assert_allclose(np.array(steps.thresholds) / tau, plain.thresholds, atol=1e-6)
    g, h = nh.gaussian_moments(steps, tau), nh.gaussian_moments(plain, 1.0)
    own = nh.gaussian_moments(nh.activation(name), tau)
    assert g.mean == pytest.approx(own.mean, abs=1e-6)
    if tilt[0]:
        assert abs(g.d1) * tau / np.sqrt(g.variance) == pytest.approx(h.d1 / np.sqrt(h.variance))
        assert g.d1 * own.d1 >= 0 or abs(own.d1) < 1e-9
    else:
        assert signs * own.d2 > 0 or abs(own.d2) < 1e-9


@pytest.mark.parametrize(
    "on, objective", [(judge, "exact"), (KNOWN, "accuracy"), (None, "accuracy")]
)
def test_refused(on, objective):
    with pytest.raises(ValueError, match="on must be a function of staircases"):
        nh.match(["relu"] * 2, 1.0, 4, objective, on=on)


def test_what_the_forecast_refuses_is_refused():
    def wrong(steps):
        return nh.forecast(KNOWN["X"], KNOWN["y"], steps, widths=[3, 3])

    with pytest.raises(ValueError, match="widths must have"):
        nh.match(["linear"], 1.0, 2, "accuracy", on=wrong)
