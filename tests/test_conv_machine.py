"""Exact convolutional kernels that classify: rows against solving by hand, stopped and gone on."""

import attrs
import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.experiments import conv_machine
from ntklc_helpers.experiments.conv_machine import NETWORKS, PRESETS, ConvMachine
from ntklc_helpers.experiments.convolutions import standardised
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMALL = attrs.evolve(PRESETS["conv_machine"]["smoke"], n_train=120, n_test=150)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return SMALL.run(tmp_path_factory.mktemp("whole") / "run")


def test_every_kernel_has_a_row_that_solving_gives_too(whole):
    table = whole.table
    assert list(zip(table.network, table.kernel, strict=True)) == [
        (name, kernel) for name in NETWORKS for kernel in ("CK", "NTK")
    ]
    images = load_pair("digits", 120, 0)
    some = nh.data.balanced_rows(images.y_test, 150, 0)
    X, X_test = (standardised(p.transpose(0, 2, 3, 1)) for p in (images.X, images.X_test[some]))
    layers = [nh.Conv(3), "relu"] * 2 + [nh.Flatten()]
    kernels = nh.conv_limit_kernels(X, layers, center=True)
    across = nh.conv_limit_kernels(X, layers, Z=X_test, center=True)
    for name, K, K_test in zip(("CK", "NTK"), kernels, across, strict=True):
        rows = table[(table.network == "two convolutions") & (table.kernel == name)]
        row = rows.iloc[0]
        A = np.linalg.solve(K + row.ridge * K.trace() * np.eye(120), np.eye(10)[images.y] - 0.1)
        said = (K_test.T @ A).argmax(axis=1)
        assert row.accuracy == pytest.approx(100 * np.mean(said == images.y_test[some]), abs=0.7)
    assert table.accuracy.between(70, 100).all()
    about = whole.findings["networks"]["two convolutions"]
    assert about["seconds"] > 0 and 0.05 < about["peak_gigabytes"] < 24


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(conv_machine, "limit_kernels", 1)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run")
    again = SMALL.run(tmp_path / "run")
    # Two calls for a network.
    assert len(calls) == 1 + 2 and again.table.equals(whole.table)
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


def test_settings_that_are_none():
    for change, message in [
        ({"ridges": [0.0]}, "ridges must be a positive"),
        ({"n_test": 0}, "n_test must be a whole number of at least 1"),
        ({"memory": -1}, "memory must be a positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            ConvMachine(data="digits", **change)


@pytest.mark.parametrize("name", PRESETS)
def test_the_record_is_of_the_first_preset(name):
    record = find_record(name)
    assert preset_of(record.settings, PRESETS[name]) == "paper"
    # What is promised of 5,000 images of 32 × 32 × 3.
    took = record.findings["networks"][NETWORKS[0]]
    assert took["peak_gigabytes"] < 4 and took["seconds"] < 3600
