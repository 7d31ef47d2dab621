"""Networks for images, their training by stochastic gradient descent, and the features they make.

Initial weights and the order of the data come from seeds that are arguments; torch's global
generator is neither read nor set.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from attrs import asdict, frozen
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR, LRScheduler, OneCycleLR

from .._checks import array, checked, inside, number, one_of, positive, share, whole
from ..compression.train import Loss, Network, State, descend, digest, label_tensor, outputs

__all__ = ["PLANS", "TrainingSettings", "build", "convolutional_features", "resnet", "train", "vgg"]

Shape = tuple[int, int, int]

# The share of what is minimised that a teacher tells, and how far probabilities are softened.
_TAUGHT, _TEMPERATURE = 0.9, 2.0

PLANS: dict[str, tuple[int | str, ...]] = {
    "vgg19": (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
    "vgg_small": (16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 256, "M"),
    "vgg_tiny": (8, "M", 16, "M", 32, "M"),
    "residual": (32, 64, "M", "R", 128, "M", 256, "M", "R", "G"),
    "residual_wide": (48, 96, "M", "R", 192, "M", 384, "M", "R", "G"),
}
"""Channels of each convolution, in order, and "M" where a maximum over 2 × 2 halves the image.

"R" is a residual pair of convolutions with the channels before it, "A" a mean over 2 × 2, "G" the
maximum over all places; the convolution after "D" is of 5 × 5 and moves by 2, and after "F" numbers
are widths of fully connected layers.

``vgg19`` has 16 convolutions and one linear layer, in place of the three that images of 224 × 224
pixels ask for; of 32 × 32 pixels it makes 512 features. ``vgg_small`` makes 256 and is
trained on two cores in minutes. ``vgg_tiny`` is for images of 8 × 8. ``residual`` makes 256 and
is trained on two cores in half an hour, ``residual_wide`` 384 in an hour and a quarter.
"""


def fully_connected(hidden: Sequence[int], shape: Shape, n_classes: int = 10) -> nn.Sequential:
    """Layers of those widths, ReLU between them, for images.

    Examples
    --------
    >>> fully_connected((30, 20), (1, 8, 8))[-1]
    Linear(in_features=20, out_features=10, bias=True)
    """
    sizes = [shape[0] * shape[1] * shape[2], *hidden]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], n_classes))


def lenet_300_100(shape: Shape, n_classes: int = 10) -> nn.Sequential:
    """LeNet-300-100 (LeCun et al., 1998): hidden layers of 300 and 100 units, ReLU."""
    return fully_connected((300, 100), shape, n_classes)


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the sides, or divides them by ``stride``, and a normalisation."""
    padding = size // 2
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def _linear(inputs: int, outputs: int) -> list[nn.Module]:
    """A layer and a normalisation."""
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)]


