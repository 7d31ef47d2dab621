"""The estimators of scikit-learn: its own suite, weights that count, files, pipelines, accuracy."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits, load_wine, make_friedman1
from sklearn.ensemble import BaggingClassifier
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import ntklc_helpers as nh

# What scikit-learn skips unless an environment variable is set, for every estimator that it checks.
SKIPPED = {"check_array_api_input"}
# Matched once for all.
DEEP = {
    "activation": ["tanh", "relu"],
    "levels": nh.match(["tanh", "relu"], 1.0, [4, 8], "lloyd-max"),
}
CHECKED = [
    nh.NTKLCClassifier(100),
    nh.NTKLCClassifier((60, 60), **DEEP, ridge=0.03, sparsity=0.5, standardize=False),
    nh.NTKLCRegressor(100),
    nh.NTKLCRegressor((60, 60), **DEEP, ridge=0.03, sparsity=0.5, standardize=False),
]


@pytest.mark.parametrize(
    "estimator", CHECKED, ids=["classes", "classes, deep", "values", "values, deep"]
)
def test_all_checks_of_scikit_learn_pass(estimator):
    """None fails, and the one skipped is skipped for a kernel machine of its own."""
    ours = check_estimator(estimator, on_skip=None, on_fail="raise")
    assert {one["check_name"] for one in ours if one["status"] != "passed"} == SKIPPED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(KernelRidge(), on_skip=None, on_fail=None)
    assert {one["check_name"] for one in found if one["status"] == "skipped"} == SKIPPED


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)


def test_it_is_more_accurate_than_a_linear_machine(digits, wine):
    X, Xt, y, yt = digits
    linear = make_pipeline(StandardScaler(), RidgeClassifier()).fit(X, y).score(Xt, yt)
    columns, together = (
        nh.NTKLCClassifier(500, standardize=one, random_state=0).fit(X, y).score(Xt, yt)
        for one in (True, False)
    )
    assert linear < 0.95 < 0.97 < columns and together > 0.975
    X, y = make_friedman1(600, noise=1.0, random_state=0)
    X, Xt, y, yt = X[:400], X[400:], y[:400], y[400:]
    assert (
        nh.NTKLCRegressor(500, random_state=0).fit(X, y).score(Xt, yt)
        > 0.8
        > Ridge().fit(X, y).score(Xt, yt)
    )


def test_by_default_products_of_few_columns_are_told():
    X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    y = X.prod(axis=1)
    one, two = (
        nh.NTKLCRegressor(**widths, random_state=0).fit(X[:200], y[:200]).score(X[200:], y[200:])
        for widths in ({"widths": 500}, {})
    )
    assert one < 0.9 < 0.95 < two


def test_columns_of_several_kinds_are_made_one_kind(wine):
    X, Xt, y, yt = wine
    apart, together = (
        np.mean([
            nh.NTKLCClassifier(200, standardize=one, sparsity=0.0, random_state=seed)
            .fit(X, y).score(Xt, yt)
            for seed in range(4)
        ])
        for one in (True, False)
    )  # fmt: skip
    assert apart > 0.95 and apart > together + 0.1
    # Then no unit matters, and no offset.
    units, offsets = np.logspace(-9, 9, X.shape[1]), np.linspace(-1, 1, X.shape[1])
    one, other = (nh.NTKLCClassifier(200, random_state=0) for _ in range(2))
    one.fit(X, y), other.fit(units * (X + offsets), y)
    assert np.array_equal(one.predict(Xt), other.predict(units * (Xt + offsets)))


@pytest.mark.parametrize("standardize", [True, False])
def test_rows_have_mean_squared_norm_one(wine, standardize):
    X, _, y, _ = wine
    X = np.hstack([X, np.full((len(X), 2), 0.1)])
    scaling = nh.NTKLCClassifier(20, standardize=standardize).fit(X, y).network_.scaling
    rows = scaling(X)
    assert np.sum(rows**2) / len(X) == pytest.approx(1)
    assert np.abs(rows.mean(axis=0)).max() < 1e-12
    expected = rows if standardize else nh.normalize(X)
    np.testing.assert_allclose(rows, expected, atol=1e-12)
    spreads = rows.std(axis=0)
    assert np.ptp(spreads[:-2]) < 1e-12 if standardize else spreads[-3] > 100 * spreads[0]
    assert spreads[-2:].max() < 1e-12


def both_kinds(n=60, p=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, X[:, 0] + X[:, 1] ** 2 + 0.3 * rng.standard_normal(n)


@pytest.mark.parametrize("ridge", [None, 0.1])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_whole_weight_is_a_repetition(ridge, standardize):
    X, values = both_kinds()
    w = np.random.default_rng(1).integers(0, 6, len(X))
    for make, y in [
        (nh.NTKLCClassifier, np.where(values > 0, "up", "down")),
        (nh.NTKLCClassifier, np.digitize(values, [-1, 1])),
        (nh.NTKLCRegressor, values),
        (nh.NTKLCRegressor, np.stack([values, X[:, 2] + 1e6], axis=1)),
    ]:
        options = {"ridge": ridge, "standardize": standardize, "random_state": 0}
        weighted = make((40, 40), **options).fit(X, y, sample_weight=w)
        repeated = make((40, 40), **options).fit(X.repeat(w, axis=0), y.repeat(w, axis=0))
        assert weighted.network_.readout.penalty == repeated.network_.readout.penalty
        # Held in float32.
        a, b = (one.network_.outputs(X) for one in (weighted, repeated))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_the_size_of_weights_below_one_does_not_matter():
    X, y = both_kinds()
    w = np.random.default_rng(1).uniform(0.1, 1, len(X))
    one, other = (
        nh.NTKLCRegressor(40, random_state=0).fit(X, y, sample_weight=c * w) for c in (1.0, 1e-5)
    )
    assert one.network_.readout.penalty == other.network_.readout.penalty
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-5)


def test_the_readout_is_scikit_learns_ridge():
    X, y = both_kinds()
    w = np.random.default_rng(1).uniform(0, 3, len(X))
    Y = np.stack([y, 1e3 * X[:, 2] + 1e6], axis=1)
    ours = nh.NTKLCRegressor(50, ridge=0.3, random_state=0).fit(X, Y, sample_weight=w)
    F = ours.network_.features(X).astype(float)
    centred = F - np.average(F, axis=0, weights=w)
    alpha = 0.3 * np.sum(w[:, None] * centred**2) / F.shape[1]
    peer = Ridge(alpha=alpha).fit(F, Y, sample_weight=w)
    np.testing.assert_allclose(ours.predict(X), peer.predict(F), rtol=1e-5, atol=1e-5)


def test_where_there_is_nothing_to_learn_the_mean_is_predicted():
    X, noise = np.random.default_rng(0).standard_normal((2, 200, 5))
    found = nh.NTKLCRegressor(100, random_state=0).fit(X, noise[:, 0])
    assert np.std(found.predict(X)) < 0.2 * np.std(noise[:, 0])
    constant = nh.NTKLCRegressor(100, random_state=0).fit(X, np.full(200, -3e7))
    assert (constant.predict(X + 1) == -3e7).all()


@pytest.mark.parametrize("size", [1e-250, 1e-40, 1.0, 1e40])
def test_values_may_have_any_size_and_any_mean(size):
    X, y = both_kinds()
    plain = nh.NTKLCRegressor(40, random_state=0).fit(X, y).predict(X)
    found = nh.NTKLCRegressor(40, random_state=0).fit(X, size * y)
    np.testing.assert_allclose(found.predict(X), size * plain, rtol=1e-5, atol=1e-6 * size)
    again = nh.CompressedNetwork.from_bytes(found.network_.to_bytes())
    assert np.array_equal(again.predict(X), found.predict(X))
    # A mean a million times the spread leaves the spread its digits.
    far = nh.NTKLCRegressor(40, random_state=0).fit(X, size * (y + 1e6)).predict(X)
    np.testing.assert_allclose(far / size - 1e6, plain, atol=1e-4)


LABELS = {
    "whole numbers": np.array([7, -2, 40]),
    "text": np.array(["dog", "cat", "crème"]),
    "objects": np.array(["dog", "cat", "owl"], object),
    "whole floats": np.array([1.0, 3.0, 0.0]),
    "truth values": np.array([True, False, True]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind(kind):
    X, values = both_kinds()
    y = LABELS[kind][np.digitize(values, [-1, 1])]
    clf = nh.NTKLCClassifier(300, random_state=0).fit(X, y)
    assert clf.classes_.tolist() == sorted(set(y.tolist()))
    found = clf.predict(X)
    assert found.dtype == y.dtype and set(found) <= set(y)
    assert clf.score(X, y) == np.mean(found == y) > 0.6
    loaded = nh.CompressedNetwork.from_bytes(clf.network_.to_bytes())
    assert (loaded.predict(X) == found).all()
    plain = nh.NTKLCClassifier(300, random_state=0).fit(X, np.unique(y, return_inverse=True)[1])
    assert np.array_equal(clf.decision_function(X), plain.decision_function(X))


def test_a_frame_of_named_columns_and_text_labels():
    frame = pd.DataFrame(both_kinds()[0], columns=list("abcde"))
    y = pd.Series(np.where(frame["a"] > 0, "plus", "minus"))
    clf = nh.NTKLCClassifier(60, random_state=0).fit(frame, y)
    assert clf.feature_names_in_.tolist() == list("abcde") and clf.n_features_in_ == 5
    assert clf.score(frame, y) > 0.9
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(frame[list("edcba")])
    again = nh.NTKLCClassifier(60, random_state=0).fit(frame, y.astype("category"))
    assert np.array_equal(again.predict(frame), clf.predict(frame))


def test_decisions_of_two_classes_are_one_score_each():
    X, values = both_kinds()
    clf = nh.NTKLCClassifier(60, random_state=0).fit(X, values > 0)
    scores = clf.decision_function(X)
    assert scores.shape == (60,)
    assert np.array_equal(clf.predict(X), scores > 0)
    assert not hasattr(clf, "predict_proba")
    several = nh.NTKLCClassifier(60, random_state=0).fit(X, np.digitize(values, [-1, 1]))
    scores = several.decision_function(X)
    assert scores.shape == (60, 3)
    assert np.array_equal(several.predict(X), scores.argmax(axis=1))
    # The target of two classes is ±1, as RidgeClassifier has it.
    F = clf.network_.features(X).astype(float)
    alpha = clf.network_.readout.penalty * np.sum((F - F.mean(axis=0)) ** 2) / F.shape[1]
    peer = RidgeClassifier(alpha=alpha).fit(F, values > 0)
    np.testing.assert_allclose(clf.decision_function(X), peer.decision_function(F), atol=1e-5)


def test_several_outputs_keep_their_shape():
    X, y = both_kinds()
    for Y in (y, y[:, None], np.stack([y, -y, X[:, 0]], axis=1)):
        found = nh.NTKLCRegressor(30, random_state=0).fit(X, Y)
        assert found.predict(X).shape == Y.shape and found.predict(X).dtype == np.float64
    np.testing.assert_allclose(found.predict(X)[:, 0], -found.predict(X)[:, 1], atol=1e-6)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_file_of_its_network_gives_the_same_to_the_last_bit(digits, tmp_path, standardize):
    X, Xt, y, _ = digits
    names = np.array([f"digit {k}" for k in range(10)])
    path = tmp_path / "net.safetensors"
    for labels in (y, names[y]):
        clf = nh.NTKLCClassifier((70, 50), standardize=standardize, random_state=3).fit(X, labels)
        for weights in ("packed", "seed"):
            size = clf.network_.save(path, weights)
            again = nh.load(path)
            assert size == path.stat().st_size
            assert np.array_equal(again.predict(Xt), clf.predict(Xt))
            assert np.array_equal(again.outputs(Xt), clf.decision_function(Xt))
            assert again.to_bytes(weights) == path.read_bytes()
    X, y = load_diabetes(return_X_y=True)
    values = nh.NTKLCRegressor(50, standardize=standardize, random_state=3).fit(X, y)
    values.network_.save(path)
    again = nh.load(path)
    assert np.array_equal(again.predict(X), values.predict(X))
    with pytest.raises(ValueError, match="values and no scores of classes"):
        again.score(X, y)


def test_a_network_by_torch_scales_its_inputs(wine):
    X, Xt, y, yt = wine
    net = nh.NTKLCClassifier(300, random_state=0).fit(X, y).network_
    by_torch, plain = net.features(Xt, device="cpu"), net.features(Xt)
    # A first-layer sum may be rounded across a threshold.
    assert np.mean(np.abs(by_torch - plain) > 1e-6) < 1e-3
    logits = net(torch.from_numpy(Xt)).numpy()
    np.testing.assert_allclose(logits, net.outputs(Xt), atol=0.02)
    memory, bare = net.memory(), nh.CompressedNetwork(net.layers, net.readout).memory()
    assert memory.resident == bare.resident + 2 * 8 * 13
    assert memory.packed_file == len(net.to_bytes("packed")) >= bare.packed_file + 2 * 8 * 13


def test_a_scaling_that_does_not_fit_is_refused(wine):
    net = nh.NTKLCClassifier(10).fit(wine[0], wine[2]).network_
    with pytest.raises(ValueError, match="scaling must be of 13 columns, got 2"):
        net.scaling = nh.compression.Scaling([0, 0], [1, 1])
    for centre, scale in [([0, 0], [1]), ([0], [0]), ([0], [-1])]:
        with pytest.raises(ValueError, match="scale must be positive, one a column"):
            nh.compression.Scaling(centre, scale)
    with pytest.raises(ValueError, match="centre must be finite"):
        nh.compression.Scaling([np.nan], [1])


def test_pickled_it_is_the_same(digits):
    X, Xt, y, _ = digits
    clf = nh.NTKLCClassifier(50, random_state=0).fit(X, y)
    before = pickle.dumps(clf)
    scores = clf.decision_function(Xt)
    for content in (before, pickle.dumps(clf)):
        again = pickle.loads(content)
        assert np.array_equal(again.decision_function(Xt), scores)
        assert again.get_params() == clf.get_params()


def test_clones_and_random_states():
    X, values = both_kinds()
    y = values > 0
    clf = nh.NTKLCClassifier((20, 10), levels=4, ridge=0.1, random_state=5)
    copy = clone(clf)
    assert copy.get_params() == clf.get_params() and not hasattr(copy, "network_")
    again = clone(copy.fit(X, y))
    assert np.array_equal(clf.fit(X, y).decision_function(X), again.fit(X, y).decision_function(X))
    other = clone(clf).set_params(random_state=6).fit(X, y)
    assert not np.array_equal(clf.decision_function(X), other.decision_function(X))
    # A RandomState goes on; the global one is that of None.
    state = np.random.RandomState(5)
    first, second = (clone(clf).set_params(random_state=state).fit(X, y) for _ in range(2))
    assert np.array_equal(first.decision_function(X), clf.decision_function(X))
    assert not np.array_equal(first.decision_function(X), second.decision_function(X))
    np.random.seed(5)  # noqa: NPY002  # what None is, for scikit-learn
    unset = clone(clf).set_params(random_state=None).fit(X, y)
    assert np.array_equal(unset.decision_function(X), clf.decision_function(X))


def test_pipelines_and_searches(wine):
    X, Xt, y, yt = wine
    steps = make_pipeline(StandardScaler(), nh.NTKLCClassifier(40, random_state=0))
    search = GridSearchCV(
        steps,
        {"ntklcclassifier__ridge": [None, 1e-2, 1e3], "ntklcclassifier__standardize": [True, False]},
        cv=3,
    ).fit(X, y)  # fmt: skip
    assert search.score(Xt, yt) > 0.9 and search.best_params_["ntklcclassifier__ridge"] != 1e3
    assert is_classifier(steps[-1]) and is_regressor(nh.NTKLCRegressor())
    scores = cross_val_score(nh.NTKLCClassifier(40, random_state=0), X, y, cv=3)
    assert scores.min() > 0.85
    sure = CalibratedClassifierCV(nh.NTKLCClassifier(40, random_state=0), cv=3).fit(X, y)
    np.testing.assert_allclose(sure.predict_proba(Xt).sum(axis=1), 1)
    # Bagging leaves samples out by weights of zero, and so whole classes at times.
    few = np.r_[np.flatnonzero(y == 0)[:2], np.flatnonzero(y != 0)]
    bag = BaggingClassifier(nh.NTKLCClassifier(40), n_estimators=8, random_state=0)
    assert bag.fit(X[few], y[few]).score(Xt, yt) > 0.6


def test_a_matching_gives_the_staircases(wine):
    X, Xt, y, yt = wine
    lloyd = nh.match(["tanh"], tau0=1.0, levels=4, objective="lloyd-max", grid="uniform")
    clf = nh.NTKLCClassifier(100, activation=nh.activation("tanh"), levels=lloyd, random_state=0)
    assert clone(clf).fit(X, y).score(Xt, yt) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": 0}, "widths must be a whole number"),
        ({"widths": []}, "widths must name at least one layer"),
        ({"widths": "many"}, "widths must be a whole number"),
        (
            {"widths": (5, 5), "activation": ["relu"]},
            "activation must have 2 entries, as many as widths",
        ),
        ({"activation": "unheard of"}, "unheard of"),
        ({"activation": None}, "activation must name at least one layer"),
        ({"levels": 1}, "levels must be a whole number from 2 to 256"),
        ({"levels": [4, 4]}, "levels must have 1 entries"),
        ({"levels": nh.match(["relu"] * 2, 1.0, 4)}, "levels is a matching of 2 layers"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"ridge": 0}, "ridge must be a positive finite number"),
        ({"ridge": "gcv"}, "ridge must be a positive finite number"),
        ({"standardize": "yes"}, "standardize must be True or False"),
        ({"random_state": -1}, "random_state must be as scikit-learn has it"),
        ({"random_state": "x"}, "random_state must be as scikit-learn has it"),
    ],
)
def test_parameters_are_checked_when_it_is_fitted(options, message):
    X, values = both_kinds()
    for make, y in ((nh.NTKLCClassifier, values > 0), (nh.NTKLCRegressor, values)):
        found = make(**{"widths": 5} | options)
        with pytest.raises(ValueError, match=message):
            found.fit(X, y)
        assert not hasattr(found, "network_")


@pytest.mark.parametrize(
    ("X", "y", "weight", "message"),
    [
        (np.ones((4, 2)), [0, 1, 0, 1], None, "X must hold rows that differ"),
        (np.full((4, 2), 0.1), [0, 1, 0, 1], [1, 1, 1, 2], "X must hold rows that differ"),
        (np.eye(4), [0, 1, 0, 1], [1, 0, 0, 0], "X must hold rows that differ"),
        (1e70 * np.eye(4), [0, 1, 0, 1], None, "X must have entries of size below 1e"),
        (np.eye(4), [0, 0, 0, 0], None, "y must hold at least two classes"),
        (np.eye(4), [0.5, 1.5, 0.1, 1], None, "Unknown label type"),
        (np.eye(4), np.array([0, 1, 2, 2**64 - 1], np.uint64), None, "y must be labels that int64 holds"),
        (np.eye(4), [0, 1, 0, 1], [1, 1, 1], "sample_weight must be 4 numbers"),
        (np.eye(4), [0, 1, 0, 1], [1, 1, 1, -1], "of at least 0 and not all zero; got 4 from -1 to 1"),
        (np.eye(4), [0, 1, 0, 1], [0, 0, 0, 0], "sample_weight must be 4 numbers"),
        (np.eye(4), [0, 1, 0, 1], np.eye(4), "sample_weight must have 1 dimension"),
        (np.eye(4), [0, 1, 0, 1], [1, 1, 1, np.nan], "sample_weight must be finite"),
    ],
)  # fmt: skip
def test_data_that_nothing_can_be_made_of_are_refused(X, y, weight, message):
    with pytest.raises(ValueError, match=message):
        nh.NTKLCClassifier(5).fit(X, y, sample_weight=weight)
