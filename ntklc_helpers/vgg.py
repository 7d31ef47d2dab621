"""VGG networks for small images (Simonyan and Zisserman, 2015), and the features they make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .validation import positive_integer

Plan = Sequence[int | str]

PLANS: dict[str, tuple[int | str, ...]] = {
    "vgg19": (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
    "vgg_small": (16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 256, "M"),
    "vgg_tiny": (8, "M", 16, "M", 32, "M"),
}
"""Channels of each convolution, in order, and "M" where a maximum over 2 × 2 halves the image.

``vgg19`` has 16 convolutions and one linear layer, in place of the three that images of 224 × 224
pixels ask for; of 32 × 32 pixels it makes 512 features. ``vgg_small`` makes 256 and is
trained on two cores in minutes. ``vgg_tiny`` is for images of 8 × 8.
"""


def vgg(plan: str | Plan, shape: tuple[int, int, int], n_classes: int = 10) -> nn.Sequential:
    """Convolutions of 3 × 3, batch normalisation and ReLU by a plan; Flatten and Linear at the end.

    Parameters
    ----------
    plan : str or sequence
        A name in ``PLANS``, or channel counts and ``"M"``.
    shape : (channels, height, width) of an image
    n_classes : int

    Raises
    ------
    ValueError
        If the plan is unknown or holds something else, or halves the image more often than its
        sides allow.
    """
    if isinstance(plan, str):
        if plan not in PLANS:
            raise ValueError(f"plan must be one of {', '.join(PLANS)}, got {plan!r}")
        plan = PLANS[plan]
    channels, height, width = shape
    layers: list[nn.Module] = []
    for entry in plan:
        if entry == "M":
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
            continue
        if isinstance(entry, str):
            raise ValueError(f"plan must hold numbers of channels and 'M', got {entry!r}")
        outputs = positive_integer("plan", entry)
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        channels = outputs
    if not height * width:
        raise ValueError(f"shape {tuple(shape)} is too small: the plan halves it to nothing")
    head = nn.Linear(channels * height * width, n_classes)
    return nn.Sequential(*layers, nn.Flatten(), head)


def convolutional_features(
    net: nn.Sequential, X: torch.Tensor, batch_size: int = 1000
) -> NDArray[np.float64]:
    """What a network gives to its last layer, a Linear: (n, d) features of images (n, c, h, w).

    The network is evaluated, not trained: normalisations use their running statistics. It stays
    in the mode it was in; batches go to its device.

    Raises
    ------
    TypeError
        If ``net`` is not a Sequential that ends in a Linear.
    ValueError
        If ``batch_size`` is not a positive whole number.
    """
    if not isinstance(net, nn.Sequential) or not len(net) or not isinstance(net[-1], nn.Linear):
        raise TypeError("net must be a torch.nn.Sequential that ends in a Linear")
    positive_integer("batch_size", batch_size)
    device, trained = net[-1].weight.device, net.training
    net.eval()
    try:
        with torch.no_grad():
            parts = [net[:-1](rows.to(device)).double().cpu() for rows in X.split(batch_size)]
    finally:
        net.train(trained)
    return torch.cat(parts).numpy()
