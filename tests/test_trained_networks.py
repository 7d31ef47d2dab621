"""Networks trained to be small: every row is that file, stopped and gone on with; and the front."""

import re
from pathlib import Path

import attrs
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.compression.train import load_state, save_state
from ntklc_helpers.experiments import trained_networks
from ntklc_helpers.experiments.front import LITERATURE, non_dominated, random_files
from ntklc_helpers.experiments.image_nets import affinely_changed, augmented, vgg
from ntklc_helpers.experiments.methods import Task
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of
from ntklc_helpers.experiments.trained_networks import NETWORKS, PRESETS, TrainedNetworks

SMALL = attrs.evolve(PRESETS["trained_mnist_conv"]["smoke"], n_train=300, n_validation=100)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return SMALL.run(tmp_path_factory.mktemp("whole") / "run", device="cpu")


def test_every_file_has_a_row_a_seed(whole):
    plain, cut = "tiny, float32", "tiny, pruned"
    schemes = ["tiny", plain, f"{plain}, rounded to 8 bits", f"{plain}, rounded to 4 bits"]
    others = ["tiny, taught", f"{cut}, rounded to 8 bits", f"{cut}, rounded to 4 bits"]
    assert sorted(set(whole.table.scheme)) == sorted(schemes + others)
    assert whole.table.groupby("scheme").seed.nunique().eq(2).all()
    size = whole.table.groupby("scheme").bytes.mean()
    assert size["tiny"] < size[schemes[3]] < size[schemes[2]] < size[plain]
    assert all(size[a] < 0.75 * size[b] for a, b in zip(others[1:], schemes[2:], strict=True))


def test_the_files_are_in_the_runs_folder(tmp_path):
    found = attrs.evolve(SMALL, networks="tiny, taught", n_draws=1).run(tmp_path, device="cpu")
    (file,) = tmp_path.glob("*.safetensors")
    assert file.name == "tiny-taught-0.safetensors"
    assert found.table.bytes.tolist() == [file.stat().st_size]
    with trained_networks.begin(SMALL, None, "cpu") as run:
        right = nh.load(file).score(run.images.X_test, run.images.y_test)
    assert 100 * right == pytest.approx(found.table.accuracy[0])


def test_a_teacher_is_trained_first_and_learnt_from(monkeypatch):
    taught = []

    def noted(net, X, y, training, seed, teacher=None, **options):
        taught.append(teacher)
        return net

    monkeypatch.setattr(trained_networks, "train", noted)
    attrs.evolve(SMALL, networks="tiny, taught", n_draws=1).run(None, device="cpu")
    first, second = taught
    assert first is None and isinstance(second, torch.nn.Module) and not second.training


def test_what_is_held_out_is_not_trained_on(whole, monkeypatch):
    """And test images enter at the end alone."""
    given = []

    def noted(net, X, y, training, seed, **options):
        given.append(X)
        return net

    monkeypatch.setattr(trained_networks, "train", noted)
    SMALL.run(None, device="cpu")
    images = trained_networks.begin(SMALL, None, "cpu")
    with images as run:
        held = nh.data.balanced_rows(run.images.y, 100, 0)
        own = {row.tobytes() for row in run.images.X[held]}
    assert all(len(X) == 200 and not own & {row.numpy().tobytes() for row in X} for X in given)


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(trained_networks, "compress", 4)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    assert len(calls) > 4 and again.table.equals(whole.table)
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


def test_what_a_training_took_before_it_was_stopped_counts(tmp_path, stop_at):
    """Of a teacher too: it was through its epochs, and its weights were not put down yet."""
    taught = attrs.evolve(SMALL, networks="tiny, taught", n_draws=1)
    taught.run(tmp_path / "run", device="cpu")
    trained = {path.stem: load_state(path) for path in (tmp_path / "run").glob("training-*.pt")}
    for name, state in trained.items():
        save_state(tmp_path / "run" / f"{name}.pt", state | {"seconds": 1000.0})
        (tmp_path / "run" / f"{name.replace('training', 'weights')}.pt").unlink()
    again = taught.run(tmp_path / "run", device="cpu")
    assert len(trained) == 2 and 2000 <= again.provenance["stages"]["training"] < 2100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"networks": ("none",)}, "networks must be among .*, got 'none'"),
        ({"n_validation": 0}, "n_validation must be a whole number of at least 1, got 0"),
        ({"n_draws": 1.5}, "n_draws must be a whole number"),
    ],
)
def test_settings_that_are_none(change, message):
    with pytest.raises(ValueError, match=message):
        TrainedNetworks(**{"data": "digits"} | change)


def test_a_run_without_a_batch_is_refused(tmp_path):
    with pytest.raises(
        nh.experiments.records.RunError if hasattr(nh, "experiments") else Exception
    ):
        attrs.evolve(SMALL, n_validation=290).run(tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in NETWORKS if "tiny" not in name])
def test_networks_fit_their_images(name):
    shape = (3, 32, 32) if "residual" in name else (1, 28, 28)
    with torch.device("meta"):
        assert vgg(NETWORKS[name].plan, shape)(torch.zeros(2, *shape)).shape == (2, 10)


