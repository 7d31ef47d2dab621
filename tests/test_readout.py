"""The readout against scikit-learn, its choice of penalty, and its rounding."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import ntklc_helpers as nh
from ntklc_helpers.compression.readout import (
    GCV_GRID,
    LOGISTIC_GRID,
    RIDGE_GRID,
    Readout,
    counts,
    fit_ridge,
)


@pytest.fixture(scope="module")
def digits():
    train, test = nh.load_digits(split="train"), nh.load_digits(split="test")
    return train.X, train.labels, test.X, test.labels


def test_ridge_is_scikit_learns_at_the_penalty_chosen(digits):
    X, y, Xt, _ = digits
    ours = nh.fit_readout(X, y)
    assert ours.penalty in RIDGE_GRID
    centred = X - X.mean(axis=0)
    alpha = ours.penalty * np.mean(np.sum(centred**2, axis=0))
    peer = Ridge(alpha=alpha).fit(X, np.where(y[:, None] == np.arange(10), 1.0, -1.0))
    # float32 weights: an absolute error of a few 1e-8 times the sum of |x||w|.
    np.testing.assert_allclose(ours.scores(Xt), peer.predict(Xt), atol=1e-5)


def test_logistic_is_scikit_learns_on_standardised_features(digits):
    X, y, Xt, yt = digits
    ours = nh.fit_readout(X, y, kind="logistic")
    assert ours.penalty in LOGISTIC_GRID
    mean, spread = X.mean(axis=0), X.std(axis=0)
    spread[spread == 0] = 1
    peer = LogisticRegression(C=ours.penalty, max_iter=200).fit((X - mean) / spread, y)
    np.testing.assert_allclose(
        ours.scores(Xt), peer.decision_function((Xt - mean) / spread), atol=1e-4
    )
    assert np.mean(ours.predict(Xt) == yt) > 0.9


def test_two_classes_and_labels_of_any_kind(digits):
    X, y, Xt, yt = digits
    two, seen = np.isin(y, (0, 6)), np.isin(yt, (0, 6))
    for kind in ("ridge", "logistic"):
        readout = nh.fit_readout(X[two], 100 * y[two], kind=kind)
        assert readout.classes.tolist() == [0, 600]
        assert np.mean(readout.predict(Xt[seen]) == 100 * yt[seen]) > 0.95


def test_the_penalty_is_the_one_that_noise_asks_for():
    """Few samples of pure noise beside one informative feature want a strong penalty."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    noisy = np.hstack(
        [(2 * y - 1)[:, None] + rng.standard_normal((300, 1)), rng.standard_normal((300, 250))]
    )
    clean = np.hstack(
        [(2 * y - 1)[:, None] * np.ones((300, 3)), 0.01 * rng.standard_normal((300, 5))]
    )
    assert nh.fit_readout(noisy, y, holdout=0.3).penalty > 1e-2
    # Where every penalty classifies perfectly, the squared error decides.
    assert nh.fit_readout(clean, y).penalty == RIDGE_GRID[0]


@pytest.mark.parametrize(("dtype", "part"), [("float16", 2.0**-11), ("int8", 0.5 / 127)])
def test_rounding_is_within_half_a_step(digits, dtype, part):
    X, y, _, _ = digits
    full = nh.fit_readout(X, y)
    rounded = full.rounded(dtype)
    weights = rounded.weights * rounded.scale
    assert rounded.dtype == dtype
    largest = np.abs(full.weights).max(axis=0)
    assert (np.abs(weights - full.weights) <= part * 1.001 * largest).all()
    assert np.array_equal(nh.fit_readout(X, y, dtype=dtype).weights, rounded.weights)
    # float16 may lose what is below its smallest number, not more.
    assert rounded.nbytes < full.nbytes


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-9, 1e9, -12345.678])
def test_constant_features_get_no_weights(value):
    X, y = np.full((20, 3), value), np.repeat([0, 1], [8, 12])
    readout = nh.fit_readout(X, y, dtype="int8")
    assert np.isfinite(readout.scores(X)).all() and not readout.weights.any()
    # Beside others they are what zeros are.
    rng = np.random.default_rng(0)
    useful = rng.standard_normal((20, 2)) + y[:, None]
    for kind in ("ridge", "logistic"):
        beside, zeros = (np.hstack([one, useful]) for one in (X[:, :1], 0 * X[:, :1]))
        found, plain = (nh.fit_readout(features, y, kind=kind) for features in (beside, zeros))
        np.testing.assert_allclose(found.weights[1:], plain.weights[1:], rtol=1e-5)
        assert np.array_equal(found.predict(beside), plain.predict(zeros))


