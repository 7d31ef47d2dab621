"""Records of a chapter: made in stages, stopped and gone on with, refused where settings differ."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from ntklc_helpers import classifiers, gpu_record, heads, methods
from ntklc_helpers.classifiers import Training
from ntklc_helpers.feature_kernels import CLASSES, ONE_CLASS, balanced_rows
from ntklc_helpers.head_records import read_heads
from ntklc_helpers.heads import Heads, run_heads
from ntklc_helpers.lottery import one_thread
from ntklc_helpers.records import read_record
from ntklc_helpers.storage import from_bytes

SMALL = Heads(
    network="vgg_tiny", data="digits", n_train=300, widths=(20, 30), levels=(16,), n_seeds=1,
    training=Training(steps=18, batch_size=50, augment=True, schedule="one_cycle"),
    sparsities=(0.5,), sparsity_width=30, n_kernel=60, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def trained_on_one_thread():
    """What runs on integers may leave torch with another number of threads, which shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "train", one_thread()(classifiers.train))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run_heads(SMALL, folder, device="cpu", progress=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(kernels, others):
    assert list(kernels) == list(others) == [CLASSES, ONE_CLASS]
    for reading, name in product(kernels, vars(kernels[CLASSES])):
        a, b = getattr(kernels[reading], name), getattr(others[reading], name)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


# --- what a run does


def test_a_run_measures_every_case_on_the_network_s_features(whole):
    folder, record = whole
    assert tuple(outcome.case for outcome in record.outcomes) == SMALL.cases()
    assert {outcome.seed for outcome in record.outcomes} == {3}
    features, _ = from_bytes((folder / "features.safetensors").read_bytes())
    images = heads.load_pair("digits", 300, 3)
    net = classifiers.build("vgg_tiny", (1, 8, 8), 10, 16, seed=3)
    X, y = torch.from_numpy(images.X), torch.from_numpy(images.y)
    heads.train(net, X, y, SMALL.training, seed=3)
    accuracy, loss = classifiers.evaluate(
        net, torch.from_numpy(images.X_test), torch.from_numpy(images.y_test)
    )
    # The mean loss is a sum in float32, whose order is not fixed.
    expected = {"accuracy": 100 * accuracy, "loss": loss, "features": 32}
    assert record.extractor == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        expected = net[:-1](X).numpy()
    np.testing.assert_allclose(features["train"], expected, rtol=1e-4, atol=1e-5)
    rows = features["train"].astype(np.float64)
    centre, scale = rows.mean(0), np.sqrt(((rows - rows.mean(0)) ** 2).sum(1).mean())
    X, X_test = ((features[k] - centre) / scale for k in ("train", "test"))
    task = methods.Task(X, images.y, X_test, images.y_test)
    outcome = record.outcomes[5]
    again = methods.measure(task, outcome.case, device="cpu")
    assert again.bytes == outcome.bytes
    assert again.accuracy == pytest.approx(outcome.accuracy, abs=200 / len(images.y_test))
    chosen = balanced_rows(images.y, 60, 3)
    assert len(record.kernels[CLASSES].exact) == 60 and len(record.kernels[CLASSES].t) == 10
    assert np.bincount(images.y[chosen]).tolist() == [6] * 10
    assert set(record.provenance["stages"]) == {"training", "extraction", "methods", "kernels"}
    assert record.provenance["device"] == "cpu" and record.settings["seed"] == 3
    assert record.settings["source"] == "scikit-learn digits, train part"


def test_a_record_comes_back(whole, tmp_path):
    record = whole[1]
    record.write(tmp_path / "record")
    back = read_heads(tmp_path / "record")
    assert back.outcomes == record.outcomes and back.extractor == record.extractor
    assert back.settings == record.settings and back.provenance == record.provenance
    same(back.kernels, record.kernels)
    assert {path.name for path in tmp_path.iterdir()} == {"record.csv", "record.json"}
    assert Training(**back.settings["training"]) == SMALL.training
    with pytest.raises(FileNotFoundError):
        read_heads(tmp_path / "none")
    (tmp_path / "record.csv").write_text("method,width\ndense,one\n")
    with pytest.raises(ValueError, match="record.csv and record.json are not the record of a run"):
        read_heads(tmp_path / "record")


# --- stopped and called again


def test_an_interrupted_run_goes_on(whole, tmp_path, monkeypatch):
    folder, record = whole
    calls = {"augmented": 0, "measure": 0, "feature_kernels": 0}

    def stopping(module, name, at):
        plain = getattr(module, name)

        def counted(*arguments):
            calls[name] += 1
            if calls[name] in at:
                raise KeyboardInterrupt
            return plain(*arguments)

        monkeypatch.setattr(module, name, counted)

    stopping(classifiers, "augmented", (9,))
    stopping(methods, "measure", (3, 5))
    stopping(heads, "feature_kernels", (1,))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run_heads(SMALL, tmp_path / "run", device="cpu", progress=False)
    again = run_heads(SMALL, tmp_path / "run", device="cpu", progress=False)
    # 18 steps in epochs of 6: stopped in the ninth, the seventh and eighth are done once more.
    n = len(SMALL.cases())
    assert calls == {"augmented": 9 + 12, "measure": n + 2, "feature_kernels": 2}
    assert again.outcomes == record.outcomes
    assert again.extractor == pytest.approx(record.extractor, rel=1e-5)
    same(again.kernels, record.kernels)
    before, after = contents(folder), contents(tmp_path / "run")
    assert before.keys() == after.keys()
    weights = [from_bytes(c["network.safetensors"])[0] for c in (before, after)]
    assert all(np.array_equal(weights[0][k], weights[1][k]) for k in weights[0])
    run_heads(SMALL, tmp_path / "run", device="cpu", progress=False)
    assert calls["measure"] == n + 2 and contents(tmp_path / "run") == after


def test_other_settings_and_damaged_files_are_refused(whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in contents(whole[0]).items():
        (folder / name).write_bytes(content)
    for change, message in (
        ({"levels": (8,)}, r"levels is \[16\] there and \[8\] here"),
        ({"training": replace(SMALL.training, steps=6)}, "training.steps is 18 there and 6 here"),
    ):
        before = contents(folder)
        with pytest.raises(ValueError, match=f"holds a run with other settings: {message}"):
            run_heads(replace(SMALL, **change), folder, device="cpu")
        assert contents(folder) == before
    for name in ("kernels.json", "outcomes.csv", "features.safetensors", "network.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{name} is damaged.*delete it"):
            run_heads(SMALL, folder, device="cpu", progress=False)
        (folder / name).unlink()


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path):
    for change, message in (
        ({"network": "vgg19"}, r"shape \(1, 8, 8\) is too small"),
        ({"n_kernel": 5}, "n must be from 10 to"),
    ):
        with pytest.raises(ValueError, match=message):
            run_heads(replace(SMALL, **change), tmp_path / "run", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' was asked for, and there is no CUDA"):
            run_heads(SMALL, tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "svhn"}, "data must be one of mnist, digits, cifar10, got 'svhn'"),
        ({"widths": (0,)}, "widths must be a positive whole number"),
        ({"levels": (1,)}, "levels must be at least 2, got 1"),
        ({"sparsities": (1.0,)}, r"sparsity must be in \[0, 1\)"),
        ({"n_seeds": 0}, "n_seeds must be a positive whole number"),
        ({"n_kernel": 0}, "n_kernel must be a positive whole number"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_runs_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        Heads(**options)


# --- the command


def test_the_command_makes_the_record_of_chapter_12(whole, tmp_path, capsys):
    arguments = [
        "12_cifar10",
        "--output",
        str(tmp_path / "run"),
        "--results",
        str(tmp_path / "res"),
    ]
    arguments += ["--preset", "smoke", "--n-train", "300", "--steps", "6", "--widths", "20"]
    arguments += ["--levels", "16", "--sparsity-width", "20", "--n-seeds", "1", "--device", "cpu"]
    assert gpu_record.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "vgg_tiny itself" in shown and "  16 levels: " in shown
    record = read_heads(tmp_path / "res/cifar10_vgg19")
    assert record.settings["widths"] == [20] and record.settings["training"]["steps"] == 6
    assert len(record.outcomes) == 6 + 4 + 0
    assert gpu_record.preset_of(record.settings) is None
    assert gpu_record.main([*arguments, "--seed", "1"]) == 1
    assert "seed is 0 there and 1 here" in capsys.readouterr().err


def test_the_command_can_be_stopped(tmp_path, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(heads, "train", stop)
    arguments = ["12_cifar10", "--output", str(tmp_path / "run"), "--results", str(tmp_path)]
    assert gpu_record.main([*arguments, "--preset", "smoke", "--device", "cpu"]) == 130
    assert "Stopped. The same command goes on" in capsys.readouterr().err


def test_the_command_makes_the_records_of_chapter_14(tmp_path, capsys):
    arguments = ["14_random_pruning", "--output", str(tmp_path / "run")]
    arguments += ["--results", str(tmp_path / "res"), "--only", "pruning_resnet20"]
    options = ["--data", "digits", "--n-train", "60", "--width", "2", "--levels", "1", "--steps"]
    options += ["1", "--replicates", "1", "--batch-size", "30", "--network", "resnet_8"]
    assert gpu_record.main([*arguments, *options, "--device", "cpu"]) == 0
    assert "magnitude: accuracy" in capsys.readouterr().out
    record = read_record(tmp_path / "res/pruning_resnet20")
    assert json.loads(json.dumps(record.settings))["network"] == "resnet_8"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"pruning_resnet20"}
    assert gpu_record.main([*arguments[:-1], "resnet"]) == 2
    assert "--only must be one of pruning_resnet20, pruning_resnet50" in capsys.readouterr().err


@pytest.mark.parametrize(("preset", "epochs"), [("published", 60), ("two-cores", 16)])
def test_runs_of_vgg19_take_as_many_epochs_as_is_said(preset, epochs):
    run = gpu_record.PRESETS[preset]
    assert (run.network, run.data) == ("vgg19", "cifar10")
    assert run.training.steps == epochs * (50_000 // run.training.batch_size)
    assert run.sparsity == 0.9 and 16 in run.levels
    settings = json.loads(json.dumps(run.plain())) | {"source": "CIFAR-10"}
    assert gpu_record.preset_of(settings) == preset
