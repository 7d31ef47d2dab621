"""Networks of ternary layers in torch, as training leaves them.

Where levels lie on a uniform grid, layers pass on whole (or half) numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .activations import Quantized
from .compressed import CompressedNetwork
from .layers import TernaryLayer
from .networks import RandomMLP
from .readout import Readout
from .ternary import TernaryMatrix

_MOST_CODES = 256


@dataclass(frozen=True, eq=False)
class TorchLayer:
    """z = σ(scale · W z_prev + bias), W of −1, 0 and 1, σ a staircase.

    Attributes
    ----------
    weights : (d, d_prev) int8 tensor
    scale : float
    bias : (d,) float tensor
        Holds the centring of the layer before, too.
    activation : Quantized
    """

    weights: torch.Tensor
    scale: float
    bias: torch.Tensor
    activation: Quantized


@dataclass(frozen=True, eq=False)
class TernaryNetwork:
    """Ternary layers and a float readout on the levels of the last.

    Attributes
    ----------
    layers : tuple of TorchLayer
    readout : (K, d_L) float tensor
    readout_bias : (K,) float tensor
    """

    layers: tuple[TorchLayer, ...]
    readout: torch.Tensor
    readout_bias: torch.Tensor

    @property
    def sparsity(self) -> tuple[float, ...]:
        """Share of zero weights, layer by layer."""
        return tuple((layer.weights == 0).double().mean().item() for layer in self.layers)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Levels (n, d_L) of the last layer, for a float tensor x of shape (n, p)."""
        return ternary_features(self.layers, x)

    def compressed(self) -> CompressedNetwork:
        """The same network, to run on integers and to save; its classes are 0 … K − 1."""
        layers = [
            TernaryLayer(
                weights=TernaryMatrix.from_dense(layer.weights.cpu().numpy()),
                scale=layer.scale,
                thresholds=np.array(layer.activation.thresholds),
                levels=np.array(layer.activation.levels),
                offset=layer.bias.cpu().numpy(),
            )
            for layer in self.layers
        ]
        weights, bias = self.readout.cpu().numpy().T, self.readout_bias.cpu().numpy()
        return CompressedNetwork(layers, Readout.from_weights(weights, bias, np.arange(len(bias))))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, K), for a float tensor x of shape (n, p)."""
        return nn.functional.linear(self.features(x), self.readout, self.readout_bias)


def ternary_features(layers: Sequence[TorchLayer], x: torch.Tensor) -> torch.Tensor:
    """Levels (n, d_L) of the last of some ternary layers, for a float tensor x (n, p).

    Levels on a uniform grid pass from layer to layer as whole (or half) numbers, whose sums are
    exact: from the second layer on, neither batch, device nor order of summation shows.
    """
    unit = 1.0
    for layer in layers:
        u = affine(x, layer.weights.to(x.dtype), layer.scale * unit, layer.bias.to(x.dtype))
        unit, codes = codes_on_grid(layer.activation)
        x = staircase(layer.activation, codes, u)
    return unit * x


def ternary_layers(net: RandomMLP) -> tuple[TorchLayer, ...]:
    """The layers of a random network with ternary weights and staircases.

    ``(ternary_features(ternary_layers(net), x) - net.centres[-1]) / √d_L`` are ``net.features``.

    Raises
    ------
    ValueError
        If the weights are not ternary, or an activation is not a staircase.
    """
    check_ternary(net)
    size = (1 - net.sparsity) ** -0.5
    fan = (1, *net.widths)
    centres = (0.0, *net.centres)
    layers = []
    for W, activation, d, centre in zip(net.matrices, net.activations, fan, centres, strict=False):
        assert isinstance(activation, Quantized)
        signs, scale = torch.sign(W), size / math.sqrt(d)
        layers.append(
            TorchLayer(signs.to(torch.int8), scale, -scale * centre * signs.sum(1), activation)
        )
    return tuple(layers)


def affine(x: torch.Tensor, W: torch.Tensor, gain: float, bias: torch.Tensor) -> torch.Tensor:
    return gain * (x @ W.T) + bias


def staircase(stairs: Quantized, codes: Sequence[float], u: torch.Tensor) -> torch.Tensor:
    thresholds = torch.tensor(stairs.thresholds, dtype=u.dtype, device=u.device)
    return torch.tensor(codes, dtype=u.dtype, device=u.device)[torch.bucketize(u, thresholds)]


def codes_on_grid(stairs: Quantized) -> tuple[float, tuple[float, ...]]:
    """(unit, codes) with levels = unit · codes: whole or half codes if the levels are on a grid."""
    levels = np.array(stairs.levels)
    gaps = np.diff(np.unique(levels))
    if len(gaps):
        unit = float(gaps.min())
        codes = np.round(2 * levels / unit) / 2
        if np.abs(codes).max() <= _MOST_CODES and np.allclose(
            unit * codes, levels, rtol=0, atol=1e-9 * unit
        ):
            return unit, tuple(codes.tolist())
    return 1.0, stairs.levels


def check_ternary(net: RandomMLP) -> None:
    if net.weights != "ternary":
        raise ValueError(f"net must have weights='ternary', got {net.weights!r}")
    if names := [a.name for a in net.activations if not isinstance(a, Quantized)]:
        raise ValueError(f"net must have a Quantized activation in every layer, got {names}")