def vgg(plan: str | Sequence[int | str], shape: Shape, n_classes: int = 10) -> nn.Sequential:
    """A network of Simonyan and Zisserman (2015) for small images, with batch normalisation.

    ``plan`` is a name in ``PLANS``, or channel counts and letters as there; Flatten and Linear end
    it. Else as for :func:`build`, with torch's own weights. Raises
    ValueError for another plan, and one that halves the image more often than its sides allow.

    Examples
    --------
    >>> vgg([4, "M"], (3, 8, 8))[-1].in_features
    64
    """
    if isinstance(plan, str):
        plan = PLANS[one_of("plan", plan, PLANS)]
    channels, height, width = shape
    layers: list[nn.Module] = []
    flat, window = False, (3, 1)
    for entry in plan:
        if flat and isinstance(entry, str):
            raise ValueError(f"plan must have widths alone after 'F', got {entry!r}")
        if entry == "D":
            window = (5, 2)
        elif entry in ("M", "A"):
            layers.append(nn.MaxPool2d(2) if entry == "M" else nn.AvgPool2d(2))
            height, width = height // 2, width // 2
        elif entry == "R":
            layers.append(ResidualPair(channels))
        elif entry == "G":
            layers.append(nn.AdaptiveMaxPool2d(1))
            height, width = min(height, 1), min(width, 1)
        elif entry == "F":
            layers.append(nn.Flatten())
            channels, height, width, flat = channels * height * width, 1, 1, True
        else:
            size = whole("plan, but for letters,", entry)
            made = _linear(channels, size) if flat else _convolution(channels, size, *window)
            layers += [*made, nn.ReLU()]
            channels = size
            if not flat:
                height, width = -(-height // window[1]), -(-width // window[1])
            window = (3, 1)
        if not height * width * channels:
            raise ValueError(f"shape {tuple(shape)} is too small: the plan halves it to nothing")
    end = [] if flat else [nn.Flatten()]
    return nn.Sequential(*layers, *end, nn.Linear(channels * height * width, n_classes))


class ResidualPair(nn.Module):
    """A sum of x and two convolutions of it, each with its activation: what is added is positive.

    So the sum needs no activation of its own, and is of whole levels where they are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        parts = [(*_convolution(channels, channels), nn.ReLU()) for _ in range(2)]
        self.body = nn.Sequential(*parts[0], *parts[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut; 1 × 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = _convolution(inputs, outputs, 3, stride), _convolution(outputs, outputs)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*_convolution(inputs, outputs, 1, stride) if changes else ())
        self.last = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x) + self.shortcut(x))


def resnet(depth: int, shape: Shape, n_classes: int = 10, width: int = 16) -> nn.Sequential:
    """The ResNet of He et al. (2016, section 4.2) for small images, of depth 6n + 2.

    Three stages of n blocks with ``width``, 2 ``width`` and 4 ``width`` channels, batch
    normalisation, a global average and a linear layer. ``depth`` counts the layers of weights along
    the longest path. Else as for :func:`build`, with torch's own weights. Raises ValueError if the
    depth is not 6n + 2.

    Examples
    --------
    >>> resnet(8, (3, 32, 32), width=4)[-1].in_features
    16
    """
    blocks, rest = divmod(whole("depth", depth) - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 6n + 2 with n = 1, 2, …, got {depth}")
    inputs = width = whole("width", width)
    layers = [*_convolution(shape[0], inputs), nn.ReLU()]
    for stage in range(3):
        for block in range(blocks):
            layers.append(ResidualBlock(inputs, width * 2**stage, 2 if stage and not block else 1))
            inputs = width * 2**stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, n_classes)]
    return nn.Sequential(*layers)


def architecture(network: str, shape: Shape, n_classes: int, width: int) -> nn.Sequential:
    """A network by its name; arguments and errors as for :func:`build`, which gives it weights.

    Under ``torch.device("meta")`` it takes neither time nor memory, to see whether all fits.
    """
    if depth := re.fullmatch(r"resnet_(\d+)", str(network)):
        return resnet(int(depth[1]), shape, n_classes, width)
    if network == "lenet_300_100":
        return lenet_300_100(shape, n_classes)
    if network not in PLANS:
        known = f"lenet_300_100, resnet_D, {', '.join(PLANS)}"
        raise ValueError(f"network must be one of {known}, got {network!r}")
    return vgg(network, shape, n_classes)


def build(network: str, shape: Shape, n_classes: int, width: int, seed: int) -> nn.Sequential:
    """A network by its name, with He-normal weights (fan-in, gain √2) and zero biases.

    ``network`` is ``"lenet_300_100"``, ``"resnet_D"`` with D = 6n + 2, or a name in ``PLANS``;
    ``shape`` (channels, height, width) of an image; ``width`` the channels of a ResNet's first
    stage. Weights are drawn on the CPU. Raises ValueError if the name is unknown, :func:`resnet`
    refuses the depth, or :func:`vgg` the shape.

    Returns
    -------
    torch.nn.Sequential
        From images (n, c, h, w) to scores (n, K).

    Examples
    --------
    >>> from ntklc_helpers.experiments.image_nets import build
    >>> build("vgg_tiny", (3, 8, 8), 10, width=16, seed=0)[-1]
    Linear(in_features=32, out_features=10, bias=True)
    """
    with torch.device("meta"):
        net = architecture(network, shape, n_classes, width)
    return drawn(net, seed)


def drawn(net: nn.Sequential, seed: int) -> nn.Sequential:
    """A network made on torch's device "meta", with weights drawn as for :func:`build`."""
    generator = torch.Generator().manual_seed(whole("seed", seed, 0, 2**64 - 1))
    net.to_empty(device="cpu")
    for part in net.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.reset_parameters()
        elif isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return net


def _not_negative(argument: str, value: Any) -> float:
    if (found := number(argument, value, "a finite number of at least 0")) < 0:
        raise ValueError(f"{argument} must be at least 0, got {value!r}")
    return found


def _augment(argument: str, value: Any) -> bool | str:
    if value not in (True, False, "affine"):
        raise ValueError(f"{argument} must be True, False or 'affine', got {value!r}")
    return value


def _autocast(argument: str, value: Any) -> str | None:
    if value not in (None, "bfloat16"):
        raise ValueError(f"{argument} must be None or 'bfloat16', got {value!r}")
    return value


@frozen
class TrainingSettings:
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

    Examples
    --------
    >>> from ntklc_helpers.experiments.image_nets import TrainingSettings
    >>> TrainingSettings(momentum=1.0)
    Traceback (most recent call last):
    ValueError: momentum must be in [0, 1), got 1.0
    """

    steps: int = checked(whole, 938)
    batch_size: int = checked(whole, 128)
    learning_rate: float = checked(positive, 0.1)
    momentum: float = checked(share, 0.9)
    weight_decay: float = checked(_not_negative, 0.0)
    augment: bool | str = checked(_augment, False)
    schedule: str = checked(one_of, "linear", ("linear", "one_cycle"))
    warm_up: float = checked(inside, 0.25)
    nesterov: bool = False
    label_smoothing: float = checked(share, 0.0)
    autocast: str | None = checked(_autocast, None)
    channels_last: bool = False
    compile: bool = False

    def __attrs_post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")

    def rates(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """The schedule, on an optimizer that begins."""
        if self.schedule == "linear":
            return LinearLR(optimizer, 1, 0, self.steps)
        rate, up = self.learning_rate, self.warm_up
        return OneCycleLR(optimizer, rate, self.steps, pct_start=up, cycle_momentum=False)


def train(
    net: nn.Module,
    X: ArrayLike,
    y: ArrayLike,
    training: TrainingSettings,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train in place, on images X (n, c, h, w) and labels y (n,) on the network's device.

    With a ``teacher``, a trained network, what is minimised is for nine tenths the divergence from
    its probabilities on the same changed images, both at temperature 2 (G. Hinton, O. Vinyals and
    J. Dean, 2015, arXiv:1503.02531).

    Batches run through a fresh permutation in every epoch; a last incomplete one is left out. In
    ``checkpoint``, a path, the state is kept after every epoch, from which training goes on. Raises
    ValueError if images or labels do not fit the network, a batch is larger than the data, or the
    checkpoint is damaged or that of another training.

    Returns
    -------
    torch.nn.Module
        ``net``.

    Examples
    --------
    >>> from ntklc_helpers.experiments.image_nets import TrainingSettings, build, train
    >>> X, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 2
    >>> settings = TrainingSettings(steps=4, batch_size=10)
    >>> net = train(build("vgg_tiny", (1, 8, 8), 2, 16, seed=0), X, y, settings, seed=0)
    """
    X, seed = _images(X), whole("seed", seed, 0, 2**64 - 1)
    if training.batch_size > len(X):
        raise ValueError(f"batch_size must be at most {len(X)}, the number of images")
    y = label_tensor("y", y, len(X), outputs(net, X[:1]).shape[1]).to(X.device)
    generator = torch.Generator().manual_seed(seed)
    if training.channels_last:
        nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
        X = X.to(memory_format=torch.channels_last)
    options = {name: getattr(training, name) for name in ("momentum", "weight_decay", "nesterov")}
    optimizer = torch.optim.SGD(net.parameters(), training.learning_rate, **options)
    schedule = training.rates(optimizer)
    state = None
    if checkpoint is not None:
        about = {"weights": digest(*net.state_dict().values()), "data": digest(X, y)}
        parts = {"network": net, "optimizer": optimizer, "schedule": schedule}
        state = State(checkpoint, asdict(training) | {"seed": seed} | about, parts, generator)
    model = torch.compile(net) if training.compile and X.device.type == "cuda" else net
    epochs = descend(
        net, X, y, optimizer, schedule, steps=training.steps,
        per_epoch=len(X) // training.batch_size, batch_size=training.batch_size,
        generator=generator, loss_of=_loss(model, training, generator, teacher),
        state=state, progress=progress,
    )  # fmt: skip
    deque(epochs, maxlen=0)
    return net


def _loss(
    model: Network, training: TrainingSettings, generator: torch.Generator, teacher: Network | None
) -> Loss:
    """Of a batch of images, changed at random, and their labels."""
    low = training.autocast == "bfloat16"

    def loss_of(batch: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if training.augment:
            change = affinely_changed if training.augment == "affine" else augmented
            batch = change(batch, generator)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=low):
            scores = model(batch).float()
            wanted = None if teacher is None else outputs(teacher, batch).float()
        own = F.cross_entropy(scores, labels, label_smoothing=training.label_smoothing)
        if wanted is None:
            return own
        return (1 - _TAUGHT) * own + _TAUGHT * divergence(scores, wanted)

    return loss_of


def divergence(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean Kullback–Leibler divergence (nats) of softened softmax of scores (n, K) from others'.

    Times the temperature squared, so that gradients are as large as those of the cross-entropy.

    Examples
    --------
    >>> a, b = torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 4.0]])
    >>> divergence(a, b).item(), divergence(a, 2 * b).item() > 0
    (0.0, True)
    """
    own, other = (F.log_softmax(values / _TEMPERATURE, 1) for values in (scores, wanted))
    return _TEMPERATURE**2 * F.kl_div(own, other, log_target=True, reduction="batchmean")


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


def affinely_changed(
    X: torch.Tensor, generator: torch.Generator, turn: float = 0.2, stretch: float = 0.12
) -> torch.Tensor:
    """Each image turned, stretched and sheared at random, and shifted by up to 2 pixels each way.

    Angles (radians), shears and logarithms of the stretches are uniform, up to ``turn`` and
    ``stretch``; beyond its border an image goes on as there.
    """
    n = len(X)
    angle, shear, up, across, *shift = torch.rand(6, n, generator=generator) * 2 - 1
    cos, sin = torch.cos(turn * angle), torch.sin(turn * angle)
    up, across = torch.exp(stretch * up), torch.exp(stretch * across)
    across_rows = torch.stack([across * cos, across * (stretch * shear * cos - sin)])
    down_rows = torch.stack([up * sin, up * (stretch * shear * sin + cos)])
    sides = torch.tensor(X.shape[:1:-1], dtype=torch.float32)[:, None]
    moved = 4 * torch.stack(shift) / sides
    grid = torch.cat([across_rows, moved[:1], down_rows, moved[1:]]).T.reshape(n, 2, 3)
    places = F.affine_grid(grid, list(X.shape), align_corners=False).to(X)
    return F.grid_sample(X, places, padding_mode="border", align_corners=False)


def convolutional_features(
    net: nn.Sequential, X: ArrayLike, batch_size: int = 1000
) -> NDArray[np.float64]:
    """What a network gives to its last layer, a Linear, for images (n, c, h, w).

    The network is evaluated, not trained: normalisations use their running statistics. It stays
    in the mode it was in; batches go to its device.

    Returns
    -------
    (n, d) array

    Raises
    ------
    TypeError
        If ``net`` is not a Sequential that ends in a Linear.
    ValueError
        If X does not fit the network, or ``batch_size`` is not a positive whole number.

    Examples
    --------
    >>> from ntklc_helpers.experiments.image_nets import build, convolutional_features
    >>> net = build("vgg_tiny", (3, 8, 8), n_classes=10, width=16, seed=0)
    >>> convolutional_features(net, np.ones((5, 3, 8, 8))).shape
    (5, 32)
    """
    if not isinstance(net, nn.Sequential) or not len(net) or not isinstance(net[-1], nn.Linear):
        raise TypeError("net must be a torch.nn.Sequential that ends in a Linear")
    found = outputs(net[:-1], _images(X), whole("batch_size", batch_size))
    return found.double().cpu().numpy()


def _images(X: ArrayLike) -> torch.Tensor:
    """Images (n, c, h, w) as a tensor of finite numbers: one that is, as it is; else float32."""
    tensor = isinstance(X, torch.Tensor) and X.ndim == 4 and X.is_floating_point()
    if isinstance(X, torch.Tensor) and tensor and X.isfinite().all():
        return X.detach()
    return torch.from_numpy(array("X", X, 4)).float()
