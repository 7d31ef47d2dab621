"""Exact kernels against neural-tangents, brute-force quadrature, Monte Carlo and identities."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss
from scipy.stats import multivariate_normal

import ntklc_helpers as nh
from ntklc_helpers.theory.hermite import HermiteSeries, pair_expectation, staircase_pair

DATA = Path(__file__).parent / "data"
RELU, ERF, SIN, GELU = (nh.activation(name) for name in ("relu", "erf", "sin", "gelu"))
REFERENCE = {
    "relu": [RELU] * 3,
    "relu1": [RELU],
    "erf2": [ERF] * 2,
    "leaky": [nh.activation("leaky_relu", slope=0.1)] * 3,
    "mixed_erf_relu_sin": [ERF, RELU, SIN],
    "cos2": [nh.activation("cos")] * 2,
}
MORE = {
    "gelu2": [GELU] * 2,
    "abs3": [nh.activation("abs")] * 3,
    "sign": [nh.activation("sign")],
    "five": [RELU, ERF, GELU, SIN, nh.activation("leaky_relu", slope=0.2)],
}
OWN_KINK = nh.activation(lambda t: torch.relu(t - 0.3), breakpoints=[0.3], name="kink")
OWN_JUMP = nh.activation(
    lambda t: torch.where(t > 0.5, torch.sin(t) + 1, t), breakpoints=[0.5], name="jump"
)
SIGMA_T = nh.sigma_t(-0.5, 1.0, 1.3)
SIGMA_Q = nh.sigma_q(-1.0, -0.4, 0.3, 1.2, 0.7, -0.8)
NAMED = [nh.activation(n) for n in nh.theory.activation_names() if not n.startswith("sigma_")]
EVERY = [*NAMED, nh.activation("leaky_relu", slope=0.3), SIGMA_T, SIGMA_Q, OWN_KINK, OWN_JUMP]
# Variances and correlation, ρ = 0, ±1 and near ±1 among them.
PAIRS = [
    (1.3, 0.4, 0.0),
    (1.3, 0.4, 0.3),
    (1.0, 1.0, -0.7),
    (0.2, 3.0, 0.95),
    (1.1, 0.9, 0.99),
    (1.0, 1.02, -0.9999),
    (1e-3, 1e-4, 0.5),
]


def gaussian_data(n, p, seed=0):
    return np.random.default_rng(seed).standard_normal((n, p)) / np.sqrt(p)


def layer_pair(activation, variances, rho):
    """E[σσ] and E[σ'σ'] of one pair, as the package computes them."""
    A, B = variances
    c = rho * np.sqrt(A * B)
    if activation.dual is not None:
        return activation.dual(c, A, B)
    layer, (u, v) = one_by_one(activation, [A, B])
    k, d = layer.pair(np.array([c]), u, v, np.empty((3, 1)))
    return k[0], d[0]


def one_by_one(activation, variances):
    """The series, and its inputs (…, 1) for each of the variances."""
    layer = HermiteSeries.over(activation, np.sqrt(variances))
    inputs, _, _ = layer.at(np.sqrt(variances))
    return layer, np.split(inputs, len(variances), axis=1)


def rule(cuts):
    """Gauss–Legendre nodes and weights, 60 a piece, on each row's pieces of [−9, 9]."""
    cuts = np.sort(np.clip(cuts, -9, 9), axis=-1)
    node, weight = leggauss(60)
    half = np.diff(cuts)[..., None] / 2
    x = (cuts[..., 1:] + cuts[..., :-1])[..., None] / 2 + half * node
    w = half * weight * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return x.reshape(*cuts.shape[:-1], -1), w.reshape(*cuts.shape[:-1], -1)


