"""Gaussian moments against adaptive quadrature, Monte Carlo, and exact identities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from test_activations import REFERENCE

import ntklc_helpers as nh

SCALES = (0.05, 0.3, 1.0, 4.0, 20.0)
CASES = {name: (nh.activation(name), REFERENCE[name]) for name in REFERENCE}
CASES["leaky_relu"] = (
    nh.activation("leaky_relu", slope=0.1),
    lambda t: np.where(t > 0, t, 0.1 * t),
)
CASES["sigma_t"] = (nh.sigma_t(-0.3, 1.2, -2.4), lambda t: -2.4 * ((t < -0.3) + 1.0 * (t > 1.2)))
CASES["sigma_q"] = (
    nh.sigma_q(-1.0, -0.2, 0.5, 2.0, 1.5, -0.5),
    lambda t: 1.5 * ((t < -1) + 1.0 * (t > 2)) - 0.5 * ((t > -0.2) & (t < 0.5)),
)
CASES["own"] = (
    nh.activation(lambda t: torch.where(t > 0.7, t**2, torch.sin(t)), breakpoints=[0.7]),
    lambda t: np.where(t > 0.7, t**2, np.sin(t)),
)
FIELDS = ("mean", "d1", "d2", "square_d2", "variance")


def adaptive(function, breakpoints, tau):
    """The five moments by QUADPACK, and the natural scale of each."""
    cuts = [-13, 13, *np.linspace(-8, 8, 33), *np.divide(breakpoints, tau)]
    cuts = np.unique(np.clip(cuts, -13, 13))

    def expectation(f):
        def integrand(x):
            return f(x) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

        pieces = zip(cuts, cuts[1:], strict=False)
        # full_output keeps QUADPACK from warning that rounding, not it, sets the last digits.
        kwargs = {"epsabs": 1e-18, "epsrel": 1e-13, "full_output": 1}
        return math.fsum(quad(integrand, a, b, **kwargs)[0] for a, b in pieces)

    def value(x):
        return float(function(tau * x))

    m = expectation(value)
    v = expectation(lambda x: (value(x) - m) ** 2)
    s = math.sqrt(v)
    return (
        np.array(
            [
                m,
                expectation(lambda x: x * (value(x) - m)) / tau,
                expectation(lambda x: (x * x - 1) * (value(x) - m)) / tau**2,
                expectation(lambda x: (x * x - 1) * (value(x) - m) ** 2) / tau**2,
                v,
            ]
        ),
        np.array([abs(m) + s, s / tau, s / tau**2, v / tau**2, v]),
    )


@pytest.mark.parametrize("tau", SCALES)
@pytest.mark.parametrize("name", sorted(CASES))
def test_agree_with_adaptive_quadrature(name, tau):
    act, function = CASES[name]
    g = nh.gaussian_moments(act, tau)
    reference, scale = adaptive(function, act.breakpoints, tau)
    ours = np.array([getattr(g, field) for field in FIELDS])
    # 1e-10 relative; a moment that vanishes by symmetry is compared on its natural scale, where
    # cancellation leaves the rounding of σ divided by its spread.
    small = 1e-12 * scale
    np.testing.assert_array_less(np.abs(ours - reference), 1e-10 * np.abs(reference) + small)


@pytest.mark.parametrize("name", sorted(CASES))
def test_agree_with_monte_carlo(name):
    act, function = CASES[name]
    tau, n = 0.8, 400_000
    xi = np.random.default_rng(7).standard_normal(n)
    g = nh.gaussian_moments(act, tau)
    y = function(tau * xi) - g.mean
    draws = np.array([y + g.mean, xi * y / tau, (xi**2 - 1) * y / tau**2])
    draws = np.vstack([draws, (xi**2 - 1) * y**2 / tau**2, y**2])
    error = draws.mean(axis=1) - [getattr(g, field) for field in FIELDS]
    # Five standard errors: 1 in 10⁶ per number, and the seed is fixed.
    assert np.all(np.abs(error) < 5 * draws.std(axis=1) / math.sqrt(n) + 1e-12)


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "abs", "softplus", "hermite3"])
def test_integration_by_parts(name):
    # E σ' by the derivative itself, E[ξσ]/τ by parts: two routes to d1.
    act, tau = CASES[name][0], 0.7
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    # Gauss–Hermite errs on a jump of the slope by up to half the middle node's weight, 0.06 of
    # a jump of at most 2; on a smooth slope it is exact to rounding.
    tolerance = 0.07 if act.breakpoints else 1e-11
    direct = weights @ act.derivative(tau * nodes)
    assert direct == pytest.approx(nh.gaussian_moments(act, tau).d1, abs=tolerance)
    power = weights @ act.derivative(tau * nodes) ** 2
    assert power == pytest.approx(nh.gaussian_moments(act, tau).derivative_power, abs=tolerance)


@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0])
def test_closed_forms(tau):
    relu = nh.gaussian_moments(nh.activation("relu"), tau)
    root = math.sqrt(2 * math.pi)
    np.testing.assert_allclose(
        [relu.mean, relu.d1, relu.d2, relu.variance, relu.derivative_power],
        [tau / root, 0.5, 1 / (root * tau), tau**2 * (0.5 - 1 / (2 * math.pi)), 0.5],
        rtol=1e-13,
    )
    assert relu.linear_share == pytest.approx(0.25 / (0.5 - 0.5 / math.pi), rel=1e-13)
    assert relu.norm_gain == pytest.approx(1.0, rel=1e-13)  # positive homogeneity
    erf = nh.gaussian_moments(nh.activation("erf"), tau)
    k = 1 + 2 * tau**2
    np.testing.assert_allclose(
        [erf.d1, erf.variance, erf.derivative_power],
        [
            2 / math.sqrt(math.pi * k),
            2 / math.pi * math.asin(2 * tau**2 / k),
            4 / (math.pi * math.sqrt(1 + 4 * tau**2)),
        ],
        rtol=1e-12,
    )
    sine = nh.gaussian_moments(nh.activation("sin"), tau)
    decay = math.exp(-(tau**2) / 2)
    np.testing.assert_allclose(
        [sine.d1, sine.variance], [decay, (1 - decay**4) / 2], rtol=1e-11, atol=1e-14
    )


def test_hermite_shares():
    hermite3 = nh.gaussian_moments(nh.activation("hermite3"), 1.0)
    assert hermite3.variance == pytest.approx(1.0, rel=1e-13)
    assert abs(hermite3.d1) < 1e-14 and abs(hermite3.d2) < 1e-14
    quadratic = nh.gaussian_moments(nh.activation("quadratic"), 2.0)
    assert quadratic.quadratic_share == pytest.approx(1.0, rel=1e-13)
    assert nh.gaussian_moments(nh.activation("linear"), 3.0).linear_share == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["sign", "step", "sigma_t", "sigma_q"])
def test_jumps_have_infinite_derivative_power(name):
    assert nh.gaussian_moments(CASES[name][0], 1.0).derivative_power == math.inf


def test_own_jump_has_infinite_derivative_power():
    own = nh.activation(lambda t: torch.where(t > 0.5, t + 1, t), breakpoints=[0.5])
    assert nh.gaussian_moments(own, 1.0).derivative_power == math.inf


quantized = st.integers(1, 7).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-3, 3).map(lambda x: round(x, 3)), min_size=k, max_size=k, unique=True),
        st.lists(st.floats(-4, 4), min_size=k + 1, max_size=k + 1).filter(
            lambda levels: np.ptp(levels) > 0.1
        ),
    )
)


@settings(max_examples=60, deadline=None)
@given(quantized, st.floats(0.3, 3.0))
def test_quantized_closed_form_is_the_quadrature(parts, tau):
    act = nh.Quantized(sorted(parts[0]), parts[1])
    opaque = nh.activation(act, breakpoints=act.thresholds)
    closed, quadrature = nh.gaussian_moments(act, tau), nh.gaussian_moments(opaque, tau)
    for field in FIELDS:
        assert getattr(closed, field) == pytest.approx(getattr(quadrature, field), abs=1e-11)


@settings(max_examples=40, deadline=None)
@given(quantized, st.floats(0.3, 3.0), st.floats(0.2, 5.0), st.floats(-3, 3))
def test_invariances(parts, tau, scale, offset):
    """Mirror, shift of the levels, rescaling of the input: what may change and what may not."""
    thresholds, levels = np.sort(parts[0]), np.array(parts[1])
    g = nh.gaussian_moments(nh.Quantized(thresholds, levels), tau)
    mirrored = nh.gaussian_moments(nh.Quantized(-thresholds[::-1], levels[::-1]), tau)
    shifted = nh.gaussian_moments(nh.Quantized(thresholds, levels + offset), tau)
    scaled = nh.gaussian_moments(nh.Quantized(scale * thresholds, levels), scale * tau)
    close = {"rtol": 1e-9, "atol": 1e-11}
    of = lambda g: [g.d1, g.d2, g.square_d2, g.variance]  # noqa: E731
    np.testing.assert_allclose(of(mirrored), of(g) * np.array([-1, 1, 1, 1]), **close)
    np.testing.assert_allclose(of(shifted), of(g), **close)
    np.testing.assert_allclose(
        of(scaled) * np.array([scale, scale**2, scale**2, 1]), of(g), **close
    )
    assert g.linear_share + g.quadratic_share <= 1 + 1e-12


@pytest.mark.parametrize("name", sorted(CASES))
def test_heat_equation(name):
    # d/dτ E σ(τξ) = τ E σ''(τξ), a second route to d2 that never touches a Hermite polynomial.
    act, tau, h = CASES[name][0], 1.1, 1e-4
    mean = [nh.gaussian_moments(act, tau + k * h).mean for k in (-2, -1, 1, 2)]
    slope = (mean[0] - 8 * mean[1] + 8 * mean[2] - mean[3]) / (12 * h)
    assert slope == pytest.approx(tau * nh.gaussian_moments(act, tau).d2, abs=1e-9)


def test_extreme_scales():
    # Homogeneity: nothing but the scale itself may change, and no more nodes be needed.
    quadratic = nh.activation("quadratic")
    for tau in (1e-6, 1e5):
        g = nh.gaussian_moments(quadratic, tau)
        assert g.quadratic_share == pytest.approx(1.0, rel=1e-12)
        assert g.variance == pytest.approx(2 * tau**4, rel=1e-12)
    assert nh.gaussian_moments(nh.activation("tanh"), 300.0).linear_share == pytest.approx(
        2 / math.pi, rel=2e-2
    )


@pytest.mark.parametrize("tau", [0, -1.0, math.nan, math.inf, [1.0], "1"])
def test_bad_scale(tau):
    with pytest.raises(ValueError, match="tau must "):
        nh.gaussian_moments(nh.activation("relu"), tau)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t: torch.exp(t**2), "no finite Gaussian moments at tau=1.0"),
        (lambda t: torch.log(t), "no finite Gaussian moments"),
        (lambda t: (t > 0.3).double(), "did not converge; name every kink and jump"),
        (lambda t: (t > 1.0).double(), "did not converge; name every kink and jump"),
        (lambda t: (t.abs() < 1.0).double(), "did not converge; name every kink and jump"),
        (lambda t: torch.relu(t - 1e-6), "did not converge; name every kink and jump"),
        (lambda t: torch.tanh(1e5 * t), "did not converge; name every kink and jump"),
        (lambda t: torch.tanh(t.detach()), "derivative of .* must be that of its function"),
        (lambda t: t.detach() * torch.tanh(t), "derivative of .* must be that of its function"),
        (lambda t: 0 * t + 3.0, "'<lambda>' is constant"),
    ],
)
def test_bad_functions(function, message):
    with pytest.raises(ValueError, match=message):
        nh.gaussian_moments(nh.activation(function), 1.0)


@pytest.mark.parametrize("act", [nh.Quantized([0.5], [2, 2]), nh.Quantized([60.0], [0, 1])])
def test_constant_staircases_are_refused(act):
    with pytest.raises(ValueError, match="'quantized' is constant at tau=1.0"):
        nh.gaussian_moments(act)
    with pytest.raises(ValueError, match="'quantized' is constant at tau=1.0"):
        nh.propagate([act])


@pytest.mark.parametrize("steep", [3.0, 30.0])
def test_steep_functions_still_converge(steep):
    own = nh.activation(lambda t: torch.erf(steep * t))
    g, expected = (
        nh.gaussian_moments(a, tau) for a, tau in ((own, 1.0), (nh.activation("erf"), steep))
    )
    assert g.derivative_power == pytest.approx(steep**2 * expected.derivative_power, rel=1e-12)
