"""Activations: values against independent formulas, derivatives, jumps, and bad input."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, expit, ndtr

import ntklc_helpers as nh
from ntklc_helpers.theory.activations import activation_list, from_module

REFERENCE = {
    "linear": lambda t: t,
    "relu": lambda t: np.maximum(t, 0),
    "leaky_relu": lambda t: np.where(t > 0, t, 0.01 * t),
    "elu": lambda t: np.where(t > 0, t, np.expm1(np.minimum(t, 0))),
    "relu6": lambda t: np.clip(t, 0, 6),
    "hardtanh": lambda t: np.clip(t, -1, 1),
    "abs": np.abs,
    "erf": erf,
    "tanh": np.tanh,
    "sigmoid": expit,
    "gelu": lambda t: t * ndtr(t),
    "gelu_tanh": lambda t: t / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))),
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
    assert set(nh.theory.activation_names()) == set(REFERENCE) | {"sigma_t", "sigma_q"}


@pytest.mark.parametrize("name", NAMED)
def test_values_and_kinds(name):
    # 0.1 is not on the grid, so sign and step are never asked for their value at the jump.
    t = np.linspace(-30, 30, 997) + 0.1 / 3
    act = nh.activation(name)
    # 1 + tanh loses its digits far below 0, in torch as here.
    rtol, atol = (1e-9, 1e-14) if name == "gelu_tanh" else (2e-15, 2e-16)
    np.testing.assert_allclose(act(t), REFERENCE[name](t), rtol=rtol, atol=atol)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 15, 64, 65, 255])
def test_many_entries_are_looked_up_alike(count, dtype):
    """Counted or searched for: of long and of empty arrays, and where an entry is a threshold."""
    generator = torch.Generator().manual_seed(count)
    thresholds = torch.randn(count, generator=generator).to(torch.bfloat16).unique()
    levels = torch.randn(len(thresholds) + 1, generator=generator, dtype=torch.float64)
    act = nh.Quantized(thresholds.tolist(), levels.tolist())
    entries = torch.cat([torch.randn(40_000, generator=generator), thresholds.float().repeat(9)])
    entries = entries.to(dtype)[:, None].expand(-1, 3)
    expected = levels.to(dtype)[torch.searchsorted(thresholds.to(dtype), entries.contiguous())]
    found = act(entries)
    assert found.dtype == dtype and torch.equal(found, expected)
    assert act(entries[:0]).shape == (0, 3) and act(entries[0, 0]).shape == ()
    # However it is looked up.
    assert act(torch.tensor([float("nan")], dtype=dtype)) == levels.to(dtype)[-1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nh.activation("rellu"), r"unknown activation 'rellu'; known: abs, cos.*tanh"),
        (lambda: nh.activation("relu", slope=0.1), "'slope'.*do not fit activation 'relu'"),
        (lambda: nh.activation("leaky_relu", slope=float("nan")), "slope must be finite"),
        (lambda: nh.activation("relu", breakpoints=[1]), "belong to own functions only"),
        (lambda: nh.activation("relu", breakpoints=np.zeros(2)), "belong to own functions only"),
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


def square(t):
    return t**2


def test_own_functions_are_checked():
    with pytest.raises(TypeError, match="same shape, elementwise"):
        nh.activation(lambda t: t.sum())
    with pytest.raises(TypeError, match="'tanh' and its derivative must map .* same shape"):
        nh.activation(torch.tanh, derivative=lambda t: t.sum())
    with pytest.raises(TypeError, match="must take a torch tensor"):
        nh.activation(lambda t: t.no_such_method())
    shrinking = nh.Activation("short", torch.tanh, derivative_function=lambda t: t[:3])
    with pytest.raises(TypeError, match="'short' and its derivative must map"):
        nh.gaussian_moments(shrinking)


def test_numpy_functions_need_their_derivative_and_then_work():
    def tanh(t):
        return torch.as_tensor(np.tanh(t.numpy()))

    with pytest.raises(TypeError, match="'np_tanh' cannot be differentiated.*pass `derivative`"):
        nh.activation(tanh, name="np_tanh")
    known = nh.activation(tanh, derivative=lambda t: 1 - np.tanh(t.numpy()) ** 2)
    expected = nh.gaussian_moments(nh.activation("tanh"))
    assert nh.gaussian_moments(known).d1 == pytest.approx(expected.d1, rel=1e-13)


@pytest.mark.parametrize("given", [0, 0.0, [0.0], np.array([0.0]), torch.tensor([0.0])])
def test_a_breakpoint_at_zero_counts(given):
    own = nh.activation(torch.sign, breakpoints=given)
    assert own.jumps == (2.0,)
    assert nh.propagate([own])[-1].kappa == math.inf


def test_parameters_do_not_make_a_leaky_relu():
    own = nh.Activation("leaky_relu", square, params=(("slope", 0.1),))
    X = np.random.default_rng(0).standard_normal((4, 3))
    expected, _ = nh.limit_kernels(X, [nh.activation("quadratic")])
    np.testing.assert_allclose(nh.limit_kernels(X, [own])[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "act",
    [
        *(nh.activation(name) for name in NAMED),
        nh.activation("leaky_relu", slope=0.3),
        nh.activation("softplus", beta=2.0),
        nh.activation("hardtanh", min_val=-2.0),
        nh.sigma_t(-1.0, 1.0, 2.0),
        nh.activation(square),
    ],
    ids=lambda act: act.name,
)
def test_pickled_activations_are_equal(act):
    copy = pickle.loads(pickle.dumps(act))
    assert copy == act and hash(copy) == hash(act)
    assert copy(0.7) == act(0.7)
    assert (copy.dual is None) == (act.dual is None)


def test_equal_activations_are_made_alike():
    assert nh.activation("leaky_relu", slope=0.3) == nh.activation("leaky_relu", slope=0.3)
    assert nh.activation("leaky_relu", slope=0.3) != nh.activation("leaky_relu")
    assert nh.activation("relu") != nh.activation(torch.relu, name="relu")


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Identity(),
        torch.nn.ReLU(),
        torch.nn.LeakyReLU(0.2),
        torch.nn.ELU(0.7),
        torch.nn.ReLU6(),
        torch.nn.Hardtanh(-2.0, 0.5),
        torch.nn.Tanh(),
        torch.nn.Sigmoid(),
        torch.nn.GELU(),
        torch.nn.GELU("tanh"),
        torch.nn.SiLU(),
        torch.nn.Softplus(),
        torch.nn.Softplus(5.0),
    ],
    ids=repr,
)
def test_from_module_computes_what_the_module_does(module):
    act = from_module(module)
    t = torch.linspace(-9, 9, 181, dtype=torch.float64)
    # torch's softplus turns linear at 20, an error of 2e-9.
    np.testing.assert_allclose(act(t), module(t), rtol=0, atol=3e-9)
    assert nh.gaussian_moments(act).variance > 0


@pytest.mark.parametrize(
    "module", [torch.nn.Softmax(0), torch.nn.Softplus(1.0, 3.0), torch.nn.PReLU(), "relu"]
)
def test_from_module_refuses_what_it_does_not_know(module):
    with pytest.raises(TypeError, match="module must be an activation among .*ReLU.*, got"):
        from_module(module)


def test_activation_list_takes_names_and_activations():
    acts = activation_list("activations", ["relu", nh.activation("tanh"), nh.sigma_t(0, 1, 2)])
    assert [act.name for act in acts] == ["relu", "tanh", "sigma_t"]


@pytest.mark.parametrize("given", [[], "relu", None, [np.tanh], [None], nh.activation("relu")])
def test_activation_list_names_the_argument(given):
    with pytest.raises(ValueError, match="^layers must name at least one layer"):
        activation_list("layers", given)
