"""Small networks of every kind, on scikit-learn's digits in bytes."""

import numpy as np
import torch
from torch import nn

import ntklc_helpers as nh
from ntklc_helpers.compression import ConvertedNetwork, Readout
from ntklc_helpers.compression.operations import Affine, Plain, Step, Window
from ntklc_helpers.experiments.image_nets import vgg

train, test = nh.load_digits(split="train"), nh.load_digits(split="test")
# Pixels are of 17 grey levels; these are the bytes, and what one stands for.
BYTES, TRAIN_BYTES = (np.rint(16 * part.X).astype(np.uint8) for part in (test, train))
LOW, STEP = -0.1875, 0.046875


def inputs(u, low=LOW, step=STEP):
    return low + step * u.astype(np.float64)


def images(u):
    return inputs(u).astype(np.float32).reshape(-1, 1, 8, 8)


def random_network(widths, levels, sparsity, dtype="int8", seed=0):
    X = inputs(TRAIN_BYTES)
    tau = float(np.sqrt((X**2).sum(1).mean()))
    net = nh.RandomMLP(64, widths, ["relu"] * len(widths), tau0=tau)
    small = nh.compress(net, X, levels=levels, sparsity=sparsity, seed=seed)
    return small.fit_readout(X, train.labels, dtype=dtype)


def layered(layers, scaling=None, K=3):
    """These layers, and a readout drawn at random."""
    weights = np.random.default_rng(0).standard_normal((layers[-1].weights.shape[0], K))
    readout = Readout.from_weights(weights, np.zeros(K), range(K))
    return nh.CompressedNetwork(layers, readout, scaling=scaling)


def trained(net, steps=25):
    torch.manual_seed(0)
    X, y = torch.from_numpy(images(TRAIN_BYTES)), torch.from_numpy(train.labels)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(steps):
        some = torch.randint(len(X), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(X[some]), y[some]).backward()
        optimiser.step()
    return net.eval()


def on_codes(net, **options):
    X = images(TRAIN_BYTES)
    return nh.compress(trained(nh.compression.prepare_qat(net, X, **options)), X)


class Branches(nn.Module):
    """All that a convolutional network may have beside plain layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        second = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3)
        self.second = nn.Sequential(second, nn.BatchNorm2d(6), nn.ReLU())
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 10))

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.second(x))


class Means(nn.Module):
    """Means in place of maxima, and an activation of a sum."""

    def __init__(self):
        super().__init__()
        first = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
        self.first, self.last = nn.Sequential(*first), nn.Linear(6, 10)
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.third = nn.ReLU()

    def forward(self, x):
        x = self.first(x)
        return self.last(self.third(x + self.second(x)).mean((2, 3)))


def residual():
    return vgg((6, "M", "R", 8, "A", "G"), (1, 8, 8))


def strided():
    return vgg(("D", 5, 6, "M", "R"), (1, 8, 8))


def connected():
    return vgg(("A", "F", 20, 12), (1, 8, 8))


def maximum_first():
    parts = (
        nn.Conv2d(1, 6, 3, stride=2),
        nn.MaxPool2d((3, 2)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, 10),
    )
    return nn.Sequential(*parts)


SHAPES = {
    "residual": residual, "strided": strided, "connected": connected, "branches": Branches,
    "means": Means,
    "maximum_first": maximum_first,
}  # fmt: skip


def one_pool(rng):
    """Options of a pool, by no means always possible, and whether it is one of averages."""
    averages = bool(rng.integers(2))
    pair = lambda low, high: [int(k) for k in rng.integers(low, high, 2)]  # noqa: E731
    options = {"kernel_size": pair(1, 5), "padding": pair(0, 3)}
    options["stride"] = [None, int(rng.integers(1, 4)), pair(1, 4)][rng.integers(3)]
    options["ceil_mode"] = bool(rng.integers(2))
    if averages:
        options["count_include_pad"] = bool(rng.integers(2))
        options["divisor_override"] = [None, 2, 8][rng.integers(3)]
    else:
        options["dilation"] = pair(1, 4)
    return Plain("avg_pool2d" if averages else "max_pool2d", options)


def one_window(rng):
    pair = lambda low, high: tuple(int(k) for k in rng.integers(low, high, 2))  # noqa: E731
    return Window(pair(1, 4), pair(0, 4), pair(1, 4), int(rng.integers(1, 4)))


def one_network(rng):
    """A convolution, a pool and an adaptive one that give 2 × 3 numbers to the last layer."""
    window = one_window(rng)
    shape = (2 * window.groups, int(rng.integers(1, 3)), *(int(k) for k in rng.integers(1, 4, 2)))
    codes = rng.integers(-4, 4, shape).astype(np.int8)
    ones = np.ones(shape[0], np.float32)
    kind = "adaptive_avg_pool2d" if rng.integers(2) else "adaptive_max_pool2d"
    last = Affine(
        rng.integers(-8, 8, (2, 6 * shape[0])).astype(np.int8), *np.ones((2, 2), np.float32), 4
    )
    operations = [
        *(Affine(codes, ones, ones, 3, window), one_pool(rng)),
        *(Plain(kind, {"output_size": [2, 3]}), Plain("flatten"), last),
    ]
    steps = [Step(operation, (i,)) for i, operation in enumerate(operations)]
    sides = tuple(int(k) for k in rng.integers(4, 9, 2))
    return ConvertedNetwork(steps, (shape[1] * window.groups, *sides), np.arange(2))
