"""Classifiers: shapes, initial weights, the step of gradient descent, augmentation."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ntklc_helpers import classifiers
from ntklc_helpers.classifiers import (
    ResidualBlock,
    Training,
    augmented,
    build,
    evaluate,
    resnet,
    train,
)
from ntklc_helpers.states import training_seconds


def data(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 4, 4, generator=generator), torch.arange(n) % 3


def weights(net):
    return [m.weight.detach() for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def test_lenet_has_its_266_610_parameters():
    net = build("lenet_300_100", (1, 28, 28), 10, 16, seed=0)
    assert sum(p.numel() for p in net.parameters()) == 266_610
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85)])
def test_resnets_have_the_published_number_of_parameters(depth, millions):
    # He et al., table 6; our 1 × 1 convolutions in two shortcuts add 0.003.
    net = resnet(depth, (3, 32, 32))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.009)


def test_resnet_halves_the_image_twice_and_knows_no_size():
    net = resnet(8, (3, 32, 32), n_classes=7, width=4).eval()
    assert net[:4](torch.zeros(1, 3, 32, 32)).shape == (1, 4, 32, 32)
    assert net[:6](torch.zeros(1, 3, 32, 32)).shape == (1, 16, 8, 8)
    assert net(torch.zeros(2, 3, 20, 20)).shape == (2, 7)


def test_a_block_of_zeros_is_its_shortcut():
    block, x = ResidualBlock(3, 3, 1).eval(), torch.rand(2, 3, 5, 5)
    with torch.no_grad():
        block.body[3].weight.zero_()
        torch.testing.assert_close(block(x), x)


def test_weights_are_he_normal_and_of_their_seed():
    net, same, other = (build("resnet_8", (3, 32, 32), 10, 16, seed) for seed in (1, 1, 2))
    for W, again, another in zip(*map(weights, (net, same, other)), strict=True):
        assert torch.equal(W, again) and not torch.equal(W, another)
        fan_in = W[0].numel()
        assert W.square().mean() * fan_in == pytest.approx(2, rel=5 * (2 / W.numel()) ** 0.5)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build("resnet_8", (3, 32, 32), 10, 16, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_training_is_gradient_descent_with_a_falling_rate():
    X, y = data(12)
    training = Training(steps=3, batch_size=12, learning_rate=0.3, momentum=0.5, weight_decay=0.1)
    net = train(build("lenet_300_100", (1, 4, 4), 3, 16, seed=4), X, y, training, seed=0)
    plain = build("lenet_300_100", (1, 4, 4), 3, 16, seed=4)
    speed = [torch.zeros_like(p) for p in plain.parameters()]
    for rate in (0.3, 0.2, 0.1):
        gradients = torch.autograd.grad(F.cross_entropy(plain(X), y), list(plain.parameters()))
        with torch.no_grad():
            for p, v, g in zip(plain.parameters(), speed, gradients, strict=True):
                v.mul_(0.5).add_(g + 0.1 * p)
                p.sub_(rate * v)
    # One batch is the whole set, in another order: sums differ by rounding.
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_nesterov_label_smoothing_and_one_cycle():
    X, y = data(12)
    training = Training(
        steps=8, batch_size=12, learning_rate=0.3, momentum=0.5, weight_decay=0.1,
        schedule="one_cycle", warm_up=0.5, nesterov=True, label_smoothing=0.3,
    )  # fmt: skip
    net = train(build("lenet_300_100", (1, 4, 4), 3, 16, seed=4), X, y, training, seed=0)
    plain = build("lenet_300_100", (1, 4, 4), 3, 16, seed=4)
    speed = [torch.zeros_like(p) for p in plain.parameters()]
    # From 0.3/25 up to 0.3 at step 3 (counted from 0), then down to 0.3/250,000 at the last.
    low, high, least = 0.3 / 25, 0.3, 0.3 / 25 / 1e4
    up = [high + (low - high) * (1 + math.cos(math.pi * k / 3)) / 2 for k in range(3)]
    down = [least + (high - least) * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]
    for rate in up + down:
        logs = F.log_softmax(plain(X), 1)
        chosen = logs.gather(1, y[:, None]).mean()
        loss = -0.7 * chosen - 0.3 * logs.mean()
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        with torch.no_grad():
            for p, v, g in zip(plain.parameters(), speed, gradients, strict=True):
                g = g + 0.1 * p
                v.mul_(0.5).add_(g)
                p.sub_(rate * (g + 0.5 * v))
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_autocast_and_channels_last():
    X, y = data(12)
    start = build("resnet_8", (1, 4, 4), 3, 4, seed=4)
    plain = train(start, X, y, Training(steps=3, batch_size=4), seed=0)
    last = build("resnet_8", (1, 4, 4), 3, 4, seed=4)
    train(last, X, y, Training(steps=3, batch_size=4, channels_last=True), seed=0)
    convolution = last[3].body[0].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    for p, q in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    seen = []
    low = build("resnet_8", (1, 4, 4), 3, 4, seed=4)
    low[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    train(low, X, y, Training(steps=3, batch_size=4, autocast="bfloat16"), seed=0)
    assert seen == [torch.bfloat16] * 3 and convolution.dtype == torch.float32
    assert not torch.equal(low[0].weight, plain[0].weight)


# --- stopped and called again

RESUMED = Training(
    steps=10, batch_size=10, learning_rate=0.05, augment=True, weight_decay=0.01, nesterov=True
)


def fresh(seed=2):
    return build("resnet_8", (1, 4, 4), 3, 2, seed)


@pytest.mark.parametrize("schedule", ["linear", "one_cycle"])
def test_a_stopped_training_ends_with_the_very_same_weights(schedule, tmp_path, monkeypatch):
    X, y = data(40)
    training, calls = replace(RESUMED, schedule=schedule), 0
    whole = train(fresh(), X, y, training, seed=1)

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls in (2, 8, 9):
            raise KeyboardInterrupt
        return augmented(*arguments)

    monkeypatch.setattr(classifiers, "augmented", interrupted)
    path = tmp_path / "state.safetensors"
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(fresh(), X, y, training, seed=1, checkpoint=path)
    net = train(fresh(), X, y, training, seed=1, checkpoint=path)
    # Stopped in steps 1, 6 and 4; epochs of 4 steps are kept, and the two steps of the last.
    assert calls == 2 + 6 + 1 + 6
    for name, value in whole.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    # Called once more, it has nothing to do but to read.
    again = train(fresh(), X, y, training, seed=1, checkpoint=path)
    assert calls == 15 and 0 < training_seconds(path) < 60
    assert torch.equal(again[-1].weight, whole[-1].weight)


def test_states_of_other_trainings_and_damaged_ones_are_refused(tmp_path):
    X, y = data(40)
    path = tmp_path / "state.safetensors"
    train(fresh(), X, y, replace(RESUMED, steps=4), seed=1, checkpoint=path)
    kept = path.read_bytes()

    def refused(message, net=None, X=X, seed=1, steps=4):
        training = replace(RESUMED, steps=steps)
        with pytest.raises(ValueError, match=message):
            train(net or fresh(), X, y, training, seed, checkpoint=path)
        assert path.read_bytes() == kept

    refused("is the state of another training: steps is 4 there and 5 here", steps=5)
    refused("another training: seed is 1 there and 2 here", seed=2)
    refused("another training: weights is ", net=fresh(seed=3))
    refused("another training: data is ", X=X + 1)
    kept = bytearray(kept)
    kept[-1] ^= 1
    path.write_bytes(kept)
    refused("state.safetensors is damaged .*delete it to train anew")


def test_an_epoch_shows_every_image_once():
    shown = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            shown.append(x[:, 0, 0, 0].tolist())
            return x.flatten(1)[:, :3] * self.scale

    X, y = data(10)
    X[:, 0, 0, 0] = torch.arange(10.0)
    train(Spy(), X, y, Training(steps=10, batch_size=2), seed=3)
    first, second = (sorted(sum(shown[k : k + 5], [])) for k in (0, 5))
    assert first == second == list(range(10))
    assert shown[:5] != shown[5:]


def test_augmentation_shifts_and_mirrors():
    X = torch.zeros(400, 2, 9, 9)
    X[:, :, 4, 3] = 1
    moved = augmented(X, torch.Generator().manual_seed(0), border=2)
    assert moved.shape == X.shape and moved.sum() == X.sum()
    assert torch.equal(moved[:, 0], moved[:, 1])
    rows, columns = moved[:, 0].nonzero()[:, 1:].T
    # The pixel at column 3 is at 5 in the mirror; both move by 2 at most.
    assert set(rows.tolist()) == {2, 3, 4, 5, 6} and set(columns.tolist()) == set(range(1, 8))
    assert columns.double().mean() == pytest.approx(4, abs=5 * 3**0.5 / 20)


def test_evaluation_is_of_all_images(monkeypatch):
    X, y = data(25)
    net = build("lenet_300_100", (1, 4, 4), 3, 16, seed=0)
    monkeypatch.setattr("ntklc_helpers.classifiers._BATCH", 7)
    accuracy, loss = evaluate(net, X, y)
    scores = net(X)
    assert accuracy == pytest.approx((scores.argmax(1) == y).double().mean().item())
    assert loss == pytest.approx(F.cross_entropy(scores, y).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a positive whole number"),
        ({"batch_size": -1}, "batch_size must be a positive whole number"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"schedule": "step"}, "schedule must be 'linear' or 'one_cycle', got 'step'"),
        ({"warm_up": 1.0}, r"warm_up must be in \(0, 1\), got 1.0"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"autocast": "float16"}, "autocast must be None or 'bfloat16', got 'float16'"),
    ],
)
def test_bad_training_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        Training(**options)


def test_a_batch_larger_than_the_data_is_refused():
    X, y = data(10)
    net = build("lenet_300_100", (1, 4, 4), 3, 16, seed=0)
    with pytest.raises(ValueError, match="batch_size must be at most 10"):
        train(net, X, y, Training(batch_size=11), seed=0)
