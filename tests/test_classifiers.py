"""Classifiers: shapes, initial weights, the step of gradient descent, augmentation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ntklc_helpers.classifiers import (
    ResidualBlock,
    Training,
    augmented,
    build,
    evaluate,
    resnet,
    train,
)


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
