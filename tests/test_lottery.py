"""Sweeps of pruning: what a level trains, resuming after an interruption, refusing what differs."""

import json

import numpy as np
import pytest
import torch

from ntklc_helpers import MissingDataError, lottery, sweep
from ntklc_helpers.checkpoints import read_chain
from ntklc_helpers.classifiers import Training, build, evaluate, train
from ntklc_helpers.lottery import Sweep, run_chain, run_sweep
from ntklc_helpers.records import Level, Record, parting_level, read_record

SMALL = Sweep(
    data="digits", n_train=200, levels=3, replicates=2, training=Training(steps=12, batch_size=50)
)
RESIDUAL = Sweep(
    network="resnet_8", data="digits", n_train=60, levels=1, replicates=1, width=2,
    training=Training(steps=2, batch_size=30, augment=True),
)  # fmt: skip


def numbers(record):
    """Everything but the wall times."""
    return [
        (v.strategy, v.replicate, v.level, v.left, v.accuracy, v.loss, v.layers)
        for v in record.levels
    ]


@pytest.fixture(scope="module")
def whole():
    return run_sweep(SMALL, device="cpu")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- what a sweep does


def test_levels_leave_what_they_should(whole):
    assert len(whole.levels) == 3 * 2 * 4
    size = 64 * 300 + 300 * 100 + 100 * 10
    for strategy in SMALL.strategies:
        left = whole.of(strategy, "left")
        assert left.shape == (4, 2)
        # Whole weights are pruned: each level rounds by half a weight at most.
        np.testing.assert_allclose(left, 0.8 ** np.arange(4)[:, None] * [1, 1], atol=3 / size)
    dense = [whole.of(strategy)[0] for strategy in SMALL.strategies]
    assert np.array_equal(dense[0], dense[1]) and np.array_equal(dense[0], dense[2])
    assert not np.array_equal(whole.of("random")[1:], whole.of("random_rescaled")[1:])
    assert whole.of("random")[0, 0] != whole.of("random")[0, 1]


def test_a_level_is_a_training_of_the_first_weights_under_the_masks(whole):
    images = lottery.load(SMALL)
    X, y, X_test, y_test = (torch.tensor(array) for array in images.arrays)
    seeds = lottery.chain_seeds(SMALL, replicate=1)
    net = build("lenet_300_100", (1, 8, 8), 10, 16, next(seeds))
    first = [p.detach().clone() for p in net.parameters()]
    mask = [torch.ones_like(p) for p in first]
    for level in range(3):
        order, _ = next(seeds), next(seeds)
        with torch.no_grad():
            for p, start, m in zip(net.parameters(), first, mask, strict=True):
                p.copy_(start * m)
                p.register_hook(lambda g, m=m: g * m)
        train(net, X, y, SMALL.training, order)
        accuracy, loss = evaluate(net, X_test, y_test)
        assert whole.of("magnitude")[level, 1] == pytest.approx(accuracy, abs=2 / len(y_test))
        assert whole.of("magnitude", "loss")[level, 1] == pytest.approx(loss, rel=1e-4)
        # Global magnitude pruning by sorting, biases left alone.
        matrices = [k for k, p in enumerate(first) if p.ndim == 2]
        trained = [p.detach().abs() for p in net.parameters()]
        alive = torch.cat([trained[k][mask[k] == 1] for k in matrices])
        threshold = alive.sort().values[round(0.2 * len(alive))]
        for k in matrices:
            mask[k] = mask[k] * (trained[k] >= threshold)


