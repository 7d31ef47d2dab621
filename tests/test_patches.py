"""Whitened patches against sums by hand; filters on them, their peers, stopped and gone on with."""

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.experiments import patches
from ntklc_helpers.experiments.convolutions import standardised
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.patches import KMEANS, PRESETS, SCHEMES, TRAINED, Patches
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMALL = attrs.evolve(
    PRESETS["patches"]["smoke"], n_train=150, n_test=120, channels=6, levels=8,
    training=attrs.evolve(PRESETS["patches"]["smoke"].training, steps=20, batch_size=50),
)  # fmt: skip


def some_images(n=20, h=7, w=6, c=2, seed=0):
    return np.random.default_rng(seed).normal(2, 3, (n, h, w, c))


# --- patches


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 9))
def test_each_patch_by_hand(size, stride, seed):
    images = some_images(6, c=3, seed=seed)
    made = nh.data.WhitenedPatches.fit(images, size, stride, ridge=0.2, floor=0.05)
    found = made(images)
    rows = range(0, 7 - size + 1, stride), range(0, 6 - size + 1, stride)
    assert found.shape == (6, len(rows[0]), len(rows[1]), 3 * size**2)
    for i, y in enumerate(rows[0]):
        for j, x in enumerate(rows[1]):
            patch = images[4, y : y + size, x : x + size].transpose(2, 0, 1).ravel()
            patch = patch - patch.mean()
            patch = patch / np.sqrt(patch.var() + 0.05)
            np.testing.assert_allclose(found[4, i, j], made.matrix @ (patch - made.mean), atol=1e-9)


def test_white_they_are_as_far_as_the_ridge_lets_them():
    images = standardised(some_images(200, 8, 8, 1).cumsum(axis=1).cumsum(axis=2))
    for ridge in (1e-6, 0.1):
        made = nh.data.WhitenedPatches.fit(images, 3, ridge=ridge)
        rows = made(images).reshape(-1, 9)
        before = rows @ np.linalg.inv(made.matrix)
        lengths, axes = np.linalg.eigh(before.T @ before / len(rows))
        variances = np.diag(axes.T @ (rows.T @ rows / len(rows)) @ axes)
        # One direction, that of the mean of a patch, was taken off.
        expected = lengths[1:] / (lengths[1:] + ridge * lengths.mean())
        np.testing.assert_allclose(variances[1:], expected, rtol=1e-3)
        assert np.allclose(rows.mean(axis=0), 0, atol=1e-9)


def test_a_filter_on_a_patch_is_a_filter_on_the_image():
    """Without contrast and whitening, a convolution of 1 × 1 on patches is one of the image."""
    images = some_images(4, 6, 6, 3)
    plain = nh.data.WhitenedPatches(np.zeros(27), np.eye(27), 3, 1, 1e-9)
    means = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    found = plain(images) * np.sqrt(means.var(axis=(3, 4, 5)))[..., None]
    found += means.mean(axis=(3, 4, 5))[..., None]
    for last in (nh.Flatten(), nh.GlobalAveragePool()):
        K, N = nh.conv_limit_kernels(found, [nh.Conv(1), "relu", last])
        expected = nh.conv_limit_kernels(images, [nh.Conv(3, padding="valid"), "relu", last])
        np.testing.assert_allclose(K, expected[0], rtol=1e-6)
        np.testing.assert_allclose(N, expected[1], rtol=1e-6)