def test_labels_may_be_text():
    X, y = nh.load_digits(split="train", n=400).X, nh.load_digits(split="train", n=400).labels
    names = np.array([f"digit {'éa'[k % 2]}{k}" for k in range(10)])
    for kind in ("ridge", "logistic"):
        numbers, text = (nh.fit_readout(X, labels, kind=kind) for labels in (y, names[y]))
        assert np.array_equal(text.classes, np.sort(names))
        assert np.array_equal(nh.fit_readout(X, names[y].tolist(), kind=kind).weights, text.weights)
        assert text.score(X, names[y]) == pytest.approx(numbers.score(X, y), abs=0.01)
        again = Readout.from_arrays(text.arrays)
        assert again == text and np.array_equal(again.predict(X), text.predict(X))
        assert {a.dtype.kind for a in text.arrays.values()} <= set("fu")


def test_score_wants_labels_that_fit():
    X, y = np.arange(10.0)[:, None], np.repeat([0, 1], 5)
    readout = nh.fit_readout(X, y)
    assert readout.score(X, y) == np.mean(readout.predict(X) == y)
    for bad in (y[:-1], y[:, None], None):
        with pytest.raises(ValueError, match="y must "):
            readout.score(X, bad)
    with pytest.raises(ValueError, match="y must be labels like .*0.*, got .*'0'"):
        readout.score(X, y.astype(str))
    with pytest.raises(ValueError, match="features must have 1 columns, got shape"):
        readout.predict(np.hstack([X, X]))


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1e5, 1e9])
def test_float16_holds_weights_of_any_size(digits, size):
    X, y, _, _ = digits
    full, half = (nh.fit_readout(size * X, y, dtype=dtype) for dtype in ("float32", "float16"))
    assert half.dtype == "float16" and np.isfinite(half.weights).all()
    largest = np.abs(full.weights).max(axis=0)
    error = np.abs(half.weights * half.scale - full.weights).max(axis=0)
    assert (error <= 2.0**-11 * 1.001 * largest).all()
    assert np.mean(half.predict(size * X) == full.predict(size * X)) > 0.99


def test_a_readout_that_is_not_finite_does_not_come_into_being():
    weights, bias = np.ones((3, 2)), np.zeros(2)
    for odd in (np.nan, np.inf, 1e300):
        with pytest.raises(ValueError, match="a readout must be finite"):
            Readout.from_weights(odd * weights, bias, [0, 1])
        with pytest.raises(ValueError, match="a readout must be finite"):
            Readout.from_weights(weights, bias + odd, [0, 1])
    with pytest.raises(ValueError, match="a readout must be finite in float32: scale the features"):
        nh.fit_readout(1e-45 * np.array([[1.0], [2], [3], [4]]), [0, 0, 1, 1])


def test_readouts_are_equal_where_they_do_the_same():
    one, same, other = (Readout.from_weights(np.full((3, 2), k), [0, 1], [0, 1]) for k in (1, 1, 2))
    assert one == same and one != other and one != "a readout"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((4, 2)), [0, 1, 0]), {}, r"y must have shape \(4,\), one per row of X"),
        ((np.ones((4, 2)), [[0], [1], [0], [1]]), {}, r"y must have shape \(4,\).*got \(4, 1\)"),
        ((np.ones((4, 2)), [0.5, 1, 0, 1]), {}, "y must be whole numbers or text"),
        ((np.ones((4, 2)), [1, 1, 1, 1]), {}, r"y must hold at least two classes, got \[1\]"),
        ((np.ones(4), [0, 1, 0, 1]), {}, "features must have 2 dimension"),
        ((np.full((4, 1), np.nan), [0, 1, 0, 1]), {}, "features must be finite"),
        ((np.full((4, 1), np.nan, np.float32), [0, 1, 0, 1]), {}, "features must be finite"),
        ((np.ones((4, 2)), [0, 1, 0, 1]), {"kind": "svm"}, "kind must be one of ridge, logistic"),
        ((np.ones((4, 2)), [0, 1, 0, 1]), {"seed": -1}, "seed must be a whole number"),
        ((np.ones((4, 2)), [0, 1, 0, 1]), {"device": "abacus"}, "device must be one that torch"),
        ((np.ones((4, 2)), [0, 1, 0, 1]), {"dtype": "int4"}, "dtype must be one of"),
        (
            (np.ones((4, 2)), [0, 1, 0, 1]),
            {"holdout": 1.0},
            r"holdout must be a number in \(0, 1\)",
        ),
        ((np.ones((2, 2)), [0, 1]), {"holdout": 0.9}, "must leave two classes to fit on"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        nh.fit_readout(*arguments, **options)


def test_arrays_that_are_no_readout_are_refused():
    good = Readout.from_weights(np.ones((3, 2)), np.zeros(2), [0, 1])
    arrays = good.arrays
    assert Readout.from_arrays(arrays) == good
    for name, value in [
        ("weights", np.full((3, 2), np.nan, np.float32)),
        ("weights", np.ones((3, 2))),
        ("bias", np.zeros(3, np.float32)),
        ("classes", np.zeros(2, np.int32)),
        ("classes", np.full((2, 1), 2**31, np.uint32)),
        ("scale", np.full(2, np.inf, np.float32)),
    ]:
        with pytest.raises(ValueError):
            Readout.from_arrays(arrays | {name: value})


def test_ridge_by_torch_is_ridge_by_numpy():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5000, 12)).astype(np.float32)
    y = (features[:, :3] + rng.standard_normal((5000, 3))).argmax(axis=1)
    plain, by_torch = (nh.fit_readout(features, y, device=device) for device in (None, "cpu"))
    # Sums of 5,000 products in float64, in another order; the weights are held in float32.
    np.testing.assert_allclose(by_torch.weights, plain.weights, rtol=1e-6)
    np.testing.assert_allclose(by_torch.bias, plain.bias, rtol=1e-6)
    assert by_torch.penalty == plain.penalty


