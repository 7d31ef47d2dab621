"""Training in closed form against steps taken one by one, an ODE solver, drawn data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import ntklc_helpers as nh
from ntklc_helpers.theory.dynamics import largest_rate
from ntklc_helpers.theory.limiting_dynamics import limiting_training_loss
from ntklc_helpers.theory.spectrum import class_resolvent


def kernel(n=12, seed=0, skew=0.0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, 2 * n))
    return A @ A.T / (2 * n) + skew * rng.normal(size=(n, n))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.05]), st.integers(1, 3))
def test_descent_is_its_steps(seed, skew, columns):
    """Every step of gradient descent on the linear model, among the samples and beside them."""
    rng, N = np.random.default_rng(seed), kernel(seed=seed, skew=skew)
    y, M, aims = (rng.normal(size=shape) for shape in ((12, columns), (5, 12), (5, columns)))
    rate = 0.4 * largest_rate(N)
    if rate == 0:
        return
    times = rate * np.array([0, 1, 2, 7, 30])
    found = nh.training_curve(N, y, times, cross_kernel=M, targets=aims, learning_rate=rate)
    f, g = np.zeros_like(y), np.zeros_like(aims)
    for step in range(31):
        if step * rate in times:
            at = list(times).index(step * rate)
            np.testing.assert_allclose(found.predictions[at], f, atol=1e-8)
            np.testing.assert_allclose(found.test_predictions[at], g, atol=1e-8)
            assert abs(found.loss[at] - np.mean(np.sum((f - y) ** 2, axis=1))) < 1e-8
            assert abs(found.test_loss[at] - np.mean(np.sum((g - aims) ** 2, axis=1))) < 1e-8
        f, g = f + rate * N @ (y - f), g + rate * M @ (y - f)


@pytest.mark.parametrize("skew", [0.0, 0.05])
def test_flow_is_the_equation_it_solves(skew):
    N, y = kernel(skew=skew), np.random.default_rng(1).normal(size=12)
    M, times = np.random.default_rng(2).normal(size=(4, 12)), np.array([0.0, 0.3, 2.0, 9.0])
    found = nh.training_curve(N, y, times, cross_kernel=M)

    def moves(_, f):
        return np.concatenate([N, M]) @ (y - f[:12])

    solved = solve_ivp(moves, (0, 9), np.zeros(16), t_eval=times, rtol=1e-10, atol=1e-12).y
    np.testing.assert_allclose(found.predictions, solved[:12].T, atol=1e-7)
    np.testing.assert_allclose(found.test_predictions, solved[12:].T, atol=1e-7)
    assert found.test_loss is None and found.predictions.shape == (4, 12)


def test_small_steps_tend_to_flow_and_flow_to_the_interpolation():
    N, y = kernel(), np.random.default_rng(1).normal(size=12)
    M = np.random.default_rng(2).normal(size=(4, 12))
    flow = nh.training_curve(N, y, [2.0])
    gaps = [
        abs(nh.training_curve(N, y, [2.0], learning_rate=rate).loss[0] - flow.loss[0])
        for rate in (0.01, 0.005)
    ]
    assert 1.9 < gaps[0] / gaps[1] < 2.1
    late = nh.training_curve(N, y, [1e9], cross_kernel=M)
    np.testing.assert_allclose(late.test_predictions[0], M @ np.linalg.solve(N, y), rtol=1e-6)


def test_a_direction_that_the_kernel_does_not_see():
    N = np.diag([1.0, 0.0])
    found = nh.training_curve(N, [1.0, 1.0], [0.0, 3.0], cross_kernel=[[0.5, 0.25]])
    np.testing.assert_allclose(found.loss, [1, 0.5 + np.exp(-6) / 2])
    # What it moves elsewhere grows with the time, for its error stays.
    expected = 0.5 * (1 - np.exp(-3)) + 0.25 * 3
    np.testing.assert_allclose(found.test_predictions[1], [expected])


def test_beyond_the_largest_rate_descent_diverges():
    for skew in (0.0, 0.03):
        N, y = kernel(skew=skew), np.random.default_rng(1).normal(size=12)
        limit = largest_rate(N)
        for factor in (0.999, 1.001):
            f = np.zeros(12)
            for _ in range(20_000):
                f += factor * limit * N @ (y - f)
                if np.abs(f).max() > 1e6:
                    break
            assert (np.abs(f).max() > 1e6) == (factor > 1)
        with pytest.raises(ValueError, match=rf"learning_rate must be below {limit:.6g}"):
            nh.training_curve(N, y, [0.0], learning_rate=1.001 * limit)
    assert largest_rate(np.diag([1.0, -1.0])) == 0


def test_time_to_a_loss():
    curve = nh.training_curve(np.diag([1.0, 2.0]), [1.0, 1.0], np.linspace(0, 4, 401))
    for aim in (0.5, 0.1, 1e-3):
        time = curve.time_to(aim)
        assert abs((np.exp(-2 * time) + np.exp(-4 * time)) / 2 / aim - 1) < 1e-4
    assert curve.time_to(2.0) == 0 and curve.time_to(1e-9) == np.inf


def test_the_equivalent_is_taken_as_it_is():
    mixture = nh.GaussianMixture.preset("mixed", p=60, n_classes=2)
    sample = mixture.sample(90, seed=0)
    statistics = mixture.statistics(sample)
    equivalent = nh.ntk_equivalent(
        sample.X, statistics, nh.propagate(["relu"], statistics.tau0)[-1]
    )
    y = np.where(sample.labels, 1.0, -1.0)
    found = nh.training_curve(equivalent, y, [0.1, 1.0])
    np.testing.assert_allclose(
        found.loss, nh.training_curve(equivalent.to_dense(), y, [0.1, 1.0]).loss
    )


# --- before data are drawn


def mean_loss(mixture, n, coefficients, times, aims, draws=6):
    """Of the NTK's equivalent on samples drawn, with its standard error."""
    found = []
    for seed in range(draws):
        sample = mixture.sample(n, seed=seed)
        N = nh.ntk_equivalent(sample.X, mixture.statistics(sample), coefficients)
        found.append(nh.training_curve(N, aims[sample.labels], times).loss)
    return np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(draws)


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("iid", ["erf"]),
        ("means", ["erf"]),
        ("means", ["relu", "relu"]),
        ("variances", ["abs"]),
        ("mixed", ["relu", "relu"]),
    ],
)
def test_the_loss_before_data_are_drawn(preset, names):
    """It is the mean over samples, as they become many, and more so than at a quarter of them."""
    gaps = []
    for p in (60, 240):
        mixture = nh.GaussianMixture.preset(preset, p=p, n_classes=1 if preset == "iid" else 3)
        coefficients = nh.propagate(names, mixture.tau0)[-1]
        aims = np.eye(3)[: mixture.n_classes] - 0.2
        times = np.array([0.03, 0.3, 1.0, 3.0]) / coefficients.kappa**2
        drawn, error = mean_loss(mixture, 2 * p, coefficients, times, aims)
        found = limiting_training_loss(mixture, 2 * p, coefficients, times, aims)
        gaps.append(np.abs(found - drawn).max() / drawn[0])
        assert (np.abs(found - drawn) < 0.03 * drawn[0] + 4 * error).all()
    assert gaps[1] < max(gaps[0], 0.006)


