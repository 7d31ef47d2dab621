"""Networks for images: their sizes, first weights, training, stopped and called again, features."""

import math

import numpy as np
import pytest
import torch
from attrs import evolve
from torch import nn
from torch.nn import functional as F

from ntklc_helpers.compression.train import load_state
from ntklc_helpers.experiments.image_nets import (
    PLANS,
    ResidualBlock,
    TrainingSettings,
    architecture,
    augmented,
    build,
    convolutional_features,
    resnet,
    train,
    vgg,
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
    training = TrainingSettings(
        steps=3, batch_size=12, learning_rate=0.3, momentum=0.5, weight_decay=0.1
    )
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
    training = TrainingSettings(
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
    plain = train(start, X, y, TrainingSettings(steps=3, batch_size=4), seed=0)
    last = build("resnet_8", (1, 4, 4), 3, 4, seed=4)
    train(last, X, y, TrainingSettings(steps=3, batch_size=4, channels_last=True), seed=0)
    convolution = last[3].body[0].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    for p, q in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    seen = []
    low = build("resnet_8", (1, 4, 4), 3, 4, seed=4)
    low[0].register_forward_hook(
        lambda module, _, out: seen.append(out.dtype) if module.training else None
    )
    train(low, X, y, TrainingSettings(steps=3, batch_size=4, autocast="bfloat16"), seed=0)
    assert seen == [torch.bfloat16] * 3 and convolution.dtype == torch.float32
    assert not torch.equal(low[0].weight, plain[0].weight)


# --- stopped and called again

RESUMED = TrainingSettings(
    steps=10, batch_size=10, learning_rate=0.05, augment=True, weight_decay=0.01, nesterov=True
)


def fresh(seed=2):
    return build("resnet_8", (1, 4, 4), 3, 2, seed)


def stopping(net, at):
    """Stop in these steps, counted from 1; what is counted is in the list returned."""
    steps = []

    def count(module, inputs):
        if module.training:
            steps.append(len(steps) + 1)
            if len(steps) in at:
                raise KeyboardInterrupt

    net.register_forward_pre_hook(count)
    return steps


@pytest.mark.parametrize(
    "change",
    [{}, {"schedule": "one_cycle"}, {"schedule": "one_cycle", "channels_last": True}],
)
def test_a_stopped_training_ends_with_the_very_same_weights(change, tmp_path):
    X, y = data(40)
    training, path = evolve(RESUMED, **change), tmp_path / "state.pt"
    whole = train(fresh(), X, y, training, seed=1)
    # Epochs of 4 steps are kept, and the two steps of the last.
    for at, done in ((2, 0), (6, 4), (1, 4)):
        net = fresh()
        steps = stopping(net, [at])
        with pytest.raises(KeyboardInterrupt):
            train(net, X, y, training, seed=1, checkpoint=path)
        assert len(steps) == at and (load_state(path)["step"] if done else 0) == done
    net = fresh()
    steps = stopping(net, [])
    train(net, X, y, training, seed=1, checkpoint=path)
    assert len(steps) == 6
    for name, value in whole.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    # Called once more, it has nothing to do but to read.
    again = fresh()
    steps = stopping(again, [])
    train(again, X, y, training, seed=1, checkpoint=path)
    assert not steps and 0 < load_state(path)["seconds"] < 60
    assert torch.equal(again[-1].weight, whole[-1].weight)


def test_states_of_other_trainings_and_damaged_ones_are_refused(tmp_path):
    X, y = data(40)
    path = tmp_path / "state.pt"
    train(fresh(), X, y, evolve(RESUMED, steps=4), seed=1, checkpoint=path)
    kept = path.read_bytes()

    def refused(message, net=None, X=X, seed=1, steps=4):
        training = evolve(RESUMED, steps=steps)
        with pytest.raises(ValueError, match=message):
            train(net or fresh(), X, y, training, seed, checkpoint=path)
        assert path.read_bytes() == kept

    refused("is the state of another training: steps is 4 there and 5 here", steps=5)
    refused("another training: seed is 1 there and 2 here", seed=2)
    refused("another training: weights is ", net=fresh(seed=3))
    refused("another training: data is ", X=X + 1)
    for damaged in (kept[:-1], kept[:-1] + bytes([kept[-1] ^ 1]), b"", b"not a state"):
        kept = damaged
        path.write_bytes(kept)
        refused("state.pt is damaged, or not the state of a training; delete it to train anew")


def test_an_epoch_shows_every_image_once():
    shown = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            if self.training:
                shown.append(x[:, 0, 0, 0].tolist())
            return x.flatten(1)[:, :3] * self.scale

    X, y = data(10)
    X[:, 0, 0, 0] = torch.arange(10.0)
    train(Spy(), X, y, TrainingSettings(steps=10, batch_size=2), seed=3)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"batch_size": -1}, "batch_size must be a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"schedule": "step"}, "schedule must be one of linear, one_cycle, got 'step'"),
        ({"warm_up": 1.0}, r"warm_up must be a number in \(0, 1\), got 1.0"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"learning_rate": "0.1"}, "learning_rate must be a positive finite number"),
        ({"weight_decay": float("nan")}, "weight_decay must be "),
        ({"autocast": "float16"}, "autocast must be None or 'bfloat16', got 'float16'"),
    ],
)
def test_bad_training_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**options)


