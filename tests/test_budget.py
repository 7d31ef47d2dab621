"""Bits and levels within a budget: files that fit, nearer to the network than one width for all."""

import numpy as np
import pytest
import torch
from torch import nn

import ntklc_helpers as nh
from ntklc_helpers.compression import agreement, compress_within


@pytest.fixture(scope="module")
def digits():
    train, test = nh.load_digits(split="train"), nh.load_digits(split="test")
    return nh.normalize(train.X), train.labels, nh.normalize(test.X, train.X)


@pytest.fixture(scope="module")
def net(digits):
    X, y = torch.tensor(digits[0], dtype=torch.float32), torch.tensor(digits[1])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 20), nn.Tanh())
    net.append(nn.Linear(20, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def even(digits, net):
    """The same bits in every layer, and eight levels."""
    return {
        bits: nh.compress(net, digits[0], levels=8, bits=[bits] * 3)
        for bits in ("ternary", 2, 3, 4)
    }


@pytest.mark.parametrize("bits", ["ternary", 2, 3, 4])
def test_within_the_bytes_of_one_width_for_all_it_is_nearer(digits, net, even, bits):
    X, _, X_test = digits
    size = len(even[bits].to_bytes())
    small = compress_within(net, X, size)
    assert len(small.to_bytes()) <= size
    assert agreement(small, net, X_test).error < agreement(even[bits], net, X_test).error


def test_more_bytes_are_nearer_and_are_used(digits, net, even):
    X, _, X_test = digits
    least, most = (len(even[bits].to_bytes()) for bits in ("ternary", 4))
    budgets = np.linspace(least, most, 4).astype(int)
    found = [compress_within(net, X, budget) for budget in budgets]
    sizes = [len(small.to_bytes()) for small in found]
    assert all(0.85 * b < size <= b for b, size in zip(budgets, sizes, strict=True))
    errors = [agreement(small, net, X_test).error for small in found]
    assert errors == sorted(errors, reverse=True) and errors[0] > 2 * errors[-1]


def test_the_smallest_that_changes_no_more(digits, net):
    X, _, X_test = digits
    found = {most: compress_within(net, X, max_change=most) for most in (0.2, 0.0)}
    sizes = [len(small.to_bytes()) for small in found.values()]
    assert sizes[0] < sizes[1] < 0.6 * len(nh.compress(net, X, levels=32, bits=8).to_bytes())
    for most, small in found.items():
        assert 1 - agreement(small, net, X_test).classes < most + 0.06


def test_choices_are_those_given(digits, net):
    small = compress_within(net, digits[0], 10**6, bits=[3, 2], levels=[5])
    assert {layer.bits for layer in small.report} <= {2, 3, None}
    assert {layer.levels for layer in small.report} == {5, None}


def test_networks_without_activations(digits):
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(64, 10))
    small = compress_within(linear, digits[0], 600)
    assert len(small.to_bytes()) <= 600 and len(small.report) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of budget and max_change must be given"),
        ({"budget": 900, "max_change": 0.1}, "one of budget and max_change must be given"),
        ({"budget": 100}, r"budget must be at least \d+ bytes, what the smallest choices take"),
        ({"budget": -1}, "budget must be a positive finite number, got -1"),
        ({"max_change": 2}, r"max_change must be in \[0, 1\), got 2"),
        ({"budget": 900, "bits": []}, "bits and levels must have an entry"),
        ({"budget": 900, "bits": [5]}, "bits among ternary, 2, 3, 4 and 8"),
        ({"budget": 900, "levels": []}, "bits and levels must have an entry"),
        ({"budget": 900, "levels": [1]}, "levels must be a whole number from 2 to 256, got 1"),
    ],
)
def test_odd_budgets(digits, net, given, message):
    with pytest.raises(ValueError, match=message):
        compress_within(net, digits[0], **given)


def test_a_change_that_no_choice_keeps_to_is_refused(digits):
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 10))
    with pytest.raises(ValueError, match=r"max_change is 0.001, but 0.\d+ changes"):
        compress_within(untrained, digits[0], max_change=0.001, bits=["ternary"], levels=[2])
