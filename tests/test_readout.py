"""The readout against scikit-learn, its choice of penalty, and its rounding."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import ntklc_helpers as nh
from ntklc_helpers.readout import LOGISTIC_GRID, RIDGE_GRID, Readout


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


def test_constant_features_and_a_class_without_weights_do_no_harm():
    X, y = np.zeros((20, 3)), np.repeat([0, 1], 10)
    readout = nh.fit_readout(X, y, dtype="int8")
    assert np.isfinite(readout.scores(X)).all() and not readout.weights.any()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((4, 2)), [0, 1, 0]), {}, "y must be 4 whole numbers, one label per row of X"),
        ((np.ones((4, 2)), [0.0, 1, 0, 1]), {}, "dtype float64"),
        ((np.ones((4, 2)), [1, 1, 1, 1]), {}, r"at least two classes, got \[1\]"),
        ((np.ones(4), [0, 1, 0, 1]), {}, "features must be a matrix"),
        ((np.ones((4, 2)), [0, 1, 0, 1]), {"kind": "svm"}, "kind must be 'ridge' or 'logistic'"),
        ((np.ones((4, 2)), [0, 1, 0, 1]), {"dtype": "int4"}, "dtype must be one of"),
        ((np.ones((4, 2)), [0, 1, 0, 1]), {"holdout": 1.0}, r"holdout must be in \(0, 1\)"),
        ((np.ones((2, 2)), [0, 1]), {"holdout": 0.9}, "must leave two classes to fit on"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        nh.fit_readout(*arguments, **options)


def test_arrays_that_are_no_readout_are_refused():
    good = Readout.from_weights(np.ones((3, 2)), np.zeros(2), [0, 1])
    arrays = {name: getattr(good, name) for name in ("weights", "scale", "bias", "classes")}
    assert np.array_equal(Readout.from_arrays(arrays).weights, good.weights)
    for name, value in [
        ("weights", np.full((3, 2), np.nan, np.float32)),
        ("weights", np.ones((3, 2))),
        ("bias", np.zeros(3, np.float32)),
        ("classes", np.zeros(2, np.int32)),
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