def test_settings_are_values_and_take_numbers_of_numpy():
    one = TrainingSettings(steps=np.int64(5), learning_rate=np.float32(0.5))
    assert one == TrainingSettings(steps=5, learning_rate=0.5) != TrainingSettings()
    assert type(one.steps) is int and type(one.learning_rate) is float


def test_a_batch_larger_than_the_data_is_refused():
    X, y = data(10)
    net = build("lenet_300_100", (1, 4, 4), 3, 16, seed=0)
    with pytest.raises(ValueError, match="batch_size must be at most 10"):
        train(net, X, y, TrainingSettings(batch_size=11), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.full((10,), 44)}, "y must be whole numbers among the classes 0 to 2"),
        ({"y": -torch.ones(10, dtype=torch.int64)}, "y must be whole numbers among the classes"),
        ({"y": torch.zeros(9, dtype=torch.int64)}, r"y must have shape \(10,\)"),
        ({"X": torch.zeros(10, 2, 4, 4)}, r"X, of shape \(1, 2, 4, 4\), must fit the network"),
        ({"X": torch.full((10, 1, 4, 4), torch.nan)}, "X must be finite"),
        ({"X": torch.zeros(10, 16)}, "X must have 4 dimension"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_trained(change, message):
    X, y = data(10)
    net = build("lenet_300_100", (1, 4, 4), 3, 16, seed=0)
    before = [W.clone() for W in weights(net)]
    arguments = {"X": X, "y": y, "training": TrainingSettings(batch_size=5), "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        train(net, **arguments)
    assert all(torch.equal(W, was) for W, was in zip(weights(net), before, strict=True))


def test_arrays_are_images_and_labels_too():
    X, y = data(20)
    nets = [build("vgg_tiny", (1, 8, 8), 3, 16, seed=0) for _ in range(2)]
    X = X.repeat(1, 1, 2, 2)
    given = ((X, y), (X.double().numpy(), y.tolist()))
    for net, (images, labels) in zip(nets, given, strict=True):
        train(net, images, labels, TrainingSettings(steps=4, batch_size=10), seed=np.int64(1))
    for W, same in zip(*map(weights, nets), strict=True):
        assert torch.equal(W, same)
    expected = convolutional_features(nets[0], X)
    for images in (X.numpy(), X.tolist(), X.double(), X.clone().requires_grad_()):
        assert np.array_equal(convolutional_features(nets[0], images), expected)


# --- VGG networks and their features


def test_vgg19_has_19_layers_of_weights_and_the_published_convolutions():
    net = build("vgg19", (3, 32, 32), 10, 16, seed=0)
    layers = [m for m in net if isinstance(m, nn.Conv2d | nn.Linear)]
    # Two fully-connected layers of the original's three are gone.
    assert len(layers) == 19 - 2 and sum(m == "M" for m in PLANS["vgg19"]) == 5
    # Its convolutions without biases: 20,018,880; two normalisation parameters for 5,504 channels.
    assert sum(m.weight.numel() for m in layers[:-1]) == 20_018_880
    assert sum(p.numel() for p in net.parameters()) == 20_018_880 + 2 * 5_504 + 512 * 10 + 10
    assert net[-1].in_features == 512 and isinstance(net[-2], nn.Flatten)


@pytest.mark.parametrize("name", PLANS)
def test_plans_take_the_images_of_cifar10(name):
    net = vgg(name, (3, 32, 32), n_classes=7)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_features_are_what_the_last_layer_gets():
    net = vgg((3, "M", 5), (2, 9, 7), n_classes=4)
    X = torch.randn(11, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    net(X)  # the running statistics are no longer those of the start
    features = convolutional_features(net, X, batch_size=4)
    assert features.shape == (11, 5 * 4 * 3) and features.dtype == np.float64
    assert net.training
    net.eval()
    with torch.no_grad():
        scores = torch.from_numpy(features).float() @ net[-1].weight.T + net[-1].bias
        torch.testing.assert_close(scores, net(X))
    # Of 11 alone or in batches of 4: convolutions may sum in another order.
    np.testing.assert_allclose(convolutional_features(net, X), features, rtol=1e-4, atol=1e-6)
    assert not net.training


def test_an_architecture_can_be_checked_without_memory():
    with torch.device("meta"):
        net = architecture("vgg19", (3, 32, 32), 10, 16)
        assert net[-1].weight.is_meta and net[-1].in_features == 512
        with pytest.raises(ValueError, match=r"shape \(1, 8, 8\) is too small"):
            architecture("vgg19", (1, 8, 8), 10, 16)


def test_a_plan_has_letters_for_all_that_is_no_convolution():
    """Of each letter what it does to an image's sides, and that a pair adds to what it is given."""
    net = vgg((4, "M", "R", "A", "D", 6, "G"), (3, 32, 32))
    shapes, x = [], torch.randn(2, 3, 32, 32)
    for part in net[:-2]:
        x = part(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes[3:] == [(4, 16, 16), (4, 16, 16), (4, 8, 8), *[(6, 4, 4)] * 3, (6, 1, 1)]
    x = torch.randn(2, 4, 16, 16)
    assert (net[4].eval()(x) >= x).all()
    flat = vgg(("A", "F", 7), (1, 28, 28))
    assert [layer.in_features for layer in flat if hasattr(layer, "in_features")] == [196, 7]


def test_what_cannot_be_built_is_named():
    with pytest.raises(ValueError, match="plan must be one of vgg19, .*, got 'vgg20'"):
        vgg("vgg20", (3, 32, 32))
    with pytest.raises(
        ValueError, match="plan, but for letters, must be a whole number of at least 1, got 'X'"
    ):
        vgg((8, "X"), (3, 32, 32))
    with pytest.raises(ValueError, match="plan must have widths alone after 'F', got 'R'"):
        vgg((8, "F", 4, "R"), (3, 32, 32))
    with pytest.raises(
        ValueError, match="plan, but for letters, must be a whole number of at least 1, got 0"
    ):
        vgg((0,), (3, 32, 32))
    with pytest.raises(ValueError, match=r"shape \(1, 28, 28\) is too small"):
        vgg("vgg19", (1, 28, 28))
    with pytest.raises(TypeError, match="net must be a torch.nn.Sequential that ends in a Linear"):
        convolutional_features(nn.Sequential(nn.ReLU()), torch.zeros(1, 1, 2, 2))
    net = vgg((4,), (1, 2, 2))
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        convolutional_features(net, torch.zeros(1, 1, 2, 2), batch_size=0)
    with pytest.raises(ValueError, match=r"X, of shape \(1, 3, 2, 2\), must fit the network"):
        convolutional_features(net, np.zeros((1, 3, 2, 2)))
    with pytest.raises(ValueError, match="X must have 4 dimension"):
        convolutional_features(net, np.zeros((1, 4)))


def test_a_teacher_is_followed_where_labels_say_otherwise():
    """Labels are drawn at random: only the teacher tells what it would say."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 1, 8, 8, generator=generator)
    y = torch.randint(0, 3, (200,), generator=generator)
    teacher = build("vgg_tiny", (1, 8, 8), 3, 16, seed=5)
    settings = TrainingSettings(steps=60, batch_size=50)
    teacher.train()
    for _ in range(20):
        teacher(X)
    teacher.eval()
    said = teacher(X).argmax(1)
    alike = {}
    for given in (teacher, None):
        net = build("vgg_tiny", (1, 8, 8), 3, 16, seed=1)
        train(net, X, y, settings, 0, teacher=given)
        alike[given] = (net.eval()(X).argmax(1) == said).float().mean().item()
    assert alike[teacher] > 0.7 > alike[None] + 0.1
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
