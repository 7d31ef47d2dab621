"""Accuracy before a network is drawn: against simulation, brute force, limits and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.theory.forecast import Forecaster

INF = float("inf")


@pytest.fixture(scope="module")
def digits():
    data = nh.load_digits(classes=range(10), n=600, seed=0)
    return nh.normalize(data.X), data.labels


def left_out(F, T, delta):
    """Outputs (n, k) of ridge regression on features, each sample left out in turn: exact."""
    Q = np.linalg.inv(F @ F.T + delta * np.eye(len(F)))
    return T - Q @ T / Q.diagonal()[:, None]


def simulated(X, y, activations, widths, ridge, variance, draws, **law):
    """Errors and hits (draws,) of leave-one-out on networks that are drawn."""
    Y = np.eye(y.max() + 1)[y]
    T, found = Y - Y.mean(0), []
    for seed in range(draws):
        net = nh.RandomMLP(X.shape[1], widths, activations, tau0=1.0, seed=seed, **law)
        out = left_out(net.features(X).double().numpy(), T, ridge * variance) + Y.mean(0)
        found.append((((out - Y) ** 2).sum(1).mean(), (out.argmax(1) == y).mean()))
    return np.array(found).T


def forecaster(X, y, activations, **how):
    found = Forecaster.of(X, y, activations, tau0=1.0, **how)
    return found, found.variance.sum()


@pytest.mark.parametrize(
    ("n", "k", "delta"), [(100, 50, 0.1), (100, 200, 0.03), (60, 60, 0.01), (100, None, 0.1)]
)
def test_risk_of_gaussian_designs(n, k, delta):
    modes = np.arange(1, 401.0)
    lam, v = modes**-1.2 / np.sum(modes**-1.2), modes**-0.9
    rng, errors = np.random.default_rng(0), []
    for _ in range(150):
        Z = rng.standard_normal((n, 400)) * np.sqrt(lam)
        W = np.eye(400) if k is None else rng.standard_normal((400, k)) / np.sqrt(k)
        F, t = Z @ W, Z @ (v / np.sqrt(lam)) + 0.1 * rng.standard_normal(n)
        w = W @ F.T @ np.linalg.solve(F @ F.T + delta * np.eye(n), t)
        errors.append(np.sum((v - np.sqrt(lam) * w) ** 2) + 0.01)
    expected = nh.theory.ridge_risk(lam, v, n, delta, k or INF, noise=0.01)
    # What is left is of the order 1/n.
    spread = np.std(errors) / np.sqrt(len(errors))
    assert abs(np.mean(errors) - expected) < 4 * spread + expected / n


def test_risk_in_limits():
    lam, v = np.arange(1, 501.0) ** -1.5, np.arange(1, 501.0) ** -1.0
    risk = nh.theory.ridge_risk
    assert risk(lam, v, 100, 0.1, 10**9) == pytest.approx(risk(lam, v, 100, 0.1), rel=1e-6)
    assert risk(lam, v, 100, 0.0) == pytest.approx(risk(lam, v, 100, 1e-10), rel=1e-5)
    # With a ridge above all eigenvalues nothing is learnt.
    assert risk(lam, v, 100, 1e9, noise=0.5) == pytest.approx(v @ v + 0.5, rel=1e-4)
    assert risk(lam, v, 100, 0.0, 100) == INF
    # The peak where samples are as many as features, and the way out of it by a ridge.
    peak, before, after = (risk(lam, v, 100, 1e-6, k) for k in (100, 50, 400))
    assert peak > 3 * max(before, after) and risk(lam, v, 100, 0.01, 100) < peak / 3
    # Many samples leave the noise of k features: what they cannot express.
    assert risk(lam, v, 10**7, 1e-3, noise=0.2) == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eigenvalues": [1.0, 0.0]}, "eigenvalues must be positive"),
        ({"coefficients": [1.0]}, "coefficients must have shape"),
        ({"delta": -1.0}, "must not be negative"),
        ({"delta": 0.0}, "delta must be positive for 5 samples of 2 modes"),
        ({"width": 2.5}, "width must be a whole number"),
    ],
)
def test_risk_refuses(change, message):
    good = {"eigenvalues": [1.0, 0.5], "coefficients": [1.0, 1.0], "n": 5, "delta": 0.1}
    with pytest.raises(ValueError, match=message):
        nh.theory.ridge_risk(**(good | change))


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_infinite_width_is_kernel_ridge_regression_with_samples_left_out(digits, name):
    """By brute force: every sample removed, the rest solved, no formula for leaving out."""
    X, y = digits[0][:120], digits[1][:120]
    prepared, variance = forecaster(X, y, [name] * 2)
    K, _ = nh.limit_kernels(X, [name] * 2, tau0=1.0, ntk=False)
    Y = np.eye(10)[y]
    T, out = Y - Y.mean(0), np.empty_like(Y)
    for i in range(len(X)):
        rest = np.arange(len(X)) != i
        A = K[np.ix_(rest, rest)] + 1e-3 * variance * np.eye(len(X) - 1)
        out[i] = K[i, rest] @ np.linalg.solve(A, T[rest]) + Y.mean(0)
    known = prepared(ridge=1e-3)
    assert known.error == pytest.approx(np.sum((out - Y) ** 2, axis=1).mean(), rel=1e-9)
    assert known.accuracy == np.mean(out.argmax(1) == y)
    assert known.shrinkage == (1.0, 1.0)


@pytest.mark.parametrize(("n", "subsets"), [(150, 1), (100, 2), (20, 2)])
def test_fewer_to_train_on_and_the_rest_to_test_on(digits, n, subsets):
    X, y = digits[0][:200], digits[1][:200]
    prepared, _ = forecaster(X, y, ["relu"], n_train=n)
    K, _ = nh.limit_kernels(X, ["relu"], tau0=1.0, ntk=False)
    Y, errors = np.eye(10)[y], []
    used = np.concatenate(prepared.subsets)
    assert len(prepared.subsets) == subsets and len(set(used.tolist())) == n * subsets
    for rows in prepared.subsets:
        new = np.setdiff1d(np.arange(200), rows)
        T, block = Y[rows] - Y[rows].mean(0), K[np.ix_(rows, rows)]
        A = block + 1e-2 * np.trace(block) * np.eye(n)
        out = np.empty_like(Y)
        out[new] = K[np.ix_(new, rows)] @ np.linalg.solve(A, T)
        Q = np.linalg.inv(A)
        out[rows] = T - Q @ T / Q.diagonal()[:, None]
        errors.append(((out + Y[rows].mean(0) - Y) ** 2).sum(1).mean())
    known = prepared(ridge=1e-2)
    assert known.error == pytest.approx(np.mean(errors), rel=1e-9)


@pytest.mark.parametrize("names", [["relu"] * 2, ["tanh"] * 3])
def test_samples_that_no_subset_trains_on(digits, names):
    """Only kernels with the subsets' samples are made; networks that are drawn agree."""
    X, y = digits
    prepared, _ = forecaster(X, y, names, n_train=100)
    assert prepared.layers[0].part.shape == (600, 200)
    T, widths, found = np.eye(10)[y], [80] * len(names), []
    for seed in range(20):
        net = nh.RandomMLP(X.shape[1], widths, names, tau0=1.0, seed=seed)
        F, errors = net.features(X).double().numpy(), []
        for rows in prepared.subsets:
            delta, mean = 1e-3 * prepared.variance[rows].sum(), T[rows].mean(0)
            Q = np.linalg.inv(F[rows] @ F[rows].T + delta * np.eye(100))
            out = mean + F @ (F[rows].T @ Q @ (T[rows] - mean))
            out[rows] = T[rows] - Q @ (T[rows] - mean) / Q.diagonal()[:, None]
            errors.append(((out - T) ** 2).sum(1).mean())
        found.append(np.mean(errors))
    known = prepared(widths, 1e-3)
    assert abs(known.error / np.mean(found) - 1) < 0.025
    assert known.error_uncertainty < 0.1 * known.error


