"""Small networks of every kind, on scikit-learn's digits in bytes."""

import numpy as np
import torch
from torch import nn

import ntklc_helpers as nh
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
