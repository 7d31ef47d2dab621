"""Training a network whose weights are ternary and whose activations are staircases throughout.

Training moves real *latent* weights. Each forward pass runs the network that is kept: weights are
the signs of the largest latents, activations are staircases. Each backward pass treats
ternarisation as the identity (the straight-through estimator) and a staircase as the smooth
t ↦ E σ(t + wξ), ξ ~ N(0, 1), whose derivative is Σ_j jump_j φ((t − threshold_j)/w)/w.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from .._checks import positive, samples
from ..theory.activations import Quantized
from ..theory.networks import RandomMLP
from ..theory.weights import Ternary
from .layers import TernaryLayer
from .network import CompressedNetwork
from .readout import Readout
from .ternary import TernaryMatrix
from .train import Trained, Training

# A ranking costs as much as a matrix product; between two of them the cut stays where it is.
_STEPS_PER_RANKING = 10
_PROBE = 1024
_NODES_PER_WIDTH = 64
_REACH = 6.0


def train_ternary(
    net: RandomMLP,
    X: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float = 2e-3,
    latent_rate: float = 0.06,
    smoothing: float = 0.6,
    **training: Any,
) -> Trained:
    """Train a random network with ternary weights and staircases; ternary it stays.

    Every layer keeps its number of non-zero weights, its scale and its staircase; what is learnt is
    where the non-zeros stand and their signs, a bias per neuron, and the readout. The latents start
    as Gaussians whose ternarisation is ``net``, so training starts at ``net`` itself. All other
    arguments are as for :func:`train_dense`; ``seed`` is that of latents and batches.

    Parameters
    ----------
    net : RandomMLP
        With ternary weights; every activation a Quantized, such as those of :func:`match` with
        ``grid="uniform"``.
    learning_rate : float
        Highest for biases and readout.
    latent_rate : float
        Highest for the latents, whose standard deviation is 1 at the start.
    smoothing : float
        w in units of the layer's standard deviation of t at the start.

    Returns
    -------
    Trained
        Its model: a :class:`CompressedNetwork`. ValueError if an argument is out of range, labels
        do not fit, or ``net`` is not ternary, or constant on X.

    Examples
    --------
    >>> stairs = nh.match(["relu"], tau0=1.0, levels=4, grid="uniform").activations
    >>> net = nh.RandomMLP(2, [50], stairs, weights="ternary", sparsity=0.5)
    >>> trained = nh.train_ternary(net, np.eye(2), [0, 1], epochs=20, seed=0, progress=False)
    >>> trained.model.predict(np.eye(2))
    array([0, 1])
    """
    law = getattr(net, "law", net)
    if not isinstance(law, Ternary):
        raise ValueError(f"net must be a RandomMLP with weights='ternary', got {law!r}")
    if names := [a.name for a in net.activations if not isinstance(a, Quantized)]:
        raise ValueError(f"net must have a Quantized activation in every layer, got {names}")
    learning_rate = positive("learning_rate", learning_rate)
    latent_rate = positive("latent_rate", latent_rate)
    smoothing = positive("smoothing", smoothing)
    task = Training(samples("X", X, net.p), y, **training)
    probe = torch.Generator().manual_seed(task.seed)
    sample = task.X[torch.randperm(len(task.X), generator=probe)[:_PROBE]]
    model = LatentNetwork(net, task.n_classes, task.seed, task.dtype)
    model.measure(sample, smoothing)
    model.to(task.device)
    latents = [layer.latent for layer in model.layers]
    others = [*(layer.bias for layer in model.layers), model.readout, model.readout_bias]
    per_epoch = math.ceil(len(task.X) / task.batch_size)

    def rank(step: int) -> None:
        if step % _STEPS_PER_RANKING == 0 or step % per_epoch == 0:
            model.rank()

    rates = [(latents, latent_rate), (others, learning_rate)]
    losses, accuracies = task.minimise(model, rates, rank)
    return Trained(model.cpu().deployed(), losses, accuracies)


class LatentNetwork(nn.Module):
    """The real parameters behind a ternary network; its forward pass is that network's."""

    def __init__(
        self, net: RandomMLP, n_classes: int, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        assert isinstance(net.law, Ternary)
        fan_in, centres, before = (1, *net.widths), (0.0, *net.centres), None
        self.layers: list[LatentLayer] = []
        for i, (W, stairs) in enumerate(zip(net.matrices, net.activations, strict=True)):
            assert isinstance(stairs, Quantized)
            scale = (1 - net.law.sparsity) ** -0.5 / math.sqrt(fan_in[i])
            start = TernaryLayer(TernaryMatrix.from_dense(torch.sign(W)), scale, stairs)
            rng = np.random.default_rng([seed, i])
            self.layers.append(LatentLayer(start, before, centres[i], rng, dtype))
            before = start
        self.hidden = nn.Sequential(*self.layers)
        self.readout = nn.Parameter(torch.zeros(n_classes, net.widths[-1]))
        self.readout_bias = nn.Parameter(torch.zeros(n_classes))
        self.mean, self.spread = 0.0, 1.0

    @torch.no_grad()
    def measure(self, sample: torch.Tensor, smoothing: float) -> None:
        """Take the scales of pre-activations and levels from a sample (n, p) of inputs."""
        for layer in self.layers:
            sample = layer.measure(sample, smoothing)
        z = self.layers[-1].levels(sample)
        self.mean, self.spread = z.mean().item(), z.std().item()
        if not (self.spread > 0 and min(layer.spread for layer in self.layers) > 0):
            raise ValueError("net must not be constant on X: it has no direction to learn in")

    def rank(self) -> None:
        """Set the cuts so that each layer has as many non-zeros as at the start."""
        for layer in self.layers:
            layer.cut = cut(layer.latent.data, layer.start.weights.nonzeros)

    def folded_readout(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and bias that act on levels, not on levels brought to mean 0 and variance 1."""
        weights = self.readout / self.spread
        return weights, self.readout_bias - self.mean * weights.sum(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layers[-1].levels(self.hidden(x))
        return nn.functional.linear(z, *self.folded_readout())

    @torch.no_grad()
    def deployed(self) -> CompressedNetwork:
        """The network that the forward pass runs, with no latents."""
        weights, bias = (part.cpu().numpy() for part in self.folded_readout())
        readout = Readout.from_weights(weights.T, bias, np.arange(len(bias)))
        return CompressedNetwork([layer.deployed() for layer in self.layers], readout)


class LatentLayer(nn.Module):
    """The real parameters behind a ternary layer; from codes of the layer before to its own."""

    codes: torch.Tensor
    thresholds: torch.Tensor

    def __init__(
        self,
        start: TernaryLayer,
        before: TernaryLayer | None,
        centre: float,
        rng: np.random.Generator,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        base, step, _ = (before and before.grid) or (0.0, 1.0, None)
        self.start, self.dtype = start, dtype
        self.gain, self.centre = start.scale * step, (centre - base) / step
        # Deployed, it takes levels: base + step · codes.
        self.from_levels = start.scale * base
        self.base, self.step, codes = start.grid or (0.0, 1.0, start.activation.levels)
        self.register_buffer("codes", torch.tensor(codes, dtype=torch.float32))
        thresholds = torch.tensor(start.activation.thresholds, dtype=torch.float32)
        self.register_buffer("thresholds", thresholds)
        self.latent = nn.Parameter(gaussian_latent(start.weights.to_dense(), rng))
        # In units of the spread of pre-activations, since Adam moves every parameter alike.
        self.bias = nn.Parameter(torch.zeros(start.weights.shape[0]))
        self.spread = 1.0
        self.cut = cut(self.latent.data, start.weights.nonzeros)

    def measure(self, x: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Take the spread of pre-activations and the slope of the staircase; returns its codes."""
        u = TernaryProduct.apply(x, self.latent, self.bias, self)
        self.spread = u.std().item()
        self.slope = Slope(self.start.activation, smoothing * self.spread, self.step)
        return self.codes[torch.bucketize(u, self.thresholds)]

    def levels(self, codes: torch.Tensor) -> torch.Tensor:
        return self.base + self.step * codes

    def weights(self) -> torch.Tensor:
        """The latents' signs where they exceed the cut, and zeros."""
        return nn.functional.hardshrink(self.latent, self.cut).sign()

    def offset(self, bias: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        return bias - self.gain * self.centre * W.sum(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = TernaryProduct.apply(x, self.latent, self.spread * self.bias, self)
        return SmoothedStaircase.apply(u, self)

    def deployed(self) -> TernaryLayer:
        """The layer that the forward pass runs."""
        W = self.weights()
        offset = self.offset(self.spread * self.bias, W) - self.from_levels * W.sum(1)
        signs = TernaryMatrix.from_dense(W)
        return TernaryLayer(signs, self.start.scale, self.start.activation, offset)


class TernaryProduct(torch.autograd.Function):
    """gain · (x − centre) Wᵀ + bias, W the weights of a latent layer; ∂W/∂latent taken as 1."""

    @staticmethod
    def forward(ctx: Any, x, latent, bias, layer) -> torch.Tensor:
        """The product with the ternary weights."""
        W = layer.weights()
        ctx.save_for_backward(x, W)
        ctx.layer = layer
        return layer.gain * (x @ W.T) + layer.offset(bias, W)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """Gradients of x, latent and bias."""
        (x, W), layer = ctx.saved_tensors, ctx.layer
        scaled = (layer.gain * grad).to(layer.dtype)
        to_x = (scaled @ W.to(layer.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        to_latent = (scaled.T @ (x - layer.centre).to(layer.dtype)).to(x.dtype)
        return to_x, to_latent, grad.sum(0), None


class SmoothedStaircase(torch.autograd.Function):
    """A latent layer's codes forward; the slope of its smoothed staircase backward."""

    @staticmethod
    def forward(ctx: Any, u, layer) -> torch.Tensor:
        """The codes."""
        ctx.save_for_backward(u)
        ctx.slope = layer.slope
        return layer.codes[torch.bucketize(u, layer.thresholds)]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """The gradient of u."""
        return grad * ctx.slope(ctx.saved_tensors[0]), None


class Slope:
    """Σ_j jump_j φ((t − threshold_j)/width)/(step · width), the nearest node read off a table."""

    def __init__(self, stairs: Quantized, width: float, step: float) -> None:
        thresholds, self.gap = np.array(stairs.thresholds), width / _NODES_PER_WIDTH
        self.low = float(thresholds[0] - _REACH * width)
        t = np.arange(self.low, thresholds[-1] + _REACH * width, self.gap)
        bells = np.exp(-(((t[:, None] - thresholds) / width) ** 2) / 2)
        values = bells @ np.array(stairs.jumps) / (step * width * math.sqrt(2 * math.pi))
        self.values = torch.from_numpy(values)

    def __call__(self, u: torch.Tensor) -> torch.Tensor:
        node = ((u - self.low) / self.gap).round().clamp(0, len(self.values) - 1).long()
        return self.values.to(u.device, u.dtype)[node]


def cut(latent: torch.Tensor, kept: int) -> float:
    """The cut that exactly ``kept`` of the latents exceed in size; moves tied ones off it."""
    if kept == latent.numel():
        latent[latent == 0] = torch.finfo(latent.dtype).tiny
        return 0.0
    sizes = latent.abs().flatten().cpu().numpy()
    rank = len(sizes) - kept
    found = float(np.partition(sizes, rank - 1)[rank - 1])
    surplus = rank - np.count_nonzero(sizes <= found)
    if surplus < 0:
        tied = torch.from_numpy(np.flatnonzero(sizes == found)[:-surplus]).to(latent.device)
        latent.view(-1)[tied] = latent.view(-1)[tied] * (1 + 1e-6) + torch.finfo(latent.dtype).tiny
    return found


def gaussian_latent(signs: NDArray, rng: np.random.Generator) -> torch.Tensor:
    """Standard Gaussians, the largest in size where ``signs`` is not 0, with its signs."""
    kept = signs != 0
    dropped = kept.size - np.count_nonzero(kept)
    sizes = np.sort(np.abs(rng.standard_normal(kept.size, dtype=np.float32)))
    latent = np.empty(kept.shape, np.float32)
    latent[~kept] = rng.permutation(sizes[:dropped]) * rng.choice([-1, 1], dropped)
    latent[kept] = rng.permutation(sizes[dropped:]) * signs[kept]
    return torch.from_numpy(latent)