def brute(function, breakpoints, A, B, rho):
    """E f(u) f(v): v given u is Gaussian; pieces end wherever either integrand is not smooth."""
    a, b, width = np.sqrt(A), np.sqrt(B), np.sqrt(1 - rho**2)
    at = np.asarray(breakpoints, dtype=float)
    cuts = [np.linspace(-9, 9, 7), at / a]
    if rho:
        steps = width * np.linspace(-9, 9, 7)
        cuts.append(np.ravel(at[:, None] / b + steps) / rho)
    x, outer = rule(np.concatenate(cuts))
    given = (at / b - rho * x[:, None]) / width
    w, inner = rule(np.hstack([np.broadcast_to(np.linspace(-9, 9, 7), (len(x), 7)), given]))
    y = b * (rho * x[:, None] + width * w)
    return outer @ (function(a * x) * (inner * function(y)).sum(axis=1))


@pytest.mark.parametrize("case", REFERENCE)
def test_agrees_with_the_reference_file(case):
    reference = np.load(DATA / "infinite_width_kernels.npz")
    K, N = nh.limit_kernels(reference["X"], REFERENCE[case], center=False)
    np.testing.assert_allclose(K, reference[f"{case}__ck"], rtol=0, atol=1e-14)
    # The reference smooths arccos, which costs its diagonal 1e-8.
    np.testing.assert_allclose(N, reference[f"{case}__ntk"], rtol=0, atol=2e-8)
    off = ~np.eye(len(K), dtype=bool)
    np.testing.assert_allclose(N[off], reference[f"{case}__ntk"][off], rtol=0, atol=1e-14)


