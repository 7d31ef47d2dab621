"""From a dense network to a compressed one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .activations import Activation, AnyActivation, activation
from .compressed import CompressedNetwork
from .layers import Drawn, TernaryLayer
from .matching import Matching, match
from .networks import RandomMLP
from .readout import Readout
from .ternary import TernaryMatrix
from .validation import nonnegative_integer, sample_matrix, sparsity_below_one

# How far the data's scale may be from the one a random network was made for.
_SCALE_TOLERANCE = 0.1


def compress(
    net: RandomMLP | torch.nn.Sequential,
    X: ArrayLike,
    levels: int | Sequence[int] | Literal["paper"] | Matching = 8,
    sparsity: float = 0.9,
    seed: int = 0,
    grid: Literal["uniform", "free"] = "uniform",
    weights: Literal["drawn", "projected"] | None = None,
) -> CompressedNetwork:
    """The network with ternary hidden weights and staircases in place of its activations.

    Of a random network, staircases are matched for the network as a whole (:func:`match`) and
    weights are drawn anew: nothing of the original's weights is kept, for nothing of its kernels
    depends on them. Of a ``Sequential``, every layer's staircase is matched at the scale that its
    pre-activations have on X, and every layer's pre-activations keep the spread they have on X
    and, where weights are projected, each neuron its mean. A last Linear with no activation after
    it becomes the readout.

    Parameters
    ----------
    net : RandomMLP or torch.nn.Sequential
        A Sequential of Linear layers, with or without biases, each followed by ReLU, LeakyReLU,
        Tanh, Sigmoid, GELU, SiLU or Softplus.
    X : (n, p) array
        Samples. A random network only checks its scale on them.
    levels : int, sequence of int, "paper", or Matching
        As for :func:`match`; or what that returned for the network, where many are compressed.
    sparsity : float
        ε in [0, 1), the share of zeros.
    seed : int
        Of drawn weights.
    grid : "uniform" or "free"
        As for :func:`match`. On a uniform grid layers run on integers. Not used by "paper", nor
        where ``levels`` is a Matching.
    weights : "drawn" or "projected"
        "projected" keeps the signs of the largest weights, the share 1 − ε of each layer: what a
        trained network needs, the default for a Sequential. "drawn" is the default for a random
        network, and can be saved as a seed.

    Returns
    -------
    CompressedNetwork

    Raises
    ------
    TypeError
        For a module that cannot be taken, named, or another kind of network.
    ValueError
        If X does not fit the network or an argument is out of range.
    """
    sparsity, seed = sparsity_below_one(sparsity), nonnegative_integer("seed", seed)
    if weights not in (None, "drawn", "projected"):
        raise ValueError(f"weights must be 'drawn' or 'projected', got {weights!r}")
    X = sample_matrix("X", X)
    if isinstance(net, RandomMLP):
        return _compress_random(net, X, levels, grid, sparsity, seed, weights or "drawn")
    if isinstance(net, torch.nn.Sequential):
        if isinstance(levels, str | Matching):
            kind = 'levels="paper"' if isinstance(levels, str) else "a Matching"
            raise ValueError(f"{kind} is for a RandomMLP: it is one for the network as a whole")
        options = {"levels": levels, "grid": grid}
        return _compress_sequential(net, X, options, sparsity, seed, weights or "projected")
    raise TypeError(
        f"net must be a RandomMLP or a torch.nn.Sequential of Linear layers and activations, "
        f"got {type(net).__name__}"
    )


def _compress_random(
    net: RandomMLP,
    X: NDArray,
    levels: int | Sequence[int] | Literal["paper"] | Matching,
    grid: Literal["uniform", "free"],
    sparsity: float,
    seed: int,
    weights: str,
) -> CompressedNetwork:
    _check_columns(X, net.p)
    scale = float(np.sqrt(np.mean(np.einsum("ij,ij->i", X, X))))
    if abs(scale / net.tau0 - 1) > _SCALE_TOLERANCE:
        raise ValueError(
            f"X must have the scale the network was made for, tau0={net.tau0:.4g}; its rows have "
            f"root mean square norm {scale:.4g}. See ntklc_helpers.normalize"
        )
    matching = _matching(net, levels, grid)
    small = RandomMLP(
        net.p, net.widths, matching.activations, net.tau0, "ternary", sparsity, seed=seed
    )
    layers = []
    for i, (step, centre) in enumerate(zip(matching.activations, small.centres, strict=True)):
        shape = (net.widths[i], (net.p, *net.widths)[i])
        drawn = Drawn(sparsity, seed, i + 1) if weights == "drawn" else None
        layers.append(
            TernaryLayer(
                weights=drawn.matrix(shape) if drawn else _project(_matrix(net, i), sparsity),
                scale=(1 - sparsity) ** -0.5,
                thresholds=np.array(step.thresholds),
                levels=(np.array(step.levels) - centre) / np.sqrt(shape[0]),
                drawn=drawn,
            )
        )
    return CompressedNetwork(layers, matching=matching)


def _matching(
    net: RandomMLP,
    levels: int | Sequence[int] | Literal["paper"] | Matching,
    grid: Literal["uniform", "free"],
) -> Matching:
    if isinstance(levels, Matching):
        if levels.tau0 != net.tau0 or len(levels.activations) != len(net.widths):
            raise ValueError(
                f"levels is a matching of {len(levels.activations)} layers at "
                f"tau0={levels.tau0:g}; the network has {len(net.widths)} at tau0={net.tau0:g}"
            )
        return levels
    if isinstance(levels, str):
        # "paper" has levels of its own and takes no grid.
        return match(net.activations, net.tau0, levels)
    return match(net.activations, net.tau0, levels, grid=grid)


def _matrix(net: RandomMLP, layer: int) -> NDArray[np.float64]:
    return net.matrices[layer].double().cpu().numpy()


def _compress_sequential(
    net: torch.nn.Sequential, X: NDArray, options: dict, sparsity: float, seed: int, weights: str
) -> CompressedNetwork:
    parts = list(_parts(net))
    hidden = [part for part in parts if part.activation is not None]
    if not hidden:
        raise TypeError("net must have at least one Linear layer followed by an activation")
    counts = options["levels"]
    counts = list(counts) if isinstance(counts, Sequence) else [counts] * len(hidden)
    if len(counts) != len(hidden):
        raise ValueError(
            f"levels must be one count or {len(hidden)}, one per layer; got {len(counts)}"
        )
    _check_columns(X, hidden[0].weight.shape[1])
    before, after, layers = X, X, []
    for i, (part, count) in enumerate(zip(hidden, counts, strict=True)):
        assert part.activation is not None
        u = before @ part.weight.T + part.bias
        drawn = Drawn(sparsity, seed, i + 1) if weights == "drawn" else None
        T = drawn.matrix(part.weight.shape) if drawn else _project(part.weight, sparsity)
        sums = after @ T.to_dense().T.astype(np.float64)
        scale = float(u.std(axis=0).mean() / sums.std(axis=0).mean())
        offset = part.bias if drawn else u.mean(axis=0) - scale * sums.mean(axis=0)
        tau = float(np.sqrt(np.mean(u**2)))
        (step,) = match([part.activation], tau, **options | {"levels": count}).activations
        layer = TernaryLayer(
            weights=T,
            scale=scale,
            thresholds=np.array(step.thresholds),
            levels=np.array(step.levels),
            offset=offset if np.any(offset) else None,
            drawn=drawn,
        )
        layers.append(layer)
        before = part.activation(u)
        after = step(scale * sums + (0.0 if layer.offset is None else layer.offset))
    last = parts[-1]
    readout = None
    if last.activation is None:
        readout = Readout.from_weights(last.weight.T, last.bias, np.arange(len(last.bias)))
    return CompressedNetwork(layers, readout)


@dataclass(frozen=True, eq=False)
class _Part:
    """A Linear layer and the activation after it, None for a last layer without one."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    activation: AnyActivation | None


