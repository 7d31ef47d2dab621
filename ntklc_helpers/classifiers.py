"""Classifiers of images: LeNet-300-100, ResNets of depth 6n + 2 and VGG networks; their training.

Initial weights and the order of the data come from seeds that are arguments; torch's global
generator is neither read nor set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .validation import positive, positive_integer
from .vgg import PLANS, vgg

_BATCH = 1000  # images at once where no gradient is needed


def lenet_300_100(shape: tuple[int, int, int], n_classes: int = 10) -> nn.Sequential:
    """LeNet-300-100 (LeCun et al., 1998): hidden layers of 300 and 100 units, ReLU."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, n_classes),
    )


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut; 1 × 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(
    depth: int, shape: tuple[int, int, int], n_classes: int = 10, width: int = 16
) -> nn.Sequential:
    """The ResNet of He et al. (2016, section 4.2) for small images, of depth 6n + 2.

    Three stages of n blocks with ``width``, 2 ``width`` and 4 ``width`` channels, batch
    normalisation, a global average and a linear layer. ``depth`` counts the layers of weights
    along the longest path.

    Raises
    ------
    ValueError
        If ``depth`` is not 6n + 2 with n at least 1, or ``width`` is not positive.
    """
    blocks, rest = divmod(positive_integer("depth", depth) - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 6n + 2 with n = 1, 2, …, got {depth}")
    inputs = positive_integer("width", width)
    layers = [nn.Conv2d(shape[0], inputs, 3, padding=1, bias=False), nn.BatchNorm2d(inputs)]
    layers.append(nn.ReLU())
    for stage in range(3):
        outputs = width * 2**stage
        for block in range(blocks):
            layers.append(ResidualBlock(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, n_classes)]
    return nn.Sequential(*layers, *head)


def build(
    network: str, shape: tuple[int, int, int], n_classes: int, width: int, seed: int
) -> nn.Sequential:
    """A network by its name, with He-normal weights (fan-in, gain √2) and zero biases.

    Parameters
    ----------
    network : str
        ``"lenet_300_100"``, ``"resnet_D"`` with D = 6n + 2, or a name in ``vgg.PLANS``.
    shape : (channels, height, width) of an image
    n_classes : int
    width : int
        Channels of a ResNet's first stage.
    seed : int
        Of the weights, which are drawn on the CPU whatever the device.

    Raises
    ------
    ValueError
        If the name is unknown, ``resnet`` refuses the depth, or ``vgg`` the shape.
    """
    depth = re.fullmatch(r"resnet_(\d+)", network)
    if not depth and network not in ("lenet_300_100", *PLANS):
        known = f"lenet_300_100, resnet_D, {', '.join(PLANS)}"
        raise ValueError(f"network must be one of {known}, got {network!r}")
    # Layers draw weights of their own from the global generator as they are made.
    with torch.random.fork_rng(devices=[]):
        if depth:
            net = resnet(int(depth[1]), shape, n_classes, width)
        elif network in PLANS:
            net = vgg(network, shape, n_classes)
        else:
            net = lenet_300_100(shape, n_classes)
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return net


@dataclass(frozen=True)
class Training:
    """Stochastic gradient descent on the cross-entropy, with a rate that falls linearly to zero.

    Attributes
    ----------
    steps, batch_size : int
    learning_rate : float
        Of the first step.
    momentum, weight_decay : float
    augment : bool
        Mirror images at random, and shift them by up to 4 pixels over a border of zeros.
    """

    steps: int = 938
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    augment: bool = False

    def __post_init__(self) -> None:
        positive_integer("steps", self.steps)
        positive_integer("batch_size", self.batch_size)
        positive("learning_rate", self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay!r}")


def train(
    net: nn.Module, X: torch.Tensor, y: torch.Tensor, training: Training, seed: int
) -> nn.Module:
    """Train in place, on images X (n, c, h, w) and labels y (n,) on the network's device.

    Batches run through a fresh permutation in every epoch; a last incomplete one is left out.

    Raises
    ------
    ValueError
        If a batch is larger than the data.
    """
    if training.batch_size > len(X):
        raise ValueError(f"batch_size must be at most {len(X)}, the number of images")
    generator = torch.Generator().manual_seed(seed)
    per_epoch = len(X) // training.batch_size
    optimizer = torch.optim.SGD(
        net.parameters(),
        training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, training.steps)
    net.train()
    for step in range(training.steps):
        place = step % per_epoch
        if place == 0:
            order = torch.randperm(len(X), generator=generator).to(X.device)
        rows = order[place * training.batch_size :][: training.batch_size]
        images = augmented(X[rows], generator) if training.augment else X[rows]
        optimizer.zero_grad()
        F.cross_entropy(net(images), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return net


def augmented(X: torch.Tensor, generator: torch.Generator, border: int = 4) -> torch.Tensor:
    """Each image mirrored with probability ½ and shifted by up to ``border`` pixels each way."""
    n, _, height, width = X.shape
    padded = F.pad(X, [border] * 4)
    top, left = torch.randint(2 * border + 1, (2, n, 1), generator=generator)
    columns = left + torch.arange(width)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns[mirrored] = columns[mirrored].flip(1)
    rows = (top + torch.arange(height)).to(X.device)[:, :, None]
    columns = columns.to(X.device)[:, None, :]
    image = torch.arange(n, device=X.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


def evaluate(net: nn.Module, X: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Share of images classified correctly, and mean cross-entropy in nats."""
    net.eval()
    with torch.no_grad():
        scores = torch.cat([net(rows) for rows in X.split(_BATCH)])
        loss = F.cross_entropy(scores, y).item()
        return (scores.argmax(1) == y).double().mean().item(), loss
