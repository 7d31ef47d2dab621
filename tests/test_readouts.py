"""Readouts compared on a trained network's features: made in stages, stopped and gone on with."""

import json
from itertools import product
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from ntklc_helpers.compression.train import evaluate, load_state
from ntklc_helpers.data import balanced_rows
from ntklc_helpers.experiments import image_nets, methods, readouts
from ntklc_helpers.experiments.image_nets import TrainingSettings, build
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.readouts import PRESETS, ReadoutComparison, kernels_of
from ntklc_helpers.experiments.records import RunError, read_record
from ntklc_helpers.experiments.runs import preset_of
from ntklc_helpers.theory.feature_kernels import CLASSES, ONE_CLASS

SMALL = ReadoutComparison(
    network="vgg_tiny", data="digits", n_train=300, widths=(20, 30), levels=(16,), n_seeds=1,
    training=TrainingSettings(steps=18, batch_size=50, augment=True, schedule="one_cycle"),
    sparsities=(0.5,), sparsity_width=30, n_kernel=60, seed=3, head_widths=(30, 30, 15),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, SMALL.run(folder, device="cpu")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(kernels, others):
    assert list(kernels) == list(others) == [CLASSES, ONE_CLASS]
    for reading, name in product(kernels, type(kernels[CLASSES]).__annotations__):
        a, b = getattr(kernels[reading], name), getattr(others[reading], name)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


# --- what a run does


def test_a_run_measures_every_case_on_the_network_s_features(whole):
    folder, record = whole
    names = ["method", "width", "sparsity", "seed"]
    assert record.table[names].to_dict("records") == [case.key for case in SMALL.cases()]
    assert set(record.table.seed) == {3} and "seconds" not in record.table
    features = {
        k: v.numpy()
        for k, v in load_state(folder / "features.pt").items()
        if k[0] == "t" and k != "training"
    }
    images = load_pair("digits", 300, 3)
    net = build("vgg_tiny", (1, 8, 8), 10, 16, seed=3)
    X, y, X_test, y_test = map(torch.from_numpy, images.arrays)
    readouts.train(net, X, y, SMALL.training, seed=3)
    accuracy, loss = evaluate(net, X_test, y_test)
    # The mean loss is a sum in float32, whose order is not fixed.
    expected = {"accuracy": 100 * accuracy, "loss": loss, "features": 32}
    assert record.findings["extractor"] == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        expected = net.eval()[:-1](X).numpy()
    np.testing.assert_allclose(features["train"], expected, rtol=1e-4, atol=1e-5)
    rows = features["train"].astype(np.float64)
    centre, scale = rows.mean(0), np.sqrt(((rows - rows.mean(0)) ** 2).sum(1).mean())
    X, X_test = ((features[k] - centre) / scale for k in ("train", "test"))
    task = methods.Task(X, images.y, X_test, images.y_test)
    case, row = SMALL.cases()[5], record.table.to_dict("records")[5]
    again = methods.measure(task, case, device="cpu")
    assert again["bytes"] == row["bytes"]
    assert again["accuracy"] == pytest.approx(row["accuracy"], abs=200 / len(images.y_test))
    sized = [case.key | {"width": [30, 30, 15]} for case in SMALL.heads()]
    assert [{k: row[k] for k in names} for row in record.findings["heads"]] == sized
    again, row = methods.measure(task, SMALL.heads()[-1], "cpu"), record.findings["heads"][-1]
    assert (again["bytes"], len(sized)) == (row["bytes"], 7 * SMALL.n_seeds)
    assert again["accuracy"] == pytest.approx(row["accuracy"], abs=200 / len(images.y_test))
    kernels, chosen = kernels_of(record), balanced_rows(images.y, 60, 3)
    assert len(kernels[CLASSES].exact) == 60 and len(kernels[CLASSES].t) == 10
    assert np.bincount(images.y[chosen]).tolist() == [6] * 10
    assert set(record.provenance["stages"]) == {"training", "extraction", "methods", "kernels"}
    assert record.provenance["device"] == "cpu" and record.settings["seed"] == 3
    assert record.settings["source"] == "scikit-learn digits, train part"


def test_a_record_comes_back(whole, tmp_path):
    record = whole[1]
    record.write(tmp_path / "record")
    back = read_record(tmp_path / "record")
    assert back == record
    same(kernels_of(back), kernels_of(record))
    assert TrainingSettings(**back.settings["training"]) == SMALL.training


# --- stopped and called again


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    folder, record = whole
    epochs = stop_at(image_nets, "augmented", 9)
    measured = stop_at(methods, "measure", 3, 5)
    kernels = stop_at(readouts, "feature_kernels", 1)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    # 18 steps in epochs of 6: stopped in the ninth, the seventh and eighth are done once more.
    n = len([*SMALL.cases(), *SMALL.heads()])
    assert (len(epochs), len(measured), len(kernels)) == (9 + 12, n + 2, 2)
    again.write(tmp_path / "again")
    record.write(tmp_path / "whole")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    expected = pytest.approx(record.findings["extractor"], rel=1e-5)
    assert again.findings["extractor"] == expected
    same(kernels_of(again), kernels_of(record))
    before, after = contents(folder), contents(tmp_path / "run")
    assert before.keys() == after.keys()
    features = [load_state(path / "features.pt")["train"] for path in (folder, tmp_path / "run")]
    assert torch.equal(*features)
    SMALL.run(tmp_path / "run", device="cpu")
    assert len(measured) == n + 2 and contents(tmp_path / "run") == after


def test_other_settings_and_damaged_files_are_refused(whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in contents(whole[0]).items():
        (folder / name).write_bytes(content)
    for change, message in (
        ({"levels": (8,)}, r"levels is \[16\] there and \[8\] here"),
        ({"training": attrs.evolve(SMALL.training, steps=6)}, "training.steps is 18 there and 6"),
    ):
        before = contents(folder)
        with pytest.raises(RunError, match=f"holds a run with other settings: {message}"):
            attrs.evolve(SMALL, **change).run(folder, device="cpu")
        assert contents(folder) == before
    for name in ("kernels.pt", "methods.pt", "features.pt", "network.pt"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(RunError, match=f"{name} is damaged; delete it"):
            SMALL.run(folder, device="cpu")
        (folder / name).unlink()


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path):
    for change, message in (
        ({"n_kernel": 5}, "n must be from 10"),
        ({"training": TrainingSettings(batch_size=301)}, "batch_size must be at most 300"),
        ({"n_train": 5}, "n must be from 10"),
    ):
        with pytest.raises(RunError, match=message):
            attrs.evolve(SMALL, **change).run(tmp_path / "run", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(RunError, match="device must be one that torch can use"):
            SMALL.run(tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "svhn"}, "data must be one of mnist, digits, cifar10, got 'svhn'"),
        ({"network": "vgg19", "data": "digits"}, r"shape \(1, 8, 8\) is too small"),
        ({"widths": (0,)}, "widths must be a whole number"),
        ({"levels": (1,)}, "levels must be a whole number of at least 2, got 1"),
        ({"sparsities": (1.0,)}, r"sparsities must be in \[0, 1\)"),
        ({"n_seeds": 0}, "n_seeds must be a whole number"),
        ({"n_kernel": 0}, "n_kernel must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_comparisons_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        ReadoutComparison(**options)


# --- the published sizes


@pytest.mark.parametrize(("preset", "epochs"), [("paper", 60), ("two-cores", 16)])
def test_runs_of_vgg19_take_as_many_epochs_as_is_said(preset, epochs):
    presets = PRESETS["cifar10_vgg19"]
    run = presets[preset]
    assert (run.network, run.data) == ("vgg19", "cifar10")
    assert run.training.steps == epochs * (50_000 // run.training.batch_size)
    assert run.sparsity == 0.9 and 16 in run.levels
    settings = json.loads(json.dumps(run.plain())) | {"source": "CIFAR-10"}
    assert preset_of(settings, presets) == preset


def test_the_residual_extractor_takes_as_many_epochs_as_is_said():
    run = PRESETS["cifar10_residual"]["paper"]
    assert run.training.steps == 24 * (50_000 // run.training.batch_size)
    heads = PRESETS["cifar10_vgg19"]["two-cores"]
    assert [case.key for case in run.cases()] == [case.key for case in heads.cases()]


def test_the_record_of_the_book_is_read():
    record = read_record(Path(__file__).parents[1] / "book/results/cifar10_vgg19")
    presets = PRESETS["cifar10_vgg19"]
    assert preset_of(record.settings, presets) == "two-cores"
    run = presets["two-cores"]
    names = ["method", "width", "sparsity", "seed"]
    # It was made before the published script was a method.
    planned = [case.key for case in run.cases() if case.method.name != "script"]
    assert record.table[names].to_dict("records") == planned
    assert kernels_of(record)[CLASSES].exact.shape == (2000,)