def test_rescaling_restores_the_size_of_the_weights():
    seen = {}

    def observe(net, X, y, training, seed):
        seen[len(seen)] = [
            layer.weight.square().sum().item() for layer in net if hasattr(layer, "weight")
        ]

    chain = Sweep(
        data="digits", n_train=200, levels=6, replicates=1, strategies=["random_rescaled"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lottery, "train", observe)
        run_chain(
            chain, "random_rescaled", 0, None, ([], {}), lottery.load(chain), torch.device("cpu")
        )
    # Of n weights with kurtosis 3, a share α: a relative standard deviation of (2/(αn))^½ or so.
    for sums in seen.values():
        for value, first, size in zip(sums, seen[0], (19200, 30000, 1000), strict=True):
            assert value == pytest.approx(first, rel=5 * (3 / (0.26 * size)) ** 0.5)


def test_strategies_and_replicates_in_parallel_are_the_same(whole):
    assert numbers(run_sweep(SMALL, n_jobs=2, device="cpu")) == numbers(whole)


def test_residual_network():
    record = run_sweep(RESIDUAL, device="cpu")
    assert [v.left for v in record.levels] == [1.0, pytest.approx(0.8, abs=1e-3)] * 3
    # 7 convolutions, 2 of them in shortcuts, and the linear layer: the normalisations stay whole.
    assert len(record.levels[0].layers) == 1 + 6 + 2 + 1


# --- on disk


def test_an_interrupted_sweep_goes_on(whole, tmp_path, monkeypatch):
    calls = 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls in (3, 10, 11, 20):
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(lottery, "train", interrupted)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run_sweep(SMALL, tmp_path / "sweep", device="cpu")
        assert not (tmp_path / "sweep" / "results.csv").exists()
    record = run_sweep(SMALL, tmp_path / "sweep", device="cpu")
    assert numbers(record) == numbers(whole)
    # Every level was trained once, and four were begun once more.
    assert calls == 24 + 4
    before = contents(tmp_path / "sweep")
    assert numbers(run_sweep(SMALL, tmp_path / "sweep", device="cpu")) == numbers(whole)
    assert calls == 28
    after = contents(tmp_path / "sweep")
    assert {k: v for k, v in after.items() if k != "results.json"} == {
        k: v for k, v in before.items() if k != "results.json"
    }


def test_no_half_written_file_is_left(tmp_path, monkeypatch):
    def failing(self, target):
        raise OSError("disk full")

    run_sweep(RESIDUAL, tmp_path / "sweep", device="cpu")
    (tmp_path / "sweep" / "random-0.safetensors").unlink()
    before = contents(tmp_path / "sweep")
    monkeypatch.setattr("pathlib.Path.replace", failing)
    with pytest.raises(OSError, match="disk full"):
        run_sweep(RESIDUAL, tmp_path / "sweep", device="cpu")
    assert contents(tmp_path / "sweep") == before


def test_records_come_back(whole, tmp_path):
    whole.write(tmp_path / "record")
    back = read_record(tmp_path / "record")
    assert back.levels == whole.levels
    assert back.provenance == whole.provenance and back.provenance["device"] == "cpu"
    assert back.settings == json.loads(json.dumps(whole.settings))
    assert {path.name for path in tmp_path.iterdir()} == {"record.csv", "record.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 2}, "levels is 3 there and 2 here"),
        ({"fraction": 0.3}, "fraction is 0.2 there and 0.3 here"),
        ({"training": Training(steps=13, batch_size=50)}, "training.steps is 12 there and 13 here"),
        ({"seed": 1}, "seed is 0 there and 1 here; sha256 is "),
    ],
)
def test_other_settings_are_refused(change, message, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lottery, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(SMALL, tmp_path / "sweep", device="cpu")
    before = contents(tmp_path / "sweep")
    settings = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    with pytest.raises(ValueError, match=f"holds a run with other settings: {message}"):
        run_sweep(Sweep(**settings | change), tmp_path / "sweep", device="cpu")
    assert contents(tmp_path / "sweep") == before


def test_other_folders_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than a run"):
        run_sweep(RESIDUAL, tmp_path, device="cpu")
    with pytest.raises(ValueError, match="holds something else than a run"):
        run_sweep(RESIDUAL, tmp_path / "notes.txt", device="cpu")
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    folder = tmp_path / "sweep"
    run_sweep(RESIDUAL, folder, device="cpu")
    # The last chain is damaged and an earlier one has work left: that must not be begun.
    (folder / "random-0.safetensors").unlink()
    damaged = folder / "magnitude-0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    before = contents(folder)
    with pytest.raises(ValueError, match=r"magnitude-0.safetensors is damaged .*delete it"):
        run_sweep(RESIDUAL, folder, device="cpu")
    assert contents(folder) == before
    (folder / "settings.json").write_text("[]")
    with pytest.raises(ValueError, match="settings.json is damaged"):
        run_sweep(RESIDUAL, folder, device="cpu")


def test_checkpoints_hold_masks_and_levels(tmp_path):
    run_sweep(RESIDUAL, tmp_path / "sweep", device="cpu")
    levels, masks = read_chain(tmp_path / "sweep" / "random-0.safetensors")
    assert [v.level for v in levels] == [0, 1]
    assert all(mask.dtype == torch.bool for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept / sum(mask.numel() for mask in masks.values()) == levels[-1].left


def test_records_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none")
    (tmp_path / "odd.json").write_text('{"settings": {}, "provenance": {}}')
    (tmp_path / "odd.csv").write_text("strategy,level\nrandom,one\n")
    with pytest.raises(ValueError, match="odd.csv and odd.json are not the record of a sweep"):
        read_record(tmp_path / "odd")


# --- the command


def test_the_command(tmp_path, capsys):
    arguments = ["resnet20", "--network", "resnet_8", "--data", "digits", "--n-train", "60"]
    arguments += ["--width", "2", "--levels", "1", "--replicates", "1", "--steps", "2"]
    arguments += ["--batch-size", "30", "--device", "cpu", "--output", str(tmp_path / "sweep")]
    assert sweep.main([*arguments, "--record", str(tmp_path / "results/record")]) == 0
    record = read_record(tmp_path / "results/record")
    # The random state of augmentation is that of the sweep's seeds: the numbers are the same.
    assert numbers(record)[0][4:6] == numbers(run_sweep(_of(record), device="cpu"))[0][4:6]
    assert "magnitude: accuracy" in capsys.readouterr().out
    assert sweep.main([*arguments, "--levels", "2"]) == 1
    assert "levels is 1 there and 2 here" in capsys.readouterr().err


def test_the_command_can_be_stopped(tmp_path, capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(lottery, "train", stop)
    output = ["--output", str(tmp_path / "sweep")]
    assert sweep.main(["lenet", "--data", "digits", "--device", "cpu", *output]) == 130
    assert "Stopped. The same command goes on" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="device 'cuda' was asked for, and there is no CUDA"):
        run_sweep(SMALL, tmp_path / "sweep", device="cuda")
    assert not (tmp_path / "sweep").exists()


def _of(record):
    settings = {k: v for k, v in record.settings.items() if k in Sweep.__dataclass_fields__}
    return Sweep(**settings | {"training": Training(**settings["training"])})


def test_presets_are_the_published_sizes():
    assert sweep.PRESETS["lenet"].levels == 16 and sweep.PRESETS["lenet"].replicates == 3
    for name, depth in (("resnet20", 20), ("resnet50", 50)):
        net = build(sweep.PRESETS[name].network, (3, 32, 32), 10, 16, seed=0)
        longest = [
            m for n, m in net.named_modules() if hasattr(m, "weight") and "shortcut" not in n
        ]
        assert len([m for m in longest if m.weight.ndim > 1]) == depth


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.0}, r"fraction must be a number in \(0, 1\), got 1.0"),
        ({"fraction": 0.0}, r"fraction must be a number in \(0, 1\)"),
        ({"data": "imagenet"}, "data must be one of mnist, digits, cifar10, got 'imagenet'"),
        ({"strategies": ["snip"]}, r"strategies \['snip'\] are unknown; known: random"),
        ({"strategies": []}, "strategies must be different, at least one"),
        ({"strategies": ["random", "random"]}, "strategies must be different"),
        (
            {"network": "vgg"},
            "network must be one of lenet_300_100, resnet_D, vgg19, .*, got 'vgg'",
        ),
        ({"network": "resnet_18"}, r"depth must be 6n \+ 2 with n = 1, 2, …, got 18"),
        ({"network": "resnet_2"}, r"depth must be 6n \+ 2"),
        ({"levels": 0}, "levels must be a positive whole number"),
        ({"replicates": 1.5}, "replicates must be a positive whole number"),
        ({"network": "resnet_8", "width": 0}, "width must be a positive whole number"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_sweeps_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        Sweep(**options)


def test_bad_quantities_name_the_argument(whole):
    with pytest.raises(ValueError, match="strategy must be one of magnitude, random, random_resc"):
        whole.of("snip")


# --- where two ways part


def test_parting_level():
    better = np.array([[0.9, 0.9], [0.9, 0.8], [0.9, 0.8], [0.7, 0.7]])
    worse = np.array([[0.9, 0.9], [0.7, 0.7], [0.8, 0.5], [0.1, 0.6]])
    assert parting_level(better, worse) == 3
    assert parting_level(better, worse - 0.01) == 0
    worse[0] = 0.95
    assert parting_level(better, worse - 0.01) == 1
    assert parting_level(worse, better) is None


def test_missing_levels_are_nan():
    record = Record((Level("random", 1, 0, 1.0, 0.5, 1.0, 0.1, {}),), {}, {})
    assert np.isnan(record.of("random")[0, 0]) and record.of("random")[0, 1] == 0.5


def test_digits_stand_in_for_photographs_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="CIFAR-10"):
        lottery.load_pair("cifar10")
    images = lottery.load_pair("cifar10", 2000, stand_in=True)
    assert images.X.shape[1:] == (1, 8, 8) and "CIFAR-10 is not available" in images.note
