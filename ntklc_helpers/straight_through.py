"""Training a network whose weights are ternary and whose activations are staircases throughout.

Training moves real *latent* weights. Each forward pass runs the network that is kept: weights are
the signs of the largest latents, activations are staircases. Each backward pass treats
ternarisation as the identity (the straight-through estimator) and a staircase as the smooth
t ↦ E σ(t + wξ), ξ ~ N(0, 1), whose derivative is Σ_j jump_j φ((t − threshold_j)/w)/w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from .activations import Quantized
from .networks import RandomMLP
from .optimise import Labelled, LabelledData, Options, minimise
from .ternary_network import (
    TernaryNetwork,
    TorchLayer,
    affine,
    check_ternary,
    codes_on_grid,
    staircase,
    ternary_layers,
)
from .training import Training
from .validation import positive, positive_integer

# A ranking costs as much as a matrix product; between two of them the cut stays where it is.
_STEPS_PER_RANKING = 10
_PROBE = 1024
_NODES_PER_WIDTH = 64
_REACH = 6.0


def clipped_relu(levels: int, top: float) -> Quantized:
    """ReLU clipped at ``top`` and rounded to ``levels`` equally spaced values from 0 to ``top``.

    The usual uniform quantiser, matched to nothing.

    Raises
    ------
    ValueError
        If ``levels`` is not a whole number of at least 2, or ``top`` is not positive.
    """
    steps, top = positive_integer("levels", levels) - 1, positive("top", top)
    if not steps:
        raise ValueError(f"levels must be at least 2, got {levels!r}")
    return Quantized(
        tuple((j + 0.5) * top / steps for j in range(steps)),
        tuple(j * top / steps for j in range(steps + 1)),
    )


def train_ternary(
    net: RandomMLP,
    X: ArrayLike,
    y: ArrayLike,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    latent_rate: float = 0.06,
    smoothing: float = 0.6,
    validation: Labelled | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Training:
    """Train a random network with ternary weights and staircases; ternary it stays.

    Every layer keeps its number of non-zero weights, its scale and its staircase; what is learnt is
    where the non-zeros stand and their signs, a bias per neuron, and the readout. The latents start
    as Gaussians whose ternarisation is ``net``, so training starts at ``net`` itself.

    Parameters
    ----------
    net : RandomMLP
        With ternary weights; every activation a Quantized, such as those of :func:`match` with
        ``grid="uniform"``.
    X, y, epochs, seed, batch_size, validation, device, progress
        As in :func:`train_dense`; ``seed`` is that of latents and batches.
    learning_rate : float
        Highest for biases and readout.
    latent_rate : float
        Highest for the latents, whose standard deviation is 1 at the start.
    smoothing : float
        w in units of the layer's standard deviation of t at the start.
    dtype : torch.dtype
        Of the matrix products of the backward pass. The forward pass is float32, to be exact.

    Returns
    -------
    Training
        Its model: a TernaryNetwork.

    Raises
    ------
    ValueError
        If an argument is out of range, labels do not fit, or ``net`` is not ternary or constant
        on X.
    """
    check_ternary(net)
    learning_rate = positive("learning_rate", learning_rate)
    latent_rate = positive("latent_rate", latent_rate)
    smoothing = positive("smoothing", smoothing)
    options = Options(epochs, batch_size, seed, device, dtype, progress)
    data = LabelledData.checked(X, y, validation)
    if data.X.shape[1] != net.p:
        raise ValueError(f"X must have p={net.p} columns, got {data.X.shape[1]}")
    probe = torch.Generator().manual_seed(seed)
    sample = data.X[torch.randperm(len(data.X), generator=probe)[:_PROBE]]
    model = _Latent(net, smoothing, sample, data.n_classes, seed, dtype).to(options.device)
    others = [*model.biases, model.readout, model.readout_bias]
    rates = [(list(model.latents), latent_rate), (others, learning_rate)]
    per_epoch = math.ceil(len(data.X) / options.batch_size)

    def rank(step: int) -> None:
        if step % _STEPS_PER_RANKING == 0 or step % per_epoch == 0:
            model.rank()

    losses, accuracies = minimise(model, rates, data, options, rank)
    return Training(model.cpu().deployed(), losses, accuracies)


class _Latent(nn.Module):
    """The real parameters behind a TernaryNetwork; its forward pass is that network's."""

    def __init__(
        self,
        net: RandomMLP,
        smoothing: float,
        sample: torch.Tensor,
        n_classes: int,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.start, self.dtype = ternary_layers(net), dtype
        self.grids = [codes_on_grid(layer.activation) for layer in self.start]
        units = [1.0, *(unit for unit, _ in self.grids)]
        self.centres = [m / u for m, u in zip((0.0, *net.centres), units, strict=True)]
        self.gains = [layer.scale * u for layer, u in zip(self.start, units, strict=False)]
        signs = [layer.weights.cpu().numpy() for layer in self.start]
        self.kept = [np.count_nonzero(W) for W in signs]
        self.latents = nn.ParameterList(
            _gaussian_latents(W, np.random.default_rng([seed, layer]))
            for layer, W in enumerate(signs)
        )
        self.biases = nn.ParameterList(torch.zeros(width) for width in net.widths)
        self.readout = nn.Parameter(torch.zeros(n_classes, net.widths[-1]))
        self.readout_bias = nn.Parameter(torch.zeros(n_classes))
        self.spreads, self.slopes = [], []
        self.rank()
        with torch.no_grad():
            for i, layer in enumerate(self.start):
                u = self.product(i, sample, self.biases[i])
                unit, codes = self.grids[i]
                self.spreads.append(u.std().item())
                self.slopes.append(_Slope.of(layer.activation, smoothing * self.spreads[i], unit))
                sample = staircase(layer.activation, codes, u)
        z = sample * self.grids[-1][0]
        self.mean, self.scale = z.mean().item(), z.std().item()
        if not (self.scale > 0 and min(self.spreads) > 0):
            raise ValueError("net must not be constant on X: it has no direction to learn in")

    def rank(self) -> None:
        """Set the cuts so that each layer has as many non-zeros as at the start."""
        pairs = zip(self.latents, self.kept, strict=True)
        self.cuts = [_cut(latent.data, int(kept)) for latent, kept in pairs]

    def product(self, i: int, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return _TernaryProduct.apply(
            x, self.latents[i], bias, self.cuts[i], self.gains[i], self.centres[i], self.dtype
        )

    def bias(self, i: int) -> torch.Tensor:
        """Measured in its layer's spread, since Adam moves every parameter alike."""
        return self.spreads[i] * self.biases[i]

    def folded_readout(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and bias that act on levels, not on levels brought to mean 0 and variance 1."""
        weights = self.readout / self.scale
        return weights, self.readout_bias - self.mean * weights.sum(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.start):
            u = self.product(i, x, self.bias(i))
            x = _SurrogateStaircase.apply(u, layer.activation, self.grids[i][1], self.slopes[i])
        return nn.functional.linear(self.grids[-1][0] * x, *self.folded_readout())

    @torch.no_grad()
    def deployed(self) -> TernaryNetwork:
        """The network that the forward pass runs, with no latents."""
        layers = []
        for i, old in enumerate(self.start):
            W = _ternarised(self.latents[i], self.cuts[i])
            bias = _centred_bias(W, self.bias(i), self.gains[i], self.centres[i])
            layers.append(TorchLayer(W.to(torch.int8), old.scale, bias, old.activation))
        return TernaryNetwork(tuple(layers), *self.folded_readout())


class _TernaryProduct(torch.autograd.Function):
    """gain · (x − centre) Wᵀ + bias with W the ternarised latents; ∂W/∂latent taken as 1."""

    @staticmethod
    def forward(ctx: Any, x, latent, bias, cut, gain, centre, dtype) -> torch.Tensor:
        W = _ternarised(latent, cut)
        ctx.save_for_backward(x, W)
        ctx.constants = gain, centre, dtype
        return affine(x, W, gain, _centred_bias(W, bias, gain, centre))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        x, W = ctx.saved_tensors
        gain, centre, dtype = ctx.constants
        scaled = (gain * grad).to(dtype)
        to_x = (scaled @ W.to(dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        to_latent = (scaled.T @ (x - centre).to(dtype)).to(x.dtype)
        return to_x, to_latent, grad.sum(0), None, None, None, None


class _SurrogateStaircase(torch.autograd.Function):
    """A staircase's codes forward; the slope of its smoothed version backward."""

    @staticmethod
    def forward(ctx: Any, u, stairs, codes, slope) -> torch.Tensor:
        ctx.save_for_backward(u)
        ctx.slope = slope
        return staircase(stairs, codes, u)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        return grad * ctx.slope(ctx.saved_tensors[0]), None, None, None


@dataclass(frozen=True, eq=False)
class _Slope:
    """A function that vanishes at both ends of a table; the table's nearest entry is read."""

    low: float
    step: float
    values: torch.Tensor

    @classmethod
    def of(cls, stairs: Quantized, width: float, unit: float) -> _Slope:
        """Σ_j jump_j φ((t − threshold_j)/width)/(unit · width), every 1/64 of a width."""
        thresholds, step = np.array(stairs.thresholds), width / _NODES_PER_WIDTH
        low = thresholds[0] - _REACH * width
        t = np.arange(low, thresholds[-1] + _REACH * width, step)
        bells = np.exp(-(((t[:, None] - thresholds) / width) ** 2) / 2)
        values = bells @ np.array(stairs.jumps) / (unit * width * math.sqrt(2 * math.pi))
        return cls(float(low), step, torch.from_numpy(values))

    def __call__(self, u: torch.Tensor) -> torch.Tensor:
        node = ((u - self.low) / self.step).round().clamp(0, len(self.values) - 1).long()
        return self.values.to(u.device, u.dtype)[node]


def _centred_bias(W: torch.Tensor, bias: torch.Tensor, gain: float, centre: float) -> torch.Tensor:
    return bias - gain * centre * W.sum(1)


def _ternarised(latent: torch.Tensor, cut: float) -> torch.Tensor:
    return nn.functional.hardshrink(latent, cut).sign()


def _cut(latent: torch.Tensor, kept: int) -> float:
    """The cut that exactly ``kept`` of the latents exceed in size; moves tied ones off it."""
    if kept == latent.numel():
        latent[latent == 0] = torch.finfo(latent.dtype).tiny
        return 0.0
    sizes = latent.abs().flatten().cpu().numpy()
    rank = len(sizes) - kept
    cut = float(np.partition(sizes, rank - 1)[rank - 1])
    surplus = rank - np.count_nonzero(sizes <= cut)
    if surplus < 0:
        tied = torch.from_numpy(np.flatnonzero(sizes == cut)[:-surplus]).to(latent.device)
        latent.view(-1)[tied] = latent.view(-1)[tied] * (1 + 1e-6) + torch.finfo(latent.dtype).tiny
    return cut


def _gaussian_latents(signs: NDArray, rng: np.random.Generator) -> nn.Parameter:
    """Standard Gaussians, the largest in size where ``signs`` is not 0, with its signs."""
    kept = signs != 0
    dropped = kept.size - np.count_nonzero(kept)
    sizes = np.sort(np.abs(rng.standard_normal(kept.size, dtype=np.float32)))
    latent = np.empty(kept.shape, np.float32)
    latent[~kept] = rng.permutation(sizes[:dropped]) * rng.choice([-1, 1], dropped)
    latent[kept] = rng.permutation(sizes[dropped:]) * signs[kept]
    return nn.Parameter(torch.from_numpy(latent))