@pytest.mark.parametrize("case", MORE)
def test_agrees_with_neural_tangents(case):
    reference = np.load(DATA / "neural_tangents_more.npz")
    K, N = nh.limit_kernels(reference["X"], MORE[case], center=False)
    off = ~np.eye(len(K), dtype=bool)
    np.testing.assert_allclose(K, reference[f"{case}__ck"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(K[off], reference[f"{case}__ck"][off], rtol=0, atol=1e-13)
    if case != "sign":
        np.testing.assert_allclose(N, reference[f"{case}__ntk"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("activation", EVERY, ids=lambda a: a.name)
def test_agrees_with_brute_force_quadrature(activation):
    for A, B, rho in PAIRS:
        k, d = layer_pair(activation, (A, B), rho)
        scale = nh.gaussian_moments(activation, np.sqrt(max(A, B)))
        power = scale.variance + scale.mean**2
        # The quadrature itself is good to about 5e-14.
        assert abs(k - brute(activation, activation.breakpoints, A, B, rho)) < 2e-13 * power
        if not activation.has_jump:
            slope = brute(activation.derivative, activation.breakpoints, A, B, rho)
            assert abs(d - slope) < 2e-13 * scale.derivative_power


@pytest.mark.parametrize(
    "activation", [SIGMA_T, SIGMA_Q, nh.activation("sign")], ids=lambda a: a.name
)
@pytest.mark.parametrize(("A", "B", "rho"), PAIRS[:5])
def test_slope_kernel_of_steps_is_a_sum_of_densities(activation, A, B, rho):
    c = rho * np.sqrt(A * B)
    steps = list(zip(activation.thresholds, activation.jumps, strict=True))
    expected = sum(
        di * dj * multivariate_normal.pdf([si, sj], cov=[[A, c], [c, B]])
        for si, di in steps
        for sj, dj in steps
    )
    assert layer_pair(activation, (A, B), rho)[1] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_slope_kernel_is_the_derivative_in_the_covariance():
    for activation in (OWN_JUMP, GELU, nh.activation("silu")):
        for rho in (-0.4, 0.6, 0.985):
            step = 1e-4 * (1 - abs(rho))
            above, below = (layer_pair(activation, (1, 1), rho + s)[0] for s in (step, -step))
            # Central differences: error of order step² beside rounding of 1e-16 / step.
            d = layer_pair(activation, (1, 1), rho)[1]
            assert (above - below) / (2 * step) == pytest.approx(d, rel=1e-6)


@pytest.mark.parametrize("activation", [a for a in NAMED if a.dual], ids=lambda a: a.name)
def test_closed_forms_agree_with_the_series(activation):
    variance = np.array([0.5, 1.0, 1.7])
    scale = np.sqrt(variance)
    inputs, square, slope_square = HermiteSeries.over(activation, scale).at(scale)
    close = {"rtol": 1e-13, "atol": 1e-14}
    np.testing.assert_allclose(activation.dual.mean(variance), inputs[0], **close)
    np.testing.assert_allclose(activation.dual.power(variance), [square, slope_square], **close)


def test_correlation_one_and_minus_one():
    X = np.array([[1.2, 0.0], [1.2, 0.0], [-1.2, 0.0]])
    for activation in (RELU, GELU, OWN_KINK, nh.activation("tanh"), SIGMA_Q):
        K, N = nh.limit_kernels(X, [activation], center=False)
        assert K[0, 1] == pytest.approx(K[0, 0], rel=1e-13)
        opposite = brute_product(activation, 1.2)
        assert K[0, 2] == pytest.approx(opposite, rel=1e-12, abs=1e-14)
        if not activation.has_jump:
            assert N[0, 1] == pytest.approx(N[0, 0], rel=1e-12)


def brute_product(activation, scale):
    at = np.asarray(activation.breakpoints) / scale
    x, w = rule(np.concatenate([np.linspace(-9, 9, 19), at, -at]))
    return w @ (activation(scale * x) * activation(-scale * x))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    depth=st.integers(1, 4),
    kind=st.sampled_from(["relu", "tanh", "gelu", "sign", "cos", "quadratic"]),
    center=st.booleans(),
)
def test_kernels_are_symmetric_positive_and_follow_a_permutation(seed, depth, kind, center):
    rng = np.random.default_rng(seed)
    X = gaussian_data(12, 6, seed)
    activations = [nh.activation(kind)] * depth
    K, N = nh.limit_kernels(X, activations, center=center)
    assert (K == K.T).all() and (N == N.T).all()
    assert np.linalg.eigvalsh(K)[0] > -1e-12 * np.linalg.norm(K)
    if not np.isinf(N).any():
        assert np.linalg.eigvalsh(N)[0] > -1e-12 * np.linalg.norm(N)
    order = rng.permutation(len(X))
    permuted, _ = nh.limit_kernels(X[order], activations, center=center)
    np.testing.assert_allclose(permuted, K[np.ix_(order, order)], rtol=1e-11, atol=1e-13)


def test_rotation_invariance_and_relu_homogeneity():
    X = gaussian_data(10, 7)
    Q = np.linalg.qr(np.random.default_rng(3).standard_normal((7, 7)))[0]
    K, N = nh.limit_kernels(X, [RELU, RELU])
    for scale, Z in ((1.0, X @ Q), (9.0, 3 * X)):
        K2, N2 = nh.limit_kernels(Z, [RELU, RELU])
        np.testing.assert_allclose(K2, scale * K, rtol=0, atol=1e-13 * scale)
        np.testing.assert_allclose(N2, scale * N, rtol=0, atol=1e-13 * scale)


def test_blocks_do_not_show():
    # More rows and columns than one block of either kind holds.
    X = gaussian_data(330, 12)
    for activation in (nh.activation("tanh"), OWN_KINK):
        K, N = nh.limit_kernels(X, [activation] * 2)
        few = [0, 63, 64, 255, 256, 300, 329]
        K2, N2 = nh.limit_kernels(X[few], [activation] * 2, tau0=np.sqrt((X**2).sum(1).mean()))
        np.testing.assert_allclose(K[np.ix_(few, few)], K2, rtol=0, atol=1e-13)
        np.testing.assert_allclose(N[np.ix_(few, few)], N2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("center", [True, False])
def test_monte_carlo(center):
    X = gaussian_data(5, 8)
    draws = 1_000_000
    rng = np.random.default_rng(1)
    tau0 = 1.1
    for activation in (RELU, nh.activation("sigmoid"), SIGMA_T):
        h = activation(X @ rng.standard_normal((8, draws)))
        if center:
            h = h - nh.gaussian_moments(activation, tau0).mean
        products = h[:, None] * h[None]
        error = products.std(axis=-1) / np.sqrt(draws)
        K, _ = nh.limit_kernels(X, [activation], center=center, tau0=tau0)
        assert (np.abs(products.mean(axis=-1) - K) < 5 * error).all()


def test_default_tau0_and_the_diagonal_of_the_theory():
    X = gaussian_data(6, 9)
    X *= 1.3 / np.linalg.norm(X, axis=1, keepdims=True)
    activations = [nh.activation("softplus"), RELU]
    K, N = nh.limit_kernels(X, activations)
    last = nh.propagate(activations, tau0=1.3)[-1]
    np.testing.assert_allclose(K.diagonal(), last.tau**2, rtol=1e-12)
    np.testing.assert_allclose(N.diagonal(), last.kappa**2, rtol=1e-12)


def test_jump_makes_the_ntk_diagonal_infinite_and_leaves_the_rest():
    X = gaussian_data(6, 9)
    K, N = nh.limit_kernels(X, [SIGMA_T, RELU])
    assert np.isposinf(N.diagonal()).all()
    assert np.isfinite(N[~np.eye(6, dtype=bool)]).all() and np.isfinite(K).all()
    K2, none = nh.limit_kernels(X, [SIGMA_T, RELU], ntk=False)
    assert none is None and (K2 == K).all()


def test_row_of_zeros_and_scattered_norms():
    X = gaussian_data(40, 9) * np.logspace(-6, 1, 40)[:, None]
    X[0] = 0
    for activation in (RELU, nh.activation("tanh"), SIGMA_T, OWN_KINK, nh.activation("sigmoid")):
        K, N = nh.limit_kernels(X, [activation], center=False)
        assert np.isfinite(K).all() and not np.isnan(N).any()
        assert K[0, 0] == pytest.approx(activation(0.0) ** 2, abs=1e-14)
        i, j = 20, 35
        A, B, c = X[i] @ X[i], X[j] @ X[j], X[i] @ X[j]
        expected = brute(activation, activation.breakpoints, A, B, c / np.sqrt(A * B))
        assert K[i, j] == pytest.approx(expected, rel=1e-11, abs=1e-15)


def test_a_name_does_not_make_a_closed_form():
    impostor = nh.activation(torch.tanh, name="relu")
    X = gaussian_data(4, 5)
    expected, _ = nh.limit_kernels(X, [nh.activation("tanh")])
    np.testing.assert_allclose(nh.limit_kernels(X, [impostor])[0], expected, rtol=0, atol=1e-14)


FORMULAS = {
    "leaky_relu": lambda c, A, B, r: (
        (0.9**2 / 4 * 2 / np.pi) * (np.sqrt(A * B * (1 - r**2)) + c * np.arcsin(r))
        + 1.1**2 / 4 * c,
        (0.9**2 / 4 * 2 / np.pi) * np.arcsin(r) + 1.1**2 / 4,
    ),
    "sign": lambda c, A, B, r: (
        2 / np.pi * np.arcsin(r),
        2 / np.pi / np.sqrt(A * B * (1 - r**2)),
    ),
    "erf": lambda c, A, B, r: (
        2 / np.pi * np.arcsin(2 * c / np.sqrt((1 + 2 * A) * (1 + 2 * B))),
        4 / np.pi / np.sqrt((1 + 2 * A) * (1 + 2 * B) - 4 * c**2),
    ),
    "sin": lambda c, A, B, r: (
        np.exp(-(A + B) / 2) * np.sinh(c),
        np.exp(-(A + B) / 2) * np.cosh(c),
    ),
    "cos": lambda c, A, B, r: (
        np.exp(-(A + B) / 2) * np.cosh(c),
        np.exp(-(A + B) / 2) * np.sinh(c),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_fast_forms_are_their_formulas_for_arrays_of_any_shape(name):
    rng = np.random.default_rng(0)
    A, B = rng.uniform(0.1, 3, (4, 1, 5)), rng.uniform(0.1, 3, (3, 5))
    rho = rng.uniform(-0.99, 0.99, (4, 3, 5))
    c = rho * np.sqrt(A * B)
    given = c.copy(), A.copy(), B.copy()
    act = nh.activation(name, slope=0.1) if name == "leaky_relu" else nh.activation(name)
    found = act.dual(c, A, B)
    np.testing.assert_allclose(found, FORMULAS[name](c, A, B, rho), rtol=1e-12, atol=1e-15)
    for array, before in zip((c, A, B), given, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("constant", [nh.Quantized([0.0], [2, 2]), nh.Quantized([1.0], [2, 2])])
def test_a_constant_layer_has_constant_kernels(constant):
    X = gaussian_data(4, 5)
    for kernel in nh.limit_kernels(X, [constant], center=False):
        np.testing.assert_allclose(kernel, 4.0, rtol=1e-14)
    own = nh.activation(lambda t: 0 * t + 3.0, name="three")
    for kernel in nh.limit_kernels(X, [own], center=False):
        np.testing.assert_allclose(kernel, 9.0, rtol=1e-14)
    with pytest.raises(ValueError, match="'three' is constant"):
        nh.limit_kernels(X, [own])


def test_activations_by_name():
    X = gaussian_data(4, 5)
    expected = nh.limit_kernels(X, [RELU, GELU])
    np.testing.assert_array_equal(nh.limit_kernels(X, ["relu", "gelu"]), expected)


@pytest.mark.parametrize(
    ("X", "activations", "options", "message"),
    [
        (np.ones(3), [RELU], {}, "X must have 2 dimension"),
        (np.array([[1.0, np.nan]]), [RELU], {}, "X must be finite"),
        (np.ones((2, 2)), [], {}, "activations must name at least one layer"),
        (np.ones((2, 2)), [RELU], {"tau0": -1.0}, "tau0 must be a positive"),
        (np.zeros((2, 2)), [RELU], {}, "tau0 must be a positive"),
        (
            np.eye(2),
            [nh.activation(lambda t: torch.relu(t - 0.123), name="secret")],
            {"center": False},
            "name every kink and jump in `breakpoints`",
        ),
        # A kink on a panel's edge is found too.
        (np.eye(2), [nh.activation(torch.relu)], {"center": False}, "name every kink and jump"),
        (
            np.eye(2),
            [nh.activation(lambda t: torch.tanh(t.detach()), name="cut")],
            {"center": False},
            "derivative of activation 'cut' must be that of its function",
        ),
        (
            3 * np.eye(2),
            [nh.activation(lambda t: torch.exp(t**2 / 8), name="tower")],
            {"center": False},
            "'tower' has no finite Gaussian moments",
        ),
        (
            3 * np.eye(2),
            [nh.activation(lambda t: t**20, name="power")] * 2,
            {"center": False},
            "'power' has inputs of standard deviation .*bring X to rows of norm about 1",
        ),
        (1e4 * np.eye(50), [nh.activation("tanh")], {}, "bring X to rows of norm about 1"),
        (9 * np.eye(2), ["quadratic"] * 15, {"center": False}, "'quadratic' grows too large on X"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), [RELU], {}, "X must be numbers"),
        (np.eye(2), "relu", {}, "activations must name at least one layer"),
    ],
)
def test_bad_input_names_the_argument(X, activations, options, message):
    with pytest.raises(ValueError, match=message):
        nh.limit_kernels(X, activations, **options)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=4, unique=True),
    st.floats(0.2, 2.0),
    st.floats(0.2, 2.0),
    st.sampled_from([-0.9999, -0.98, -0.3, 0.0, 0.5, 0.97, 0.999, 0.99999]),
)
def test_pairs_of_a_staircase_against_quadrature(thresholds, a, b, rho):
    """Thresholds at 0, of either sign, near and far; the quadrature splits where they pass."""
    thresholds = sorted({round(x, 3) for x in thresholds})
    steps = nh.Quantized(thresholds, np.cos(np.arange(len(thresholds) + 1)))
    found = staircase_pair(steps, *(np.array([x]) for x in (a, b, rho)))
    if rho:
        expected = pair_expectation(steps, a, b, rho, 2)
        np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-9, atol=1e-11)
    else:
        g, h = (nh.gaussian_moments(steps, scale) for scale in (a, b))
        np.testing.assert_allclose(np.ravel(found), [g.mean * h.mean, g.d1 * h.d1], atol=1e-13)
