"""Trained networks compressed as they are: every row is that network, stopped and gone on with."""

import attrs
import numpy as np
import pytest
import torch

import ntklc_helpers as nh
from ntklc_helpers.experiments import conversions
from ntklc_helpers.experiments.conversions import AS_TRAINED, PRESETS, SCHEMES, Conversions
from ntklc_helpers.experiments.image_nets import train
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMALL = attrs.evolve(PRESETS["smoke"], network="vgg_tiny", n_train=200, n_samples=100)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return SMALL.run(tmp_path_factory.mktemp("whole") / "run", device="cpu")


def test_every_scheme_has_a_row_a_seed(whole):
    cells = [(scheme, seed) for seed in (0, 1) for scheme in [AS_TRAINED, *SCHEMES]]
    assert list(zip(whole.table.scheme, whole.table.seed, strict=True)) == cells
    mean = whole.table.groupby("scheme").mean()
    assert mean.agreement[AS_TRAINED] == 100
    assert mean.agreement["8 bits, 16 levels"] > mean.agreement["ternary, 4 levels"]
    sizes = mean.bytes[[f"{b}, 16 levels" for b in ("ternary", "2 bits", "4 bits", "8 bits")]]
    assert list(sizes) == sorted(sizes) and sizes.iloc[-1] < mean.bytes[AS_TRAINED]


def test_a_row_is_that_network(whole):
    images = load_pair("digits", 200, 0)
    net = SMALL.build(images, 1)
    train(net, torch.from_numpy(images.X), images.y, SMALL.training, 1)
    X = images.X[nh.data.balanced_rows(images.y, 100, 1)]
    small = nh.compress(net, X, levels=4, bits=3, seed=1)
    row = whole.table.query("scheme == '3 bits, 4 levels' and seed == 1").iloc[0]
    assert row.bytes == len(small.to_bytes())
    assert row.accuracy == pytest.approx(100 * small.score(images.X_test, images.y_test))
    same = nh.compression.agreement(small, net, images.X_test).classes
    assert row.agreement == pytest.approx(100 * same, abs=0.2)


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(conversions, "compress", 13)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    assert len(calls) == 13 + 8 and again.table.equals(whole.table)
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 0}, "n_samples must be a whole number of at least 1, got 0"),
        ({"n_draws": 1.5}, "n_draws must be a whole number"),
        ({"network": "none"}, "network must be"),
    ],
)
def test_settings_that_are_none(change, message):
    with pytest.raises(ValueError, match=message):
        Conversions(**{"data": "digits"} | change)


def test_the_record_is_of_the_first_preset():
    record = find_record("conversions")
    assert preset_of(record.settings, PRESETS) == "paper"
    rows = record.table.pivot(index="seed", columns="scheme", values="accuracy")
    lost = (rows[AS_TRAINED].to_numpy()[:, None] - rows).mean()
    assert len(rows) == 5 and rows[AS_TRAINED].mean() > 97.9
    # What is promised: ternary weights, sixteen levels, and four.
    assert lost["ternary, 16 levels"] < 0.5 and lost["8 bits, 16 levels"] < 0.5
    assert lost["ternary, 4 levels"] < 1.0 and lost["8 bits, 4 levels"] < 1.0
    assert np.all(lost.filter(like="16 levels").to_numpy() < lost["ternary, 4 levels"])
