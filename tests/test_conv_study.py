"""Random convolutions that classify: rows are those networks, stopped and gone on with, refused."""

import attrs
import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.experiments import convolutions
from ntklc_helpers.experiments.convolutions import PRESETS, SCHEMES, Convolutions, standardised
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMALL = attrs.evolve(PRESETS["smoke"], n_train=200, n_test=150, channels=(4, 6), levels=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, SMALL.run(folder, device="cpu")


def test_images_of_one_contrast():
    images = np.random.default_rng(0).normal(3, 5, (6, 2, 4, 4))
    found = standardised(np.concatenate([images, images[:1] * 7 + 2, np.ones((1, 2, 4, 4))]))
    assert np.allclose(found[:7].mean(axis=(1, 2, 3)), 0)
    assert np.allclose((found[:7] ** 2).mean(axis=(1, 2, 3)), 1)
    assert np.allclose(found[6], found[0]) and not found[7].any()


def test_every_network_has_a_row(whole):
    table = whole[1].table
    cells = [(scheme, seed) for scheme in [*SCHEMES, "fully connected, ReLU"] for seed in (0, 1)]
    cells.append(("pixels alone", 0))
    assert list(zip(table.scheme, table.seed, strict=True)) == cells
    assert table.features.tolist() == [96] * 14 + [64]
    assert table.accuracy.between(50, 100).all()


def test_a_row_is_that_network_with_a_readout(whole):
    images = load_pair("digits", SMALL.n_train, SMALL.seed)
    some = nh.data.balanced_rows(images.y_test, SMALL.n_test, SMALL.seed)
    X, X_test = (standardised(p.transpose(0, 2, 3, 1)) for p in (images.X, images.X_test[some]))
    relu = SMALL.layers(8, ["relu"] * 2)
    scales = nh.theory.conv_scales(X, relu, center=True)
    assert whole[1].findings["scales"] == pytest.approx(scales)
    steps = [nh.match(["relu"], scale, 8).activations[0] for scale in scales]
    laws = nh.theory.Layered([nh.theory.Gaussian(), nh.theory.Ternary(0.9)])
    net = nh.theory.RandomCNN(
        (8, 8, 1), SMALL.layers(8, steps), (4, 6), laws, seed=1, scales=scales, device="cpu"
    )
    readout = nh.fit_readout(net.features(X).numpy(), images.y, seed=0)
    said = readout.predict(net.features(X_test).numpy())
    rows = whole[1].table.query(
        "scheme == 'ternary but for the first layer, matched' and seed == 1"
    )
    assert rows.accuracy.item() == pytest.approx(
        100 * np.mean(said == images.y_test[some]), abs=0.7
    )


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(convolutions, "fit_readout", 5)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    assert len(calls) == 5 + 11 and again.table.equals(whole[1].table)
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": (3,)}, r"channels must be two numbers, got \(3,\)"),
        ({"channels": (3, 0)}, "channels must be a whole number of at least 1, got 0"),
        ({"levels": 1}, "levels must be a whole number from 2 to 256, got 1"),
        ({"sparsity": 1.0}, r"sparsity must be a number in \(0, 1\), got 1.0"),
    ],
)
def test_settings_that_are_none(change, message):
    with pytest.raises(ValueError, match=message):
        Convolutions(data="digits", **change)


def test_the_record_is_of_the_first_preset():
    assert preset_of(find_record("convolutions").settings, PRESETS) == "paper"
