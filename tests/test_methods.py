"""The comparison of methods: which networks, how accurate, and how many bytes they really take."""

import attrs
import numpy as np
import pandas as pd
import pytest
import torch

import ntklc_helpers as nh
from ntklc_helpers.compression import pruned_bytes, ternary_entropy
from ntklc_helpers.experiments import methods
from ntklc_helpers.experiments.methods import METHODS, Case, Task, all_methods, cases, measure
from ntklc_helpers.theory import MagnitudePruned, Pruned

RELU = nh.activation("relu")


@pytest.fixture(scope="module")
def task():
    train, test = (nh.load_digits(split=split) for split in ("train", "test"))
    X, X_test = nh.normalize(train.X), nh.normalize(test.X, train.X)
    return Task(X, train.labels, X_test, test.labels)


def accuracy(task, features, fitted):
    return 100 * np.mean(fitted.predict(features(task.X_test)) == task.y_test)


# --- which networks


def test_every_case_stands_once_and_none_is_left_out():
    shares = {"sparsities": [0.0, 0.9], "sparsity_width": 100}
    found = cases([40, 100], [2, 16, 4], 0.9, [5, 6], lloyd_max=[16], **shares)
    assert len(found) == len(set(found))
    every = {"dense", "random pruning", "magnitude pruning", "ternary, ReLU", "paper", "script"}
    every |= {"2 levels", "16 levels", "4 levels", "Lloyd–Max, 16 levels"}
    for width in (40, 100):
        for seed in (5, 6):
            here = {c.method.name for c in found if (c.width, c.seed) == (width, seed)}
            assert here == every
    assert {c.sparsity for c in found if c.method.name == "dense"} == {0.0}
    swept = [c for c in found if c.sparsity == 0 and c.method.name != "dense"]
    pruned = {"random pruning", "magnitude pruning", "ternary, ReLU"}
    assert {c.method.name for c in swept} == {*pruned, "16 levels"}
    assert {(c.width, c.seed) for c in swept} == {(100, 5), (100, 6)} and len(swept) == 8
    assert len(found) == 2 * 2 * 10 + 8
    # Another width for the sweep: the dense network is its reference there.
    extra = cases([40], [2], 0.9, [0], sparsities=[0.5], sparsity_width=70)
    assert extra[-1] == Case("dense", 70, 0.0, 0)
    with pytest.raises(ValueError, match="sparsity_width must be given where there are sparsities"):
        cases([40], [2], 0.9, [0], sparsities=[0.5])


def test_each_entry_is_shown_in_its_own_way():
    found = all_methods([2, 3, 4, 6, 8, 12, 16])
    assert list(found)[:6] == list(METHODS) and list(found)[-1] == "16 levels"
    looks = {(str(method.colour), method.marker) for method in found.values()}
    assert len(looks) == len(found) == 13
    assert [name for name, method in found.items() if method.label != name] == ["paper", "script"]
    darkness = [sum(method.colour[:3]) for method in list(found.values())[6:]]
    assert darkness == sorted(darkness, reverse=True)
    both = all_methods([2, 16], lloyd_max=[2, 16])
    hollow = [name for name, method in both.items() if method.look.get("mfc") == "white"]
    assert hollow == ["Lloyd–Max, 2 levels", "Lloyd–Max, 16 levels"] == list(both)[-2:]
    assert len({(str(m.look["color"]), m.look["marker"]) for m in both.values()}) == len(both)


def test_a_new_method_is_one_entry(task, monkeypatch):
    third = attrs.evolve(METHODS["ternary, ReLU"], name="halved", label="halved", marker="8")
    monkeypatch.setitem(METHODS, "halved", third)
    found = cases([30], [16], 0.5, [0])
    assert [case.method.name for case in found][-2:] == ["halved", "16 levels"]
    table = pd.DataFrame(methods.compare(task, found, "cpu"))
    assert len(table[table.method == "halved"]) == 1


def test_staircases_are_those_of_match_and_relu_has_none():
    entries, lloyd = all_methods([4], [4]), {"levels": 4, "objective": "lloyd-max"}
    for name, options in (
        ("paper", {"levels": "paper"}),
        ("script", {"levels": "script"}),
        ("4 levels", {"levels": 4, "grid": "uniform"}),
        ("Lloyd–Max, 4 levels", lloyd),
    ):
        expected = nh.match([RELU] * 3, 1.0, **options)
        for ours, theirs in zip(
            entries[name].matching.activations, expected.activations, strict=True
        ):
            assert np.array_equal(ours.thresholds, theirs.thresholds)
            assert np.array_equal(ours.levels, theirs.levels)
    assert [name for name, method in entries.items() if method.matching is None] == list(METHODS)[
        :4
    ]


# --- what is measured


