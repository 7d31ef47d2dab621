"""Activations: values against independent formulas, derivatives, jumps, and bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, expit, ndtr

import ntklc_helpers as nh

REFERENCE = {
    "linear": lambda t: t,
    "relu": lambda t: np.maximum(t, 0),
    "leaky_relu": lambda t: np.where(t > 0, t, 0.01 * t),
    "abs": np.abs,
    "erf": erf,
    "tanh": np.tanh,
    "sigmoid": expit,
    "gelu": lambda t: t * ndtr(t),
    "silu": lambda t: t * expit(t),
    "softplus": lambda t: np.logaddexp(0, t),
    "sin": np.sin,
    "cos": np.cos,
    "gaussian": lambda t: np.exp(-t * t / 2),
    "quadratic": lambda t: t * t,
    "hermite3": lambda t: (t**3 - 3 * t) / math.sqrt(6),
    "sign": np.sign,
    "step": lambda t: np.heaviside(t, 0.0),
}
NAMED = sorted(REFERENCE)


def test_every_name_has_a_reference_here():
    assert set(nh.activation_names()) == set(REFERENCE) | {"sigma_t", "sigma_q"}


@pytest.mark.parametrize("name", NAMED)
def test_values_and_kinds(name):
    # 0.1 is not on the grid, so sign and step are never asked for their value at the jump.
    t = np.linspace(-30, 30, 997) + 0.1 / 3
    act = nh.activation(name)
    np.testing.assert_allclose(act(t), REFERENCE[name](t), rtol=2e-15, atol=2e-16)
    tensor = act(torch.tensor(t, dtype=torch.float32))
    assert tensor.dtype == torch.float32
    assert isinstance(act(0.5), float)
    assert act(t.reshape(1, -1)).shape == (1, 997)


@pytest.mark.parametrize("name", NAMED)
def test_derivative_is_the_limit_of_differences(name):
    t, h = np.linspace(-6, 6, 61) + 0.0123, 1e-5
    act = nh.activation(name)
    central = (act(t + h) - act(t - h)) / (2 * h)
    # Truncation h²|σ'''|/6 and rounding 1e-16·|σ|/h are both below 1e-9 here.
    np.testing.assert_allclose(act.derivative(t), central, atol=2e-9)


def test_jumps_are_told_from_kinks():
    assert not nh.activation("relu").has_jump
    assert not nh.activation("abs").has_jump
    assert nh.activation("sign").jumps == (2.0,)
    mine = nh.activation(lambda t: torch.where(t > 1, t + 3, t), breakpoints=[1, 0])
    assert mine.breakpoints == (0.0, 1.0)
    np.testing.assert_allclose(mine.jumps, (0.0, 3.0), atol=1e-12)
    # Steep but continuous: no jump.
    assert not nh.activation(lambda t: (1e6 * t).clamp(-1, 1), breakpoints=[-1e-6, 1e-6]).has_jump


def test_sigma_t_and_sigma_q_follow_their_definitions():
    t = np.linspace(-3, 3, 601) + 1e-3
    s1, s2, a = -0.4, 1.1, -2.0
    np.testing.assert_array_equal(nh.sigma_t(s1, s2, a)(t), a * ((t < s1) + 1.0 * (t > s2)))
    r1, r2, r3, r4, b1, b2 = -1.5, -0.5, 0.2, 2.0, 1.3, -0.7
    expected = b1 * ((t < r1) + 1.0 * (t > r4)) + b2 * ((r2 <= t) & (t <= r3))
    np.testing.assert_array_equal(nh.sigma_q(r1, r2, r3, r4, b1, b2)(t), expected)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=6, unique=True),
    st.lists(st.floats(-9, 9), min_size=7, max_size=7),
    st.floats(-6, 6),
)
def test_quantized_is_a_lookup(thresholds, levels, t):
    thresholds = sorted(thresholds)
    levels = levels[: len(thresholds) + 1]
    act = nh.Quantized(thresholds, levels)
    assert act(t) == levels[sum(t > s for s in thresholds)]
    assert act.derivative(t) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nh.activation("rellu"), r"unknown activation 'rellu'; known: abs, cos.*tanh"),
        (lambda: nh.activation("relu", slope=0.1), "'slope'.*do not fit activation 'relu'"),
        (lambda: nh.activation("leaky_relu", slope=float("nan")), "slope must be finite"),
        (lambda: nh.activation("relu", breakpoints=[1]), "belong to own functions only"),
        (lambda: nh.activation(torch.tanh, slope=1), "belong to named activations only"),
        (lambda: nh.activation(torch.tanh, breakpoints=[np.inf]), "breakpoints must be finite"),
        (lambda: nh.Quantized((1.0, 1.0), (0, 1, 2)), "thresholds must be strictly increasing"),
        (lambda: nh.Quantized((1.0,), (0, 1, 2)), "3 levels and 1 thresholds"),
        (lambda: nh.Quantized((), (1.0,)), "at least 2"),
        (lambda: nh.Quantized((0.0,), (0, np.nan)), "levels must be finite"),
        (lambda: nh.sigma_t(2.0, 1.0, 1.0), "thresholds must be strictly increasing"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_own_functions_are_checked():
    with pytest.raises(TypeError, match="same shape, elementwise"):
        nh.activation(lambda t: t.sum())
    numpy_only = nh.activation(lambda t: torch.as_tensor(np.tanh(t.numpy())), name="np_tanh")
    assert numpy_only(0.3) == pytest.approx(np.tanh(0.3))
    with pytest.raises(TypeError, match="'np_tanh' cannot be differentiated.*pass `derivative`"):
        numpy_only.derivative(0.3)
