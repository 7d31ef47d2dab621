"""Pruning of torch modules: how many weights go, which ones, how masks compose, rewinding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ntklc_helpers.compression.pruning import (
    apply_masks,
    masks,
    prunable_layers,
    prune_globally,
    rewind,
    snapshot,
    sparsity,
)


def model(seed=0):
    """Two linear layers and a convolution of different scales, with what is never pruned."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 20),
        nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip
    with torch.no_grad():
        net[4].weight.mul_(0.1)
    return net


SIZE = {"0": 36, "4": 2880, "6": 60}
TOTAL = sum(SIZE.values())


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 3


def train_a_step(net):
    X, y = batch()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(net(X), y).backward()
        optimizer.step()


@given(
    fractions=st.lists(st.floats(0.05, 0.6), min_size=1, max_size=4),
    strategy=st.sampled_from(["random", "magnitude"]),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=20, deadline=None)
def test_masks_compose_and_count(fractions, strategy, seed):
    net, left = model(), TOTAL
    before = masks(net)
    for fraction in fractions:
        prune_globally(net, fraction, strategy, seed=seed)
        left -= round(fraction * left)
        now, report = masks(net), sparsity(net)
        assert all((now[name] <= before[name]).all() for name in SIZE)
        assert report.size == SIZE and sum(report.kept.values()) == left
        assert report.left == pytest.approx(left / TOTAL)
        assert report.overall == pytest.approx(1 - left / TOTAL)
        assert report.layers_left == {n: pytest.approx(now[n].sum() / SIZE[n]) for n in SIZE}
        before = now


def test_random_choice_is_uniform_and_of_its_seed():
    net = prune_globally(model(), 0.3, seed=5)
    again, other = prune_globally(model(seed=9), 0.3, seed=5), prune_globally(model(), 0.3, seed=6)
    assert all(torch.equal(masks(net)[n], masks(again)[n]) for n in SIZE)
    assert not torch.equal(masks(net)["4"], masks(other)["4"])
    # A layer's count is hypergeometric: every weight goes with probability 0.3, whatever its size.
    for name, share in sparsity(net).layers_left.items():
        assert share == pytest.approx(0.7, abs=5 * (0.21 / SIZE[name]) ** 0.5)
    kept = torch.cat([model().get_submodule(n).weight[m].abs() for n, m in masks(net).items()])
    lost = torch.cat([model().get_submodule(n).weight[~m].abs() for n, m in masks(net).items()])
    spread = (kept.var() / len(kept) + lost.var() / len(lost)) ** 0.5
    assert (kept.mean() - lost.mean()).abs() < 5 * spread


def test_the_global_seed_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    net = model()
    torch.manual_seed(3)
    prune_globally(net, 0.5)
    assert torch.equal(torch.rand(1), expected)


def test_magnitude_takes_the_smallest_of_all_layers():
    net = model()
    weights = torch.cat([net.get_submodule(n).weight.detach().flatten().abs() for n in SIZE])
    threshold = weights.sort().values[round(0.4 * TOTAL)]
    prune_globally(net, 0.4, "magnitude")
    for name, mask in masks(net).items():
        assert torch.equal(mask, net.get_submodule(name).weight_orig.abs() >= threshold)


def test_magnitude_sees_the_last_step():
    net = prune_globally(model(), 0.1, "magnitude")
    train_a_step(net)
    trained = {n: net.get_submodule(n).weight_orig.detach().abs() for n in SIZE}
    alive = torch.cat([trained[n][m] for n, m in masks(net).items()])
    left = len(alive)
    prune_globally(net, 0.5, "magnitude")
    threshold = alive.sort().values[round(0.5 * left)]
    kept = torch.cat([trained[n][m] for n, m in masks(net).items()])
    assert kept.min() == threshold and len(kept) == left - round(0.5 * left)