def test_networks_with_relu(task):
    width, eps, seed = 60, 0.8, 3
    laws = {
        "dense": "gaussian",
        "random pruning": Pruned(eps),
        "magnitude pruning": MagnitudePruned(eps),
        "ternary, ReLU": nh.theory.Ternary(eps),
    }
    entries = 64 * width + 2 * width**2
    for method, law in laws.items():
        net = nh.RandomMLP(64, [width] * 3, [RELU] * 3, weights=law, seed=seed)
        case = Case(method, width, 0.0 if method == "dense" else eps, seed)
        row = measure(task, case, device="cpu")
        assert case.key.items() <= row.items() and row["method"] == method
        fitted = nh.fit_readout(net.features(task.X).numpy(), task.y)
        assert row["accuracy"] == accuracy(task, lambda X, n=net: n.features(X).numpy(), fitted)
        kept = sum(int(torch.count_nonzero(W)) for W in net.matrices)
        hidden = row["bytes"] - fitted.nbytes
        if method == "dense":
            assert hidden == 4 * entries
            assert fitted.nbytes == 4 * 10 * width + (4 + 4 + 8) * 10
            continue
        if "pruning" in method:
            assert hidden == sum(pruned_bytes(W.numpy()) for W in net.matrices)
        # Places within a few percent of the entropy: H(ε) less one bit a sign.
        places = entries * (ternary_entropy(eps) - (1 - eps)) / 8
        each = kept / 8 if method == "ternary, ReLU" else 4 * kept
        assert 0.97 * places < hidden - each < 1.08 * places


def test_networks_that_run_on_integers_are_files(task, tmp_path):
    entries = all_methods([16])
    for method, levels in (("paper", "paper"), ("script", "script"), ("16 levels", 16)):
        row = measure(task, Case(entries[method], 60, 0.9, 2), device="cpu")
        net = nh.RandomMLP(64, [60] * 3, [RELU] * 3)
        small = nh.compress(net, task.X, levels=levels, sparsity=0.9, seed=2)
        small.fit_readout(task.X, task.y)
        assert small.save(tmp_path / "net.safetensors", "packed") == row["bytes"]
        back = nh.load(tmp_path / "net.safetensors")
        assert 100 * back.score(task.X_test, task.y_test) == row["accuracy"]


@pytest.mark.parametrize("tau0", [1.0, 2.0])
def test_torch_and_integers_see_the_same_features(task, tau0):
    X = tau0 * task.X
    net = nh.RandomMLP(64, [80] * 3, [RELU] * 3, tau0=tau0)
    small = nh.compress(net, X, levels=16, sparsity=0.9, seed=1)
    on_integers, by_torch = small.features(X), small.features(X, device="cpu")
    # A first-layer sum may be rounded across a threshold; no other difference is possible.
    different = np.abs(on_integers - by_torch).max(axis=1) > 1e-5
    assert different.mean() < 0.01
    np.testing.assert_allclose(by_torch[~different], on_integers[~different], atol=1e-6)


def test_rows_come_one_by_one_and_can_be_gone_on_with(task):
    small = Task(task.X[::8], task.y[::8], task.X_test, task.y_test)
    sixteen = all_methods([16])["16 levels"]
    plan = [Case(sixteen, 20, 0.5, 0), Case("dense", 20, 0.0, 0), Case(sixteen, 20, 0.5, 1)]
    expected = [measure(small, case, device="cpu") for case in plan]
    found = methods.compare(small, plan, device="cpu")
    assert next(found) == expected[0]
    assert list(found) == expected[1:] == list(methods.compare(small, plan[1:], "cpu"))
    assert pd.DataFrame(expected).accuracy.between(0, 100).all()


def test_rows_at_one_sparsity_keep_the_dense_networks():
    table = pd.DataFrame({"method": ["dense", "a", "a"], "sparsity": [0.0, 0.5, 0.9], "seed": 0})
    assert methods.at_sparsity(table, 0.9).sparsity.to_list() == [0.0, 0.9]


def test_layers_may_have_widths_of_their_own(task):
    case = Case("dense", [40, 30, 20], 0.0, seed=3)
    net = nh.RandomMLP(64, [40, 30, 20], [RELU] * 3, seed=3)
    fitted = nh.fit_readout(net.features(task.X).numpy(), task.y)
    row = measure(task, case, device="cpu")
    assert row["accuracy"] == accuracy(task, lambda X: net.features(X).numpy(), fitted)
    assert row["bytes"] == 4 * (64 * 40 + 40 * 30 + 30 * 20) + fitted.nbytes
    assert row["width"] == (40, 30, 20)


# --- bad input


def test_bad_input_names_the_argument(task):
    for method in ("snip", "levels", "8 levels "):
        with pytest.raises(ValueError, match=f"method must be one of dense, .* got '{method}'"):
            Case(method, 20, 0.9, 0)
    with pytest.raises(ValueError, match="width must be a whole number"):
        Case("dense", 2.5, 0.9, 0)
    with pytest.raises(ValueError, match=r"width must be one, or 3 of them, got \(20, 10\)"):
        Case("dense", (20, 10), 0.9, 0)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        Case("dense", 20, 1.0, 0)
    with pytest.raises(ValueError, match="levels must be a whole number of at least 2, got 1"):
        all_methods([1])
    with pytest.raises(ValueError, match="X_test must have 64 columns"):
        Task(task.X, task.y, task.X_test[:, 1:], task.y_test)
    with pytest.raises(ValueError, match=r"y_test must have shape \(599,\).*got \(598,\)"):
        Task(task.X, task.y, task.X_test, task.y_test[1:])
    with pytest.raises(ValueError, match="y must use every class"):
        Task(task.X, task.y + 1, task.X_test, task.y_test)
    net = nh.RandomMLP(64, [20] * 2, [RELU] * 2)
    found = all_methods([16])["16 levels"].matching
    with pytest.raises(ValueError, match="levels is a matching of 3 layers at tau0=1; the network"):
        nh.compress(net, task.X, levels=found)
    trained = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU())
    with pytest.raises(ValueError, match="a Matching is for a RandomMLP, taken as a whole"):
        nh.compress(trained, task.X, levels=found)