def test_patches_that_cannot_be():
    fit, images = nh.data.WhitenedPatches.fit, some_images()
    for call, message in [
        (lambda: fit(images, 7), r"images must be at least 7 × 7, got \(7, 6\)"),
        (lambda: fit(images[0]), "images must have 4 dimension"),
        (lambda: fit(np.ones((3, 5, 5, 1)), 2), "images must have patches that differ"),
        (lambda: fit(images, 2, ridge=0), "ridge must be a positive"),
        (lambda: fit(images, 2)(images[..., :1]), "images must have 2 channels, got 1"),
        (
            lambda: nh.data.WhitenedPatches(np.zeros(9), np.eye(8), 3, 1, 0.1),
            r"matrix must be \(d, d\) and mean \(d,\), d channels of 3 × 3, got \(8, 8\) and \(9,\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


# --- the study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return SMALL.run(folder, device="cpu")


def test_every_fit_has_a_row(whole):
    cells = [(scheme, seed) for scheme in [*SCHEMES, KMEANS, TRAINED] for seed in (0, 1)]
    assert list(zip(whole.table.scheme, whole.table.seed, strict=True)) == cells
    assert (whole.table.features[:10] == 54).all()
    assert whole.table.accuracy[:10].between(60, 100).all()


def test_a_row_is_that_network_with_a_readout(whole):
    images = load_pair("digits", SMALL.n_train, SMALL.seed)
    some = nh.data.balanced_rows(images.y_test, SMALL.n_test, SMALL.seed)
    X, X_test = (standardised(p.transpose(0, 2, 3, 1)) for p in (images.X, images.X_test[some]))
    of = nh.data.WhitenedPatches.fit(X, 3)
    steps = nh.match(["relu"], 1.0, 8).activations[0]
    layers = [nh.Conv(1), nh.theory.Normalize(), steps, nh.AveragePool(2), nh.Flatten()]
    assert nh.theory.conv_scales(of(X[:5]), layers) == pytest.approx((1,), abs=1e-12)
    net = nh.theory.RandomCNN(
        (6, 6, 9), layers, [6], nh.theory.Ternary(0.9), seed=1, scales=[1.0], device="cpu"
    )
    readout = nh.fit_readout(net.features(of(X)), images.y, seed=0)
    said = readout.predict(net.features(of(X_test)))
    row = whole.table.query("scheme == 'ternary, matched' and seed == 1")
    assert row.accuracy.item() == pytest.approx(100 * np.mean(said == images.y_test[some]), abs=0.9)


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(patches, "fit_readout", 9)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    assert len(calls) == 9 + 2 and again.table.equals(whole.table)
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


def test_the_triangle_by_hand(monkeypatch):
    """Of each patch: how much nearer than the mean distance a centre is; means over regions."""
    images = load_pair("digits", 40, 0)
    task = patches._Task.of(attrs.evolve(SMALL, n_test=30), images, torch.device("cpu"))
    seen = {}

    def keep(F, y, seed):
        seen["F"] = F
        return nh.fit_readout(F, y, seed=seed)

    monkeypatch.setattr(patches, "fit_readout", keep)
    assert task.clustered(0)["features"] == 54
    F = seen["F"].reshape(40, 6, 3, 3)
    # Of every patch some centre is nearer than the mean, and some is not.
    assert (F >= 0).all() and (F.sum(axis=1) > 0).all()
    assert np.linalg.matrix_rank(seen["F"]) > 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 4}, "size must leave a multiple of 3 patches on a side of 8, got 4"),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"sparsity": 1.0}, r"sparsity must be a number in \(0, 1\), got 1.0"),
        ({"network": "none"}, "network must be"),
    ],
)
def test_settings_that_are_none(change, message):
    with pytest.raises(ValueError, match=message):
        Patches(**{"data": "digits", "size": 3, "network": "vgg_tiny"} | change)


@pytest.mark.parametrize("name", PRESETS)
def test_the_record_is_of_the_first_preset(name):
    record = find_record(name)
    assert preset_of(record.settings, PRESETS[name]) == "paper"
    mean = record.table.groupby("scheme")["accuracy"].mean()
    # What is promised of random filters, ternary and matched.
    assert mean["ternary, matched"] > mean["dense, ReLU"] - 0.5
    assert mean["dense, ReLU"] > {"patches": 60, "patches_mnist": 97}[name]
