"""Classifiers of images: LeNet-300-100, ResNets of depth 6n + 2 and VGG networks; their training.

Initial weights and the order of the data come from seeds that are arguments; torch's global
generator is neither read nor set.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from .states import TrainingState, digest
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
    """Stochastic gradient descent on the cross-entropy, under a schedule of the learning rate.

    Attributes
    ----------
    steps, batch_size : int
    learning_rate : float
        The highest.
    momentum, weight_decay : float
    augment : bool
        Mirror images at random, and shift them by up to 4 pixels over a border of zeros.
    schedule : "linear" or "one_cycle"
        "linear": from the highest rate to zero. "one_cycle": up from 1/25 of it over the share
        ``warm_up`` of the steps, and down to nearly zero, each along half a cosine.
    warm_up : float
        In (0, 1); for "one_cycle" only.
    nesterov : bool
        Nesterov's momentum.
    label_smoothing : float
        In [0, 1): the share of each target that is spread evenly over the classes.
    autocast : "bfloat16", optional
        In what products are taken; weights and sums stay in float32. In float32 by default.
    channels_last : bool
        Hold images and weights with the channels as the fastest index, as GPUs like it.
    compile : bool
        Compile the network where it is trained on CUDA; this takes a C compiler there.
    """

    steps: int = 938
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    augment: bool = False
    schedule: str = "linear"
    warm_up: float = 0.25
    nesterov: bool = False
    label_smoothing: float = 0.0
    autocast: str | None = None
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        positive_integer("steps", self.steps)
        positive_integer("batch_size", self.batch_size)
        positive("learning_rate", self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay!r}")
        if self.schedule not in ("linear", "one_cycle"):
            raise ValueError(f"schedule must be 'linear' or 'one_cycle', got {self.schedule!r}")
        if not 0 < self.warm_up < 1:
            raise ValueError(f"warm_up must be in (0, 1), got {self.warm_up!r}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing!r}")
        if self.autocast not in (None, "bfloat16"):
            raise ValueError(f"autocast must be None or 'bfloat16', got {self.autocast!r}")

    def rates(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """The schedule, on an optimizer that begins."""
        if self.schedule == "linear":
            return LinearLR(optimizer, 1, 0, self.steps)
        return OneCycleLR(
            optimizer, self.learning_rate, self.steps, pct_start=self.warm_up, cycle_momentum=False
        )


def train(
    net: nn.Module,
    X: torch.Tensor,
    y: torch.Tensor,
    training: Training,
    seed: int,
    *,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train in place, on images X (n, c, h, w) and labels y (n,) on the network's device.

    Batches run through a fresh permutation in every epoch; a last incomplete one is left out.

    Parameters
    ----------
    checkpoint : path, optional
        Where the state is kept after every epoch. Where there is a file, training goes on from it;
        on the CPU, with as many threads as before, it then ends with the very weights of a training
        that was not stopped.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If a batch is larger than the data, or the checkpoint is damaged or that of a training with
        other settings, first weights or data.
    """
    if training.batch_size > len(X):
        raise ValueError(f"batch_size must be at most {len(X)}, the number of images")
    generator = torch.Generator().manual_seed(seed)
    per_epoch = len(X) // training.batch_size
    settings = None if checkpoint is None else _identity(net, X, y, training, seed)
    if training.channels_last:
        nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
        X = X.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(),
        training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        nesterov=training.nesterov,
    )
    schedule = training.rates(optimizer)
    state, first = None, 0
    if checkpoint is not None and settings is not None:
        state = TrainingState(checkpoint, settings, net, optimizer, schedule, generator)
        first = state.read()
    net.train()
    device, low = X.device.type, training.autocast == "bfloat16"
    model = torch.compile(net) if training.compile and device == "cuda" else net
    # Without progress; with it, what the environment says of bars holds.
    quiet = {} if progress else {"disable": True}
    left = range(first, training.steps)
    bar = tqdm(left, "training", training.steps, leave=False, initial=first, **quiet)
    for step in bar:
        place = step % per_epoch
        if place == 0:
            order = torch.randperm(len(X), generator=generator).to(X.device)
        rows = order[place * training.batch_size :][: training.batch_size]
        images = augmented(X[rows], generator) if training.augment else X[rows]
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=low):
            loss = F.cross_entropy(model(images), y[rows], label_smoothing=training.label_smoothing)
        loss.backward()
        optimizer.step()
        schedule.step()
        if state is not None and (place == per_epoch - 1 or step == training.steps - 1):
            state.write(step + 1)
    return net


def _identity(
    net: nn.Module, X: torch.Tensor, y: torch.Tensor, training: Training, seed: int
) -> dict[str, Any]:
    """What decides how a training ends, but for the device."""
    weights = digest(*net.state_dict().values())
    return asdict(training) | {"seed": seed, "weights": weights, "data": digest(X, y)}


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