def test_only_named_layers_are_pruned():
    net = prune_globally(model(), 0.5, layers=["0", "6"])
    assert sparsity(net).kept["4"] == SIZE["4"]
    assert sparsity(net, ["0", "6"]).left == 0.5
    assert not hasattr(net[4], "weight_mask")
    assert list(prunable_layers(nn.Linear(3, 2))) == [""]


def test_pruned_weights_stay_zero_in_training():
    net = prune_globally(model(), 0.5, seed=2)
    fixed = {n: net.get_submodule(n).weight_orig[~m].clone() for n, m in masks(net).items()}
    train_a_step(net)
    net(batch()[0])
    for name, mask in masks(net).items():
        layer = net.get_submodule(name)
        assert (layer.weight[~mask] == 0).all()
        assert torch.equal(layer.weight_orig[~mask], fixed[name])
        assert not torch.equal(layer.weight[mask], model().get_submodule(name).weight[mask])


@pytest.mark.parametrize("rescale", [True, False])
def test_rewinding(rescale):
    net = model()
    initial = snapshot(net)
    for level in range(3):
        train_a_step(net)
        prune_globally(net, 0.4, "magnitude" if level else "random")
        rewind(net, initial, rescale=rescale)
        report = sparsity(net)
        for name, mask in masks(net).items():
            layer, alpha = net.get_submodule(name), report.kept[name] / SIZE[name]
            factor = alpha**-0.5 if rescale else 1.0
            torch.testing.assert_close(layer.weight, initial[f"{name}.weight"] * mask * factor)
        for key in ("1.running_mean", "1.weight", "4.bias", "1.num_batches_tracked"):
            assert torch.equal(net.state_dict()[key], initial[key])
    if not rescale:
        assert all(torch.equal(snapshot(net)[key], initial[key]) for key in initial)


def test_masks_carry_over_to_another_module():
    net = model()
    for seed in range(3):
        prune_globally(net, 0.3, seed=seed)
    other = apply_masks(model(), masks(net))
    X, _ = batch()
    assert torch.equal(net.eval()(X), other.eval()(X))
    first, second = (prune_globally(m, 0.3, seed=8) for m in (net, other))
    assert all(torch.equal(masks(first)[n], masks(second)[n]) for n in SIZE)


def test_a_layer_may_lose_everything():
    net = model()
    initial = snapshot(net)
    dead = {"6": torch.zeros(3, 20, dtype=torch.bool)}
    rewind(apply_masks(net, dead), initial, rescale=True)
    assert torch.isfinite(net(batch()[0])).all() and sparsity(net).kept["6"] == 0


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5, float("nan"), "0.2", True])
def test_bad_fraction(fraction):
    net = model()
    with pytest.raises(ValueError, match="fraction must be "):
        prune_globally(net, fraction)
    assert not hasattr(net[0], "weight_mask")


def test_bad_input_names_the_argument():
    net = prune_globally(model(), 0.2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"layers \['9', 'fc'\] cannot be pruned; known: 0, 4, 6"):
        prune_globally(net, 0.2, layers=["fc", "4", "9"])
    with pytest.raises(ValueError, match="strategy must be one of random, magnitude, .* 'best'"):
        prune_globally(net, 0.2, "best")
    with pytest.raises(ValueError, match="fraction 0.001 of the [0-9]+ weights left is 0"):
        prune_globally(net, 0.001, layers=["6"])
    with pytest.raises(ValueError, match="module must have at least one layer"):
        prune_globally(nn.ReLU(), 0.2)
    with pytest.raises(ValueError, match=r"masks\['6'\] must have shape \(3, 20\), got \(2,\)"):
        apply_masks(net, {"0": torch.zeros(4, 1, 3, 3), "6": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"layers \['x'\] cannot be pruned"):
        apply_masks(net, {"x": torch.zeros(2)})
    state = snapshot(net) | {"4.bias": torch.zeros(2), "5.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"these differ: \['4.bias', '5.bias'\]"):
        rewind(net, state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