def test_digits_are_moved_a_little_and_mirrored_never():
    X = torch.zeros(50, 1, 20, 20)
    X[:, :, 5:15, 6] = 1.0  # a bar on the left, half way down
    generator = torch.Generator().manual_seed(0)
    moved = affinely_changed(X, generator)
    across = (moved.sum((1, 2)) * torch.arange(20)).sum(1) / moved.sum((1, 2, 3))
    assert across.max() < 10 and across.min() > 2 and across.std() > 0.3
    mass = moved.sum((1, 2, 3)) / X.sum((1, 2, 3))
    assert mass.min() > 0.6 and mass.max() < 1.6
    # While photographs are mirrored: half of the bars stand on the right.
    mirrored = augmented(X, generator, border=0)[:, 0, 10].argmax(1)
    assert set(mirrored.tolist()) == {6, 13}
    still = affinely_changed(X, generator, turn=0.0, stretch=0.0)
    assert torch.allclose(still.sum((1, 2, 3)), X.sum((1, 2, 3)), rtol=1e-3)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    table = pd.DataFrame(points, columns=["bytes", "accuracy"])
    front = non_dominated(table)
    for i, (size, right) in enumerate(points):
        beaten = any((a <= size and b >= right) and (a < size or b > right) for a, b in points)
        assert (i in front.index) != beaten
    assert front.bytes.is_monotonic_increasing and front.accuracy.is_monotonic_increasing


def test_random_networks_are_kept_as_a_seed():
    train, test = nh.load_digits(split="train"), nh.load_digits(split="test")
    X, X_test = nh.normalize(train.X), nh.normalize(test.X, train.X)
    task = Task(X, train.labels, X_test, test.labels)
    table = pd.DataFrame(random_files(task, [1, 3], [50, 200], range(2)))
    assert len(table) == 16 and table.accuracy.between(70, 100).all()
    size = table.groupby("scheme").bytes.mean()
    for depth in ("1 layer", "3 layers"):
        # A readout of 8 bits, ten scales and biases, the names of the classes, and a seed.
        assert size[f"dense, by seed, {depth}, width 200"] == 2000 + 2 * 40 + 80 + 16
        more = size[f"ternary, by seed, {depth}, width 200"] - 2000
        narrow = size[f"ternary, by seed, {depth}, width 50"] - 500
        assert 200 < more < 1500 and abs(more - narrow) < 16
    wide = table[table.scheme.str.endswith("200")].groupby("scheme").accuracy.mean()
    assert wide.min() > 85


def test_what_others_report_has_a_source():
    bibliography = Path(__file__).parents[1] / "book" / "references.bib"
    keys = set(re.findall(r"@\w+\{(\w+)", bibliography.read_text(encoding="utf-8")))
    for other in LITERATURE:
        assert other.source and (other.key in keys or "github.com" in other.source)
        assert 50 < other.accuracy < 100 < other.bytes


def recorded(name):
    record = find_record(name)
    assert preset_of(record.settings, PRESETS[name]) == "paper"
    return record.table.groupby("scheme")[["bytes", "accuracy"]].mean(), record


def test_the_record_of_digits_keeps_what_is_promised():
    mean, record = recorded("trained_mnist_conv")
    small, large = (mean.loc[f"ternary convolutions, {size} kB"] for size in ("1.5", "2.5"))
    assert small.bytes <= 1500 and small.accuracy >= 98.5
    assert large.bytes <= 2500 and large.accuracy >= 99.0
    assert record.table.groupby("scheme").seed.nunique().min() == 3
    # Nothing rounded afterwards is as small and as accurate.
    rounded = mean[mean.index.str.contains("rounded")]
    assert np.all((rounded.bytes > large.bytes) | (rounded.accuracy < large.accuracy))


def test_the_record_of_connected_networks_keeps_what_is_promised():
    mean, record = recorded("trained_mnist_connected")
    small, large = (mean.loc[f"fully connected, {size} kB"] for size in (9, 12))
    assert small.bytes <= 9000 and small.accuracy >= 98.5
    reported = next(other for other in LITERATURE if other.name == "BitNetMCU")
    assert large.bytes <= 12_000 < reported.bytes and large.accuracy >= 99.0
    assert record.table.groupby("scheme").seed.nunique().min() == 3


def test_the_record_of_pruned_networks_is_of_what_one_would_use_instead():
    mean, record = recorded("trained_mnist_pruned")
    codes = recorded("trained_mnist_conv")[0]
    smaller = mean.loc["pruned small convolutions, rounded to 4 bits"]
    rounded = codes.loc["convolutions, rounded to 4 bits"]
    # Pruned, they take less than the same network rounded, and are nearly as accurate.
    assert smaller.bytes < 0.75 * rounded.bytes and smaller.accuracy > rounded.accuracy - 0.2
    reported = next(other for other in LITERATURE if other.name.endswith("LeNet-300-100"))
    own = mean.loc["pruned 784-300-100-10, rounded to 4 bits"]
    assert own.bytes < reported.bytes and own.accuracy > reported.accuracy
    assert record.table.groupby("scheme").seed.nunique().min() == 3


def test_the_record_of_photographs_keeps_what_is_promised():
    mean, record = recorded("trained_cifar10_70kb")
    row = mean.loc["residual, 70 kB"]
    reported = next(other for other in LITERATURE if other.name == "bitnet-edge")
    assert row.bytes <= 70_000 and row.accuracy >= 85 > reported.accuracy + 15
    assert record.provenance["seconds"] <= 3 * 3600


def test_twice_the_bytes_are_worth_something_on_photographs():
    mean, record = recorded("trained_cifar10_150kb")
    small, large = recorded("trained_cifar10_70kb")[0].iloc[0], mean.loc["residual, 150 kB"]
    apart = 100 * np.sqrt(2 * 0.13 * 0.87 / 10_000)  # standard error, of independent answers
    assert small.bytes < large.bytes <= 150_000 and large.accuracy > small.accuracy + 3 * apart
    assert large.accuracy >= 88
    assert NETWORKS["residual, 150 kB"].teacher in record.settings["specified"]


def test_the_record_of_the_larger_network_takes_three_hours_at_most():
    assert recorded("trained_cifar10_150kb")[1].provenance["seconds"] <= 3 * 3600