def _parts(net: torch.nn.Sequential) -> Iterator[_Part]:
    modules = [*net, None]
    for i, (module, after) in enumerate(zip(modules, modules[1:], strict=False)):
        if not isinstance(module, torch.nn.Linear):
            if i == 0 or not isinstance(modules[i - 1], torch.nn.Linear):
                raise _refusal(i, module, "a Linear layer")
            continue
        weight = module.weight.detach().cpu().double().numpy()
        bias = np.zeros(len(weight))
        if module.bias is not None:
            bias = module.bias.detach().cpu().double().numpy()
        yield _Part(weight, bias, None if after is None else _activation(i + 1, after))


def _activation(position: int, module: torch.nn.Module) -> AnyActivation:
    simple = {
        torch.nn.ReLU: "relu",
        torch.nn.Tanh: "tanh",
        torch.nn.Sigmoid: "sigmoid",
        torch.nn.SiLU: "silu",
    }
    kind = type(module)
    if kind in simple:
        return activation(simple[kind])
    if kind is torch.nn.LeakyReLU and isinstance(module, torch.nn.LeakyReLU):
        return activation("leaky_relu", slope=module.negative_slope)
    if kind is torch.nn.GELU and module.approximate == "none":
        return activation("gelu")
    if kind is torch.nn.GELU:
        return Activation("gelu_tanh", torch.nn.GELU("tanh"))
    if kind is torch.nn.Softplus and module.beta == 1:
        return activation("softplus")
    raise _refusal(position, module, "an activation that is known")


def _refusal(position: int, module: torch.nn.Module, wanted: str) -> TypeError:
    return TypeError(
        f"net must be a Sequential of Linear layers and activations: module {position} is "
        f"{module!r}, where {wanted} is needed"
    )


def _project(weight: NDArray[np.float64], sparsity: float) -> TernaryMatrix:
    """The signs of the largest weights, the share 1 − ε of them, rounded; at least one."""
    size = np.abs(weight).ravel()
    kept = max(1, round((1 - sparsity) * size.size))
    flat = np.sort(np.argsort(-size, kind="stable")[:kept])
    flat = flat[size[flat] > 0]
    return TernaryMatrix.from_entries(weight.shape, flat, weight.ravel()[flat] < 0)


def _check_columns(X: NDArray, p: int) -> None:
    if X.shape[1] != p:
        raise ValueError(f"X must have {p} columns, as the network takes, got shape {X.shape}")
