"""Kernel machines: every fit against the direct one, stopped and gone on with, and what is refused."""

import attrs
import numpy as np
import pytest
from scipy.linalg import solve

import ntklc_helpers as nh
from ntklc_helpers.experiments import kernel_machine
from ntklc_helpers.experiments.__main__ import RECORDS, main
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.kernel_machine import PRESETS, KernelMachine, layers_of
from ntklc_helpers.experiments.records import RunError, find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMALL = KernelMachine(
    networks=("relu", "2"), data="digits", n_train=300, seed=3, sizes=(100, 300), n_selection=200,
    n_validation=100, rank=50, tolerance=1e-9,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, SMALL.run(folder)


def unit(images):
    rows = images.reshape(len(images), -1).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_every_fit_is_the_direct_one(whole):
    folder, record = whole
    images = load_pair("digits", 300, 3)
    order = np.random.default_rng(3).permutation(300)
    X, y, X_test = unit(images.X)[order], images.y[order], unit(images.X_test)
    assert [*zip(record.table.network, record.table.n, strict=True)] == [
        ("relu", 100), ("relu", 300), ("2", 100), ("2", 300)
    ]  # fmt: skip
    for row in record.table.itertuples():
        layers = layers_of(row.network)
        K, _ = nh.limit_kernels(X[: row.n], layers, tau0=1.0, ntk=False)
        between, _ = nh.limit_kernels(X_test, layers, Z=X[: row.n], tau0=1.0, ntk=False)
        shares = np.bincount(y[: row.n]) / row.n
        shifted = K + row.ridge * np.trace(K) * np.eye(row.n)
        scores = between @ solve(shifted, np.eye(10)[y[: row.n]] - shares) + shares
        right = 100 * (scores.argmax(axis=1) == images.y_test).mean()
        # The kernel is kept in float32, which may turn one image in a thousand.
        assert row.accuracy == pytest.approx(right, abs=0.11)
        assert row.residual <= 1e-9 and row.steps > 1
    for name in SMALL.networks:
        about = record.findings["networks"][name]
        best = max(about["validation"].values())
        ridge = float(next(r for r, value in about["validation"].items() if value == best))
        assert set(record.table[record.table.network == name].ridge) == {ridge}
    assert 0 < record.findings["peak_gigabytes"] < 16
    # The one large file goes when its network is done.
    assert not list(folder.glob("*.npy"))


def test_the_staircases_are_matched_at_the_length_of_the_images():
    relu = nh.propagate(layers_of("relu"), tau0=1.0)[-1]
    sixteen = layers_of("16")
    assert [len(layer.levels) for layer in sixteen] == [16] * 3
    found = nh.propagate(sixteen, tau0=1.0)[-1]
    np.testing.assert_allclose(found.alpha[:3], relu.alpha[:3], rtol=1e-6)
    paper = layers_of("paper")
    assert paper == list(nh.match(["relu"] * 3, tau0=1.0, levels="paper").activations)


def test_an_interrupted_run_goes_on_from_its_kernel(whole, tmp_path, monkeypatch):
    calls = []

    def counted(name, stop=None):
        plain = getattr(kernel_machine, name)

        def call(*arguments, **options):
            calls.append(name)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return plain(*arguments, **options)

        monkeypatch.setattr(kernel_machine, name, call)

    counted("fill_tiles")
    counted("kernel_ridge", stop=4)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run")
    assert calls == ["fill_tiles", "kernel_ridge", "kernel_ridge", "kernel_ridge"]
    assert [path.name for path in (tmp_path / "run").glob("*.npy")] == ["kernel-relu.npy"]
    calls[:] = ["before"] * 9
    record = SMALL.run(tmp_path / "run")
    # What is left of the first: one fit with the kernel that is there; then all of the second.
    rest = ["kernel_ridge", "fill_tiles", *["kernel_ridge"] * 3]
    assert calls[9:] == rest
    timeless = record.table.drop(columns="seconds")
    assert timeless.equals(whole[1].table.drop(columns="seconds"))
    calls.clear()
    assert SMALL.run(tmp_path / "run").table.equals(record.table) and not calls


def test_without_a_folder_the_same(whole):
    record = SMALL.run()
    assert record.table.drop(columns="seconds").equals(whole[1].table.drop(columns="seconds"))


def test_a_record_is_made_by_the_command_and_comes_back(tmp_path, capsys):
    options = ["--preset", "smoke", "--networks", "relu", "--sizes", "150", "--n-train", "400"]
    options += ["--n-selection", "200", "--n-validation", "100"]
    where = ["--output", str(tmp_path / "run"), "--results", str(tmp_path)]
    assert main(["kernel_machine", *options, *where]) == 0
    record = read_record(tmp_path / "kernel_machine")
    assert record.settings["sizes"] == [150] and record.settings["n_images"] == [400, 599]
    assert record.table.columns[:4].tolist() == ["network", "n", "ridge", "accuracy"]
    assert "network" not in record.settings and "training" not in record.settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ("tanh",)}, "networks must be relu, paper or numbers of levels"),
        ({"networks": ("relu", "relu")}, "networks must be .* each once"),
        ({"networks": ()}, "networks must be"),
        ({"networks": ("1",)}, "networks must be"),
        ({"sizes": (0,)}, "sizes must be a whole number"),
        ({"ridges": (-1.0,)}, "ridges must be"),
        ({"rank": 0}, "rank must be a whole number"),
        ({"tolerance": 0.0}, "tolerance must be a number in"),
        ({"data": "svhn"}, "data must be one of mnist, digits, cifar10"),
    ],
)
def test_bad_machines_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        KernelMachine(**options)


def test_more_images_than_there_are_is_refused_before_anything_is_written(tmp_path):
    for change in ({"sizes": (301,)}, {"n_selection": 201}):
        with pytest.raises(RunError, match="sizes, and n_selection .* must be at most 300"):
            attrs.evolve(SMALL, **change).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- the full size


def test_the_kernel_of_the_paper_preset_has_all_images():
    assert max(PRESETS["paper"].sizes) == 60_000 and PRESETS["paper"].data == "mnist"
    assert RECORDS["kernel_machine"] is PRESETS


def test_the_record_of_the_book():
    record = find_record("kernel_machine")
    assert preset_of(record.settings, PRESETS) == "paper"
    assert record.findings["peak_gigabytes"] < 20
    table = record.table.set_index(["network", "n"])
    assert (table.residual <= PRESETS["paper"].tolerance).all() and len(table) == 6
    full = table.xs(60_000, level="n").accuracy
    assert full["relu"] >= 98.3 and abs(full["16"] - full["relu"]) < 0.1