def test_the_classes_part_of_the_resolvent():
    """Against j_aᵀ(Ñ − λ)⁻¹j_b of one large sample, on and off the spectrum's side."""
    mixture = nh.GaussianMixture.preset("mixed", p=500, n_classes=2)
    coefficients = nh.propagate(["relu"] * 2, mixture.tau0)[-1]
    form, (low, high) = class_resolvent(mixture, 800, coefficients, "ntk")
    sample = mixture.sample(800, seed=1)
    statistics = mixture.statistics(sample)
    values, vectors = np.linalg.eigh(
        nh.ntk_equivalent(sample.X, statistics, coefficients).to_dense()
    )
    assert abs(values[0] / low - 1) < 0.05 and abs(values[-1] / high - 1) < 0.1
    inside = vectors.T @ statistics.J
    for z in (high * (1 + 0.5j), (low + high) / 2 * (1 + 0.5j), low * (0.5 + 0.5j)):
        drawn = inside.T @ (inside / (values - z)[:, None])
        np.testing.assert_allclose(form(z), drawn, atol=0.05 * np.abs(drawn).max())


def test_a_loss_begins_with_what_is_to_be_learnt_and_falls():
    mixture = nh.GaussianMixture.preset("means", p=100, n_classes=2)
    coefficients = nh.propagate(["tanh"], mixture.tau0)[-1]
    found = limiting_training_loss(mixture, 150, coefficients, [0.0, 0.1, 1.0, 1e4])
    assert abs(found[0] - 0.5) < 1e-6
    assert (np.diff(found) < 0).all() and 0 <= found[-1] < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), [1, 2, 3], [1]), r"N must be square, n × n, got shape \(3, 2\)"),
        ((np.eye(3), [1, 2], [1]), r"y must have 3 rows, got shape \(2,\)"),
        ((np.eye(3), [1, 2, 3], [-1]), "times must be at least one, and none negative"),
        ((np.eye(3), [1, 2, 3], []), "times must be at least one, and none negative"),
        ((np.diag([1, np.inf, 1]), [1, 2, 3], [1]), "N must be finite"),
        ((np.diag([1, -1, 1]), [1, 2, 3], [1e3]), "N must have no eigenvalue so far below 0 as -1"),
        (([[1, 1], [0, 1]], [1, 2], [1]), "N must have eigenvectors that differ"),
    ],
)
def test_what_cannot_be_trained(arguments, message):
    with pytest.raises(ValueError, match=message):
        nh.training_curve(*arguments)


def test_more_that_cannot_be():
    N, y = np.eye(3), [1, 2, 3]
    for more, message in [
        ({"targets": [1]}, "targets must come with cross_kernel"),
        ({"cross_kernel": np.ones((2, 3)), "targets": [1]}, "targets must have 2 rows of 1"),
        ({"cross_kernel": np.ones((2, 2))}, "cross_kernel must have 3 columns"),
        ({"learning_rate": 2.0}, "learning_rate must be below 2 "),
        ({"learning_rate": 0.3}, "times must be multiples of learning_rate=0.3"),
    ]:
        with pytest.raises(ValueError, match=message):
            nh.training_curve(N, y, [1.0], **more)
    mixture = nh.GaussianMixture.preset("iid", p=20)
    steps = nh.propagate(["sign"], mixture.tau0)[-1]
    with pytest.raises(ValueError, match="must not have a jump"):
        limiting_training_loss(mixture, 30, steps, [1.0])
    for aims in ([1, 2, 3], [[1], [2], [3]]):
        with pytest.raises(ValueError, match="targets must have 2 rows"):
            limiting_training_loss(mixture, 30, nh.propagate(["erf"], 1.0)[-1], [1.0], aims)
    assert torch.is_tensor(torch.ones(1)) and len(nh.training_curve(torch.eye(3), y, [1.0]).loss)