def test_the_penalty_is_the_one_of_least_generalised_cross_validation():
    rng = np.random.default_rng(0)
    for n, d in ((40, 12), (20, 30)):
        F, w = rng.standard_normal((n, d)), rng.integers(1, 4, n)
        T = F[:, :2] + 2 * rng.standard_normal((n, 2))
        T = T - np.average(T, axis=0, weights=w)
        T = T / np.sqrt(np.average(T**2, axis=0, weights=w))
        A, B, N = np.sqrt(w)[:, None] * F, np.sqrt(w)[:, None] * T, w.sum()
        # By the hat matrix, of samples with their weights and a column of ones.
        A, root = A - np.sqrt(w)[:, None] * (w @ F / N), np.sqrt(w / N)
        merit = []
        for penalty in GCV_GRID:
            shift = penalty * np.sum(A**2) / d
            H = A @ np.linalg.solve(A.T @ A + shift * np.eye(d), A.T) + np.outer(root, root)
            merit.append(np.sum((B - H @ B) ** 2) / (N - np.trace(H)) ** 2)
        assert fit_ridge(F, T, sample_weight=w).penalty == GCV_GRID[np.argmin(merit)]


def test_a_readout_of_values_is_a_readout():
    rng = np.random.default_rng(0)
    F, T = rng.standard_normal((50, 6)), rng.standard_normal((50, 2)) * [1e-200, 1e30]
    values = fit_ridge(F, T, penalty=0.1)
    assert Readout.from_arrays(values.arrays) == values and values.classes is None
    single = fit_ridge(F, T[:, :1], penalty=0.1)
    assert values.predict(F).shape == (50, 2) and single.predict(F).shape == (50,)
    for dtype, part in (("float32", 2.0**-23), ("float16", 2.0**-11), ("int8", 0.5 / 127)):
        rounded = values.rounded(dtype)
        assert rounded.dtype == dtype and rounded.classes is None
        largest = np.abs(values.weights).max(axis=0) * values.scale
        error = np.abs(rounded.weights * rounded.scale - values.weights * values.scale)
        assert (error <= 1.001 * part * largest).all()
    # A file that lost its classes is none of values.
    scores = fit_ridge(F, T, classes=["a", "b"], penalty=0.1)
    without = {name: array for name, array in scores.arrays.items() if name != "classes"}
    with pytest.raises(KeyError):
        Readout.from_arrays(without)
    mixed = values.arrays | {"scale": values.scale.astype(np.float32)}
    with pytest.raises(ValueError, match="cannot be of"):
        Readout.from_arrays(mixed)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((4, 2)), np.ones((3, 1))), {}, "targets must have 4 rows"),
        ((np.ones((4, 2)), np.ones(4)), {}, "targets must have 2 dimension"),
        ((np.ones((4, 2)), np.full((4, 1), np.nan)), {}, "targets must be finite"),
        ((np.ones((4, 2)), np.ones((4, 2))), {"classes": [1]}, r"classes must have shape \(2,\)"),
        ((np.ones((4, 2)), np.ones((4, 1))), {"penalty": 0}, "penalty must be a positive"),
        ((np.ones((4, 2)), np.ones((4, 1))), {"sample_weight": [1]}, "sample_weight must be 4"),
        ((np.ones((4, 2)), np.ones((4, 1))), {"sample_weight": []}, "sample_weight must be 4 .* got 0"),
    ],
)  # fmt: skip
def test_a_ridge_that_cannot_be_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fit_ridge(*arguments, **options)


def test_weights_by_default_are_ones():
    assert counts(None, 3).tolist() == [1, 1, 1] and counts([2, 0], 2).tolist() == [2, 0]