@pytest.mark.parametrize(("width", "ridge"), [(30, 1e-2), (100, 1e-3), (400, 1e-4)])
def test_gaussian_features_to_the_last_term(width, ridge):
    """A linear layer on Gaussian data has Gaussian features: mean and covariance are exact."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((150, 300)) * np.arange(1, 301.0) ** -0.6
    X /= np.sqrt((X**2).sum(1).mean())
    y = np.digitize(X[:, 0] + 0.2 * rng.standard_normal(150), [-0.2, 0.2])
    prepared, variance = forecaster(X, y, ["linear"])
    known = prepared([width], ridge)
    errors, hits = simulated(X, y, ["linear"], [width], ridge, variance, 200)
    assert abs(errors.mean() - known.error) < 4 * errors.std() / 200**0.5 + 0.01 * known.error
    assert abs(hits.mean() - known.accuracy) < 4 * hits.std() / 200**0.5 + 0.005


@pytest.mark.parametrize(
    ("names", "widths", "ridge"),
    [
        (["relu"], [60], 1e-2),
        (["relu"] * 3, [150] * 3, 1e-2),
        (["tanh"] * 2, [400, 60], 1e-3),
        (["gelu"] * 2, [100, 1000], 1e-2),
    ],
)
def test_networks_that_are_drawn_do_as_was_said(digits, names, widths, ridge):
    """Neurons are not Gaussian, and widths not large: within a point of accuracy and 5% of error."""
    X, y = digits[0][:400], digits[1][:400]
    prepared, variance = forecaster(X, y, names)
    known = prepared(widths, ridge)
    errors, hits = simulated(X, y, names, widths, ridge, variance, 40)
    assert abs(hits.mean() - known.accuracy) < 0.01 + 2 * hits.std() / 40**0.5
    assert abs(errors.mean() / known.error - 1) < 0.05


def test_steps_and_sparse_weights(digits):
    X, y = digits[0][:400], digits[1][:400]
    steps = nh.match(["relu"] * 2, tau0=1.0, levels=4).activations
    prepared, variance = forecaster(X, y, steps, sparsity=0.9)
    known = prepared([300] * 2, 1e-2)
    _, hits = simulated(X, y, steps, [300] * 2, 1e-2, variance, 30, weights="ternary", sparsity=0.9)
    assert abs(hits.mean() - known.accuracy) < 0.015 + 2 * hits.std() / 30**0.5


def test_inputs_of_a_small_copy(digits):
    """What few inputs do is told apart from the width that a readout is short of."""
    X, y = digits[0][:200], digits[1][:200]
    steps = nh.match(["relu"] * 2, tau0=1.0, levels="paper").activations
    prepared, _ = forecaster(X, y, steps, sparsity=0.9)
    narrow = prepared([60, 60], 1e-2)
    assert prepared([60, 60], 1e-2, inputs=[60, 5]) == narrow
    many = prepared([60, 60], 1e-2, inputs=[4000, 4000])
    assert narrow.error < many.error - 0.01
    with pytest.raises(ValueError, match="inputs must have 2 entries"):
        prepared([60, 60], 1e-2, inputs=[60])


def test_orthogonal_samples_in_closed_form():
    """K = I: s + δ is the only eigenvalue, s = 1 − (n/d) s/(s + δ) a quadratic equation."""
    n, d, ridge = 40, 25, 0.01
    prepared, variance = forecaster(np.eye(n), np.arange(n) % 2, ["linear"])
    assert variance == n
    s, delta = prepared([d], ridge).shrinkage[0], ridge * n
    assert s == pytest.approx(1 - n / d * s / (s + delta), rel=1e-7)
    # Nothing is to be learnt from others: the error is that of the means.
    assert prepared(None, ridge).error == pytest.approx(0.5, rel=0.06)


def test_what_must_not_matter(digits):
    X, y = digits[0][:150], digits[1][:150]
    known = nh.forecast(X, y, ["relu"] * 2, [80, 80])
    scaled = nh.forecast(7 * X, y, ["relu"] * 2, [80, 80])
    assert scaled.error == pytest.approx(known.error, rel=1e-6)
    names = np.array(list("abcdefghij"))
    assert nh.forecast(X, names[y], ["relu"] * 2, [80, 80]) == known
    wide = nh.forecast(X, y, ["relu"] * 2, [10**7, 10**7])
    limit = nh.forecast(X, y, ["relu"] * 2)
    assert wide.error == pytest.approx(limit.error, rel=1e-3)
    assert wide.implicit_ridge == pytest.approx(limit.implicit_ridge, rel=1e-3)


def test_the_implicit_ridge_is_one_axis(digits):
    """A ridge, fewer neurons and fewer levels all move it up; a linear network has its own."""
    X, y = digits[0][:150], digits[1][:150]

    def implicit(names, widths, ridge):
        return nh.forecast(X, y, names, widths, ridge, tau0=1.0).implicit_ridge

    assert implicit(["linear"], None, 0.01) == pytest.approx(0.01, rel=1e-6)
    finite = implicit(["linear"], [50], 0.01)
    s = nh.forecast(X, y, ["linear"], [50], 0.01, tau0=1.0).shrinkage[0]
    assert finite == pytest.approx(0.01 / s, rel=1e-6)
    few = nh.match(["relu"], tau0=1.0, levels=2).activations
    assert implicit(few, None, 0.01) > implicit(["relu"], None, 0.01) > 0.01


def test_regression(digits):
    X = digits[0][:200]
    target = np.stack([X[:, 20] * X[:, 30], X[:, 36] ** 2], axis=1)
    prepared, variance = forecaster(X, target, ["relu"])
    known = prepared([100], 1e-2)
    assert known.accuracy is None and known.accuracy_uncertainty is None
    T, errors = target - target.mean(0), []
    for seed in range(60):
        F = nh.RandomMLP(64, [100], ["relu"], tau0=1.0, seed=seed).features(X).double().numpy()
        errors.append(((left_out(F, T, 1e-2 * variance) - T) ** 2).sum(1).mean())
    assert np.mean(errors) == pytest.approx(known.error, rel=0.02)
    single = nh.forecast(X, target[:, 0], ["relu"], [100], 1e-2)
    assert single.error < known.error


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 40), st.floats(1e-4, 1.0), st.integers(12, 40))
def test_any_small_task(seed, width, ridge, n):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, 6)) / 6**0.5, np.arange(n) % 3
    known = nh.forecast(X, y, ["tanh"], [width], ridge)
    assert 0 <= known.accuracy <= 1 and known.error > 0 and known.error_uncertainty >= 0
    assert 0 < known.shrinkage[0] < 1 and known.implicit_ridge > 0
    more = nh.forecast(X, y, ["tanh"], [2 * width], ridge)
    assert more.shrinkage[0] > known.shrinkage[0]


def test_sparse_weights_on_rows_of_very_different_lengths():
    rng = np.random.default_rng(0)
    X = np.abs(rng.standard_normal((80, 30))) ** 3 * rng.uniform(0.1, 3, (80, 1))
    known = nh.forecast(X, np.arange(80) % 2, ["relu"] * 2, [50, 50], sparsity=0.95)
    assert 0 < known.accuracy < 1 and np.isfinite(known.error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridge": -1.0}, "ridge must be at least 0"),
        ({"ridge": 0.0, "widths": [20]}, "positive where the last width, 20"),
        (
            {"X": np.ones((30, 4)), "ridge": 0.0},
            "the kernel of the samples to train on is singular",
        ),
        ({"widths": [20, 20]}, "widths must have 1 entries"),
        ({"widths": [0.5]}, "widths must be a whole number"),
        ({"n_train": 31}, "n_train must be a whole number from 2 to 30"),
        ({"n_train": 2}, "n_train must be at least the 3 classes"),
        ({"y": np.zeros(30)}, "y must name at least two classes"),
        ({"y": np.zeros(29)}, r"y must have shape \(30,\)"),
        ({"y": np.full(29, 0.5)}, "y must have 30 rows"),
        ({"y": np.full(30, np.nan)}, "y must be finite"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"weights": nh.theory.Pruned(0.5, rescale=False)}, "weights must have variance 1"),
    ],
)
def test_refusals(change, message):
    X = np.random.default_rng(0).standard_normal((30, 4))
    good = {"X": X, "y": np.arange(30) % 3, "activations": ["relu"]}
    with pytest.raises(ValueError, match=message):
        nh.forecast(**(good | change))
