"""The comparison of methods: which networks, how accurate, and how many bytes they really take."""

import numpy as np
import pytest
import torch

import ntklc_helpers as nh
from ntklc_helpers import methods
from ntklc_helpers.methods import Case, Task, cases, compare, matching, measure

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
    found = cases([40, 100], [2, 16, 4], 0.9, [5, 6], sparsities=[0.0, 0.9], sparsity_width=100)
    assert len(found) == len(set(found))
    all_methods = {*methods.FLOAT_METHODS, "published", "2 levels", "16 levels", "4 levels"}
    for width in (40, 100):
        for seed in (5, 6):
            here = {c.method for c in found if (c.width, c.seed) == (width, seed)}
            assert here == all_methods
    assert {c.zeros for c in found if c.method == "dense"} == {0.0}
    swept = [c for c in found if c.zeros == 0 and c.method != "dense"]
    assert {c.method for c in swept} == {*methods.FLOAT_METHODS[1:], "16 levels"}
    assert {(c.width, c.seed) for c in swept} == {(100, 5), (100, 6)} and len(swept) == 8
    assert len(found) == 2 * 2 * 8 + 8
    # Another width for the sweep: the dense network is its reference there.
    extra = cases([40], [2], 0.9, [0], sparsities=[0.5], sparsity_width=70)
    assert extra[-1] == Case("dense", 70, 0.0, 0)
    with pytest.raises(ValueError, match="sparsity_width must be given where there are sparsities"):
        cases([40], [2], 0.9, [0], sparsities=[0.5])


# --- what is measured


def test_networks_with_relu(task):
    width, zeros, seed = 60, 0.8, 3
    options = {"p": 64, "widths": [width] * 3, "activations": [RELU] * 3, "seed": seed}
    nets = {
        "dense": nh.RandomMLP(**options),
        "random pruning": nh.PrunedMLP(**options, keep=1 - zeros),
        "magnitude pruning": nh.MagnitudePrunedMLP(**options, keep=1 - zeros),
        "ternary, ReLU": nh.RandomMLP(**options, weights="ternary", sparsity=zeros),
    }
    entries = 64 * width + 2 * width**2
    for method, net in nets.items():
        case = Case(method, width, 0.0 if method == "dense" else zeros, seed)
        outcome = measure(task, case, device="cpu")
        assert outcome.case == case
        fitted = nh.fit_readout(net.features(task.X).numpy(), task.y)
        assert outcome.accuracy == accuracy(task, lambda X, n=net: n.features(X).numpy(), fitted)
        kept = sum(int(torch.count_nonzero(W)) for W in net.matrices)
        hidden = outcome.bytes - fitted.nbytes
        if method == "dense":
            assert hidden == 4 * entries
            assert fitted.nbytes == 4 * 10 * width + (4 + 4 + 8) * 10
            continue
        # Places within a few percent of the entropy: H(ε) less one bit a sign.
        places = entries * (nh.ternary_entropy(zeros) - (1 - zeros)) / 8
        each = kept / 8 if method == "ternary, ReLU" else 4 * kept
        assert 0.97 * places < hidden - each < 1.08 * places


def test_networks_that_run_on_integers_are_files(task, tmp_path):
    for method, levels in (("published", "paper"), ("16 levels", 16)):
        outcome = measure(task, Case(method, 60, 0.9, 2), device="cpu")
        net = nh.RandomMLP(64, [60] * 3, [RELU] * 3)
        small = nh.compress(net, task.X, levels=levels, sparsity=0.9, seed=2)
        small.fit_readout(task.X, task.y)
        assert small.save(tmp_path / "net.safetensors", "packed") == outcome.bytes
        back = nh.load(tmp_path / "net.safetensors")
        assert 100 * back.score(task.X_test, task.y_test) == outcome.accuracy


def test_torch_and_integers_see_the_same_features(task):
    case = Case("16 levels", 80, 0.9, 1)
    net = nh.RandomMLP(64, [80] * 3, [RELU] * 3)
    small = nh.compress(net, task.X, levels=matching(case.method), sparsity=0.9, seed=1)
    on_integers = small.features(task.X)
    by_torch = methods.torch_features(small, case, torch.device("cpu"))(task.X)
    # A first-layer sum may be rounded across a threshold; no other difference is possible.
    different = np.abs(on_integers - by_torch).max(axis=1) > 1e-5
    assert different.mean() < 0.01
    np.testing.assert_allclose(by_torch[~different], on_integers[~different], atol=1e-6)


def test_matchings_are_solved_once_and_outcomes_come_one_by_one(task, monkeypatch):
    solved, small = [], Task(task.X[::8], task.y[::8], task.X_test, task.y_test)

    def noted(method):
        solved.append(method)
        return matching(method)

    plan = [Case("16 levels", 20, 0.5, 0), Case("dense", 20, 0.0, 0), Case("16 levels", 20, 0.5, 1)]
    expected = [measure(small, case, device="cpu") for case in plan]
    monkeypatch.setattr(methods, "matching", noted)
    found = compare(small, plan, device="cpu", progress=False)
    assert solved == [] and next(found) == expected[0]
    # What is left, in another run.
    assert list(found) == expected[1:] == list(compare(small, plan[1:], "cpu", progress=False))
    assert solved == ["16 levels", "16 levels"]


# --- bad input


def test_bad_input_names_the_argument(task):
    for method in ("snip", "levels", "8 levels "):
        with pytest.raises(ValueError, match=f"method must be one of dense, .* got '{method}'"):
            measure(task, Case(method, 20, 0.9, 0))
    with pytest.raises(ValueError, match="X_test must have 64 columns, got 63"):
        Task(task.X, task.y, task.X_test[:, 1:], task.y_test)
    with pytest.raises(ValueError, match=r"y_test must have shape \(599,\), got \(598,\)"):
        Task(task.X, task.y, task.X_test, task.y_test[1:])
    with pytest.raises(ValueError, match="y must use every class"):
        Task(task.X, task.y + 1, task.X_test, task.y_test)
    net = nh.RandomMLP(64, [20] * 2, [RELU] * 2)
    found = matching("16 levels")
    with pytest.raises(ValueError, match="levels is a matching of 3 layers at tau0=1; the network"):
        nh.compress(net, task.X, levels=found)
    trained = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU())
    with pytest.raises(ValueError, match="a Matching is for a RandomMLP"):
        nh.compress(trained, task.X, levels=found)
