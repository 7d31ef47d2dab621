"""Networks trained on codes and levels: what is trained is what is saved, to the last bit."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

import ntklc_helpers as nh
from ntklc_helpers.compression import prepare_qat
from ntklc_helpers.compression.codes import Codes, Staircase, gaussian_step
from ntklc_helpers.compression.operations import Affine, in_halves
from ntklc_helpers.compression.rounding import code_range


def digits(split):
    data = nh.load_digits(split=split)
    return (2 * data.X.reshape(-1, 1, 8, 8) - 1).astype(np.float32), data.labels


X, Y = digits("train")
X_TEST, Y_TEST = digits("test")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return x + self.body(x)


def convolutional(seed=0):
    torch.manual_seed(seed)
    first = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
    last = nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return nn.Sequential(*first, Residual(), *last)


def connected(act=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    hidden = nn.Linear(64, 40), nn.BatchNorm1d(40), act()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(40, 10))


def trained(net, epochs=8, rate=0.05):
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def ready():
    return trained(prepare_qat(convolutional(), X, input_levels=17))


@pytest.fixture(scope="module")
def small(ready):
    return nh.compress(ready, X)


def test_what_was_trained_is_what_is_saved(ready, small, tmp_path):
    with torch.no_grad():
        own = ready(torch.from_numpy(X_TEST)).numpy()
    # Scales and biases are kept to eleven bits, which may move a value by a level.
    assert np.mean(own.argmax(1) == small.predict(X_TEST)) > 0.99
    assert np.mean((own - small.outputs(X_TEST)) ** 2) < 1e-3 * own.var()
    small.save(tmp_path / "net")
    np.testing.assert_array_equal(nh.load(tmp_path / "net").outputs(X_TEST), small.outputs(X_TEST))


def test_codes_are_those_that_were_trained(ready, small):
    layers = [step.operation for step in small.steps if isinstance(step.operation, Affine)]
    assert [layer.bits for layer in layers] == ["ternary", "ternary", 8]
    originals = [m for m in ready.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer, module in zip(layers, originals, strict=True):
        weights = module.weight.detach().numpy()
        scale = np.abs(weights).reshape(len(weights), -1).max(1) / np.abs(layer.matrix).max(1)
        rounded = weights / scale.reshape(-1, *[1] * (weights.ndim - 1))
        np.testing.assert_allclose(rounded, layer.codes, atol=1e-5)
    assert abs(1 - np.mean(layers[1].codes != 0) - 0.5) < 0.01


def test_sums_are_exact_in_any_order(small):
    """Levels are whole multiples of a power of two: float32 and float64 agree to the last bit."""
    single, double = torch.from_numpy(X_TEST), torch.from_numpy(X_TEST).double()
    for step in small.steps:
        single, double = (
            step.operation(*(x if k else x for k in step.inputs)) if len(step.inputs) == 1 else x
            for x in (single, double)
        )
        if isinstance(step.operation, Affine):
            sums = [
                F.conv2d(x, torch.from_numpy(step.operation.codes).to(x), padding=1)
                for x in (torch.from_numpy(X_TEST), torch.from_numpy(X_TEST).double())
            ]
            np.testing.assert_array_equal(*sums)
            break
    one_by_one = np.concatenate([small.outputs(x[None]) for x in X_TEST[:50]])
    np.testing.assert_array_equal(one_by_one, small.outputs(X_TEST)[:50])


def narrow(seed):
    torch.manual_seed(seed)
    sizes = (64, 24), (24, 24)
    parts = [(nn.Linear(*size), nn.BatchNorm1d(size[1]), nn.ReLU()) for size in sizes]
    return nn.Sequential(nn.Flatten(), *parts[0], *parts[1], nn.Linear(24, 10))


def test_training_on_codes_beats_rounding_what_was_trained():
    """From new weights and from those that were trained, on the mean of three networks."""
    found = []
    for seed in range(3):
        dense = trained(narrow(seed), epochs=12)
        anew = trained(prepare_qat(narrow(seed), X, levels=2), epochs=12)
        again = trained(prepare_qat(dense, X, levels=2), epochs=6, rate=0.02)
        rounded = nh.compress(dense, X, levels=2, bits="ternary")
        nets = rounded, nh.compress(anew, X), nh.compress(again, X)
        found.append([net.score(X_TEST, Y_TEST) for net in nets])
    rounded, anew, again = np.mean(found, axis=0)
    assert min(anew, again) > rounded + 0.01, found


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.Hardtanh])
@pytest.mark.parametrize("count", [2, 5, 16])
def test_a_staircase_is_its_quantised_form(act, count):
    u = torch.linspace(-5, 5, 4001)
    stairs = Staircase.fitted(
        act(), torch.randn(5000, generator=torch.Generator().manual_seed(1)), count
    )
    np.testing.assert_array_equal(stairs(u).numpy(), stairs.quantised()(u.numpy()).astype("f"))
    found = np.unique(stairs(u).numpy())
    assert len(found) <= count and np.log2(stairs.step) % 1 == 0
    assert all(b - a == stairs.step for a, b in pairwise(found))


def test_levels_have_the_least_error_of_their_kind():
    u = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    found, act = Staircase.fitted(nn.ReLU(), u, 4), nn.ReLU()

    def error(step, lowest):
        return float((Staircase(act, step, lowest, 4)(u) - act(u)).square().mean())

    best = min((error(2.0**k, low), 2.0**k, low) for k in range(-5, 3) for low in range(-3, 4))
    assert error(found.step, found.lowest) <= 1.001 * best[0]


def test_gradients_pass_what_rounds_and_nothing_else_changes_them():
    u = torch.linspace(-2, 2, 41, requires_grad=True)
    stairs = Staircase(nn.Tanh(), 0.25, -3, 6)
    (found,) = torch.autograd.grad(stairs(u).sum(), u)
    value = torch.tanh(u)
    inside = (value > -0.875) & (value < 0.625)
    torch.testing.assert_close(found, torch.where(inside, 1 - value**2, torch.zeros(())))
    weight = torch.randn(4, 9, requires_grad=True)
    (found,) = torch.autograd.grad((Codes("ternary")(weight) ** 2).sum(), weight)
    torch.testing.assert_close(found, 2 * Codes("ternary")(weight).detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_ternary_codes_do_not_depend_on_the_precision(dtype):
    # Entries that all precisions have.
    weight = (
        torch.randn(8, 50, generator=torch.Generator().manual_seed(0)).bfloat16().half().float()
    )
    codes, _ = Codes("ternary", 0.6).of(weight)
    assert (codes == 0).sum() >= 0.6 * codes.numel()
    assert torch.equal(Codes("ternary", 0.6).of(weight.to(dtype))[0].float(), codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_gaussian_step_is_where_the_error_is_least(bits):
    low, high = code_range(bits)

    def error(step):
        def off(x):
            return (np.clip(np.rint(x / step), low, high) * step - x) ** 2 * norm.pdf(x)

        jumps = [step * (k + 0.5) for k in range(low, high)]
        return quad(off, -8, 8, points=jumps, limit=500)[0]

    best = gaussian_step(bits)
    assert error(best) < min(error(0.98 * best), error(1.02 * best))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
    st.integers(-60, 60),
)
def test_halves_keep_eleven_bits(entries, exponent):
    row = np.ldexp(np.float32(entries), exponent).astype(np.float32)
    halves, unit, found = in_halves(row)
    assert np.isfinite(halves).all()
    largest = np.abs(row).max()
    np.testing.assert_array_less(
        np.abs(found - row), 2.0**-11 * np.abs(row) + 2.0**-38 * largest + np.float32(1e-44)
    )
    np.testing.assert_array_equal(in_halves(found)[2], found)


def test_only_what_is_of_another_bits_is_rounded():
    """A network on codes but for its last layer takes bits for that one."""
    net = prepare_qat(connected(), X, bits=["ternary", 8])
    nn.utils.parametrize.remove_parametrizations(net[4], "weight", leave_parametrized=False)
    with pytest.raises(
        ValueError, match="bits must have 1 entries, as many as layers of weights, got 0"
    ):
        nh.compress(net.eval(), X)
    assert nh.compress(net, X, bits=[4]).report[0].bits == 4


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.two(F.relu(self.one(x.flatten(1))))


class Bump(nn.Module):
    def forward(self, x):
        return torch.exp(-(x**2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"net": Functional()}, TypeError, "relu, a function, cannot .* module of its own"),
        ({"net": connected(Bump)}, TypeError, r"net\[3\], a Bump, .* must not fall"),
        ({"net": 3}, TypeError, "net must be a torch.nn.Module"),
        (
            {"X": np.ones((9, 1, 8, 8)), "input_levels": 4},
            ValueError,
            "X must hold samples that differ",
        ),
        ({"X": X[:, :, :4]}, ValueError, "X must fit net"),
        ({"levels": 1}, ValueError, "levels must be"),
        ({"levels": 300}, ValueError, "levels must be"),
        ({"input_levels": 1}, ValueError, "input_levels must be"),
        ({"bits": 5}, ValueError, "bits must be one of"),
        (
            {"bits": [4]},
            ValueError,
            "bits must have 2 entries, as many as layers of weights, got 1",
        ),
        ({"sparsity": 1.0}, ValueError, r"sparsity must be in \[0, 1\)"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(change, error, message):
    arguments = {"net": connected(), "X": X} | change
    with pytest.raises(error, match=message):
        prepare_qat(arguments.pop("net"), arguments.pop("X"), **arguments)


def test_the_network_itself_stays_as_it_was():
    net = connected().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ready = prepare_qat(net, X)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in (*net.modules(), *ready.modules()))
    assert not any(isinstance(part, Staircase) for part in net.modules())
