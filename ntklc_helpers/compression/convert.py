"""From a dense network to a compressed one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal, overload

import numpy as np
import torch
from attrs import frozen
from numpy.typing import ArrayLike, NDArray
from torch import nn

from .._checks import one_of, same_length, samples, share, whole
from ..matching.match import Matching, match
from ..theory.activations import AnyActivation, Quantized, activation, from_module
from ..theory.moments import gaussian_moments
from ..theory.networks import RandomMLP
from .calibrate import calibrate
from .codes import on_codes
from .converted import Agreement, ConvertedNetwork, agreed, known_classes, tensor
from .layers import Drawn, TernaryLayer
from .network import CompressedNetwork
from .operations import run
from .reading import PROBE, SKLEARN, Original, plain, read, refusal
from .readout import Readout
from .rounding import Bits
from .ternary import TernaryMatrix
from .train import outputs

Levels = int | Sequence[int] | Literal["paper", "script"] | Matching
Grid = Literal["uniform", "free"]

# How far the data's scale may be from the one a random network was made for.
_SCALE_TOLERANCE = 0.1


@overload
def compress(
    net: RandomMLP | nn.Sequential | Any,
    X: ArrayLike,
    levels: Levels = 8,
    sparsity: float = 0.9,
    seed: int = 0,
    grid: Grid = "uniform",
    weights: Literal["drawn", "projected"] | None = None,
    classes: ArrayLike | None = None,
    bits: None = None,
    max_change: None = None,
) -> CompressedNetwork: ...
@overload
def compress(
    net: nn.Module | Any,
    X: ArrayLike,
    levels: int | Sequence[int] = 8,
    sparsity: float = 0.9,
    seed: int = 0,
    grid: Grid = "uniform",
    weights: Literal["drawn", "projected"] | None = None,
    classes: ArrayLike | None = None,
    *,
    bits: Bits | Sequence[Bits],
    max_change: float | None = None,
) -> ConvertedNetwork: ...
def compress(
    net: RandomMLP | nn.Sequential | Any,
    X: ArrayLike,
    levels: Levels = 8,
    sparsity: float = 0.9,
    seed: int = 0,
    grid: Grid = "uniform",
    weights: Literal["drawn", "projected"] | None = None,
    classes: ArrayLike | None = None,
    bits: Bits | Sequence[Bits] | None = None,
    max_change: float | None = None,
) -> CompressedNetwork | ConvertedNetwork:
    """The network with few codes for weights and staircases in place of its activations.

    A network that was trained is best given ``bits``: its weights are rounded so that each layer
    gives what it gave on X, with a scale a neuron (:mod:`~ntklc_helpers.compression.rounding`);
    staircases are the quantisers of least error of what the layers give on X, and biases keep each
    neuron's mean. The last layer, and those with under 1% of the weights, take 8 bits. Nothing is
    trained. Without ``bits`` hidden weights are ternary and drawn, or signs; and a network that was
    trained on its codes (:func:`~ntklc_helpers.compression.qat.prepare_qat`) is taken as it is.

    Of a random network, staircases are matched for the network as a whole (:func:`match`) and
    weights are drawn anew: nothing of the original's weights is kept, for nothing of its kernels
    depends on them. Of a trained one, every layer's staircase is matched at the scale that its
    pre-activations have on X, and every layer's pre-activations keep the spread they have on X
    and, where weights are projected, each neuron its mean. A last Linear with no activation after
    it becomes the readout: its outputs are scores of the classes, and one output alone is a logit,
    of the second class where it is positive. Values, as of a regression, are no classes: leave the
    last Linear out, and fit a model of your own on ``small.features(X)``. One output without a
    Sigmoid after it may be either, so that ``classes`` must then name its two.

    Parameters
    ----------
    net : RandomMLP, torch.nn.Module or scikit-learn's MLPClassifier or MLPRegressor
        With ``bits``, what torch.fx can trace: Linear, Conv2d, BatchNorm after either, elementwise
        activations, pooling, Flatten, Dropout, sums of two values, and a last Softmax, LogSoftmax
        or Sigmoid, which is left out; or a fitted network of scikit-learn. Without:
        A Sequential, as it evaluates, of Linear layers, each followed by an elementwise activation.
        BatchNorm1d after a Linear is folded into it; Dropout, Identity, Flatten and a last Softmax,
        LogSoftmax or, of one output, Sigmoid are left out; a Sequential may hold others. Kinks of
        an activation of your own are named in its attribute ``breakpoints``.
    X : (n, p) array
        Samples; (n, …) as a module takes them. Some thousands that were trained on do well with
        ``bits``, of which a tenth is held out. A random network only checks its scale on them.
    levels : int, sequence of int, "paper", "script", or Matching
        As for :func:`match`; or what that returned for the network, where many are compressed.
        With ``bits`` a number, from 2 to 256, for all activations or for each.
    sparsity : float
        ε in [0, 1), the share of zeros; not used with ``bits``, nor are grid and weights.
    seed : int
        Of drawn weights; of what is held out.
    grid : "uniform" or "free"
        As for :func:`match`. On a uniform grid layers run on integers. Not used by "paper" and
        "script", nor where ``levels`` is a Matching.
    weights : "drawn" or "projected"
        "projected" keeps the signs of the largest weights, the share 1 − ε of each layer: what a
        trained network needs, and its default. "drawn" is the default for a random network, and can
        be saved as a seed.
    classes : (K,) labels, optional
        What the outputs of a module stand for; 0 … K − 1 by default. () for values, as of a
        regression: with ``bits`` only.
    bits : "ternary", 2, 3, 4, 8 or a sequence, optional
        Bits of weights that are rounded; a sequence names those of each layer.
    max_change : float, optional
        Raise a ValueError if on held-out samples more than this share changes its class, or values
        change by more than this part of their spread. With ``bits`` only. Samples that the network
        was trained on promise too much: of those it is sure.

    Returns
    -------
    CompressedNetwork, or ConvertedNetwork with bits
        TypeError for a module that cannot be taken, with its place, or another kind of network;
        ValueError if X does not fit the network or does not vary, or an argument is out of range.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 50), torch.nn.ReLU(), torch.nn.Linear(50, 2))
    >>> nh.compress(net, np.eye(2), levels=4, classes=["no", "yes"]).readout.classes
    array(['no', 'yes'], dtype='<U3')
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> nh.compress(net, X, levels=4, bits="ternary")
    ConvertedNetwork(shape=(2,), bits=('ternary', 8), levels=(4,), classes=2)
    """
    if bits is None and on_codes(net):
        bits = ()
    if bits is not None:
        return _convert(net, X, levels, bits, whole("seed", seed, 0), classes, max_change)
    if max_change is not None:
        raise ValueError("max_change is of networks compressed with bits")
    sparsity, seed = share("sparsity", sparsity), whole("seed", seed, 0)
    own = "drawn" if isinstance(net, RandomMLP) else "projected"
    draw = one_of("weights", own if weights is None else weights, ("drawn", "projected")) == "drawn"
    X = samples("X", X)
    if isinstance(net, RandomMLP):
        if classes is not None:
            raise ValueError("classes belong to a trained network; a RandomMLP has no outputs")
        return _compress_random(net, X, levels, grid, sparsity, seed, draw)
    if isinstance(net, nn.Sequential):
        hidden, last, shown = _modules_read(net, X)
        if last is not None and len(last.weight) == 1 and not shown and classes is None:
            raise ValueError(
                "classes must name the two that net's one output tells apart, such as "
                "classes=[0, 1]; an output of values is left out of net, and features are fitted"
            )
    elif hasattr(net, "out_activation_"):
        hidden, last = _sklearn_read(net)
        classes = net.classes_ if classes is None else classes
    else:
        raise TypeError(
            "net must be a RandomMLP, a torch.nn.Sequential of Linear layers and activations, or a "
            f"fitted MLPClassifier of scikit-learn, got {type(net).__name__}"
        )
    readout = _readout(last, classes)
    layers = _compress_trained(hidden, X, levels, grid, sparsity, seed, draw)
    return CompressedNetwork(layers, readout)


def converted(
    net: Any, X: Any, levels: Any, bits: Any, seed: int, classes: Any
) -> tuple[ConvertedNetwork, Agreement]:
    """A trained network, rounded, and how far it agrees with it on samples that were held out."""
    if isinstance(net, RandomMLP):
        raise TypeError("bits are for networks that were trained; leave them out for a RandomMLP")
    if isinstance(levels, str | Matching):
        raise ValueError("levels must be numbers with bits: a Matching is of a RandomMLP")
    x = tensor(X)
    original = read(net, x[:PROBE])
    names = _names(original, classes)
    found = calibrate(original.steps, x, levels, bits, seed)
    small = ConvertedNetwork(found.steps, tuple(x.shape[1:]), names, found.report)
    return small, agreed(found.before, found.after, names is not None)


def _convert(
    net: Any, X: Any, levels: Any, bits: Any, seed: int, classes: Any, max_change: Any
) -> ConvertedNetwork:
    """A trained network, rounded; nothing of it if that changes more than is allowed."""
    allowed = None if max_change is None else share("max_change", max_change)
    small, held = converted(net, X, levels, bits, seed, classes)
    if allowed is not None and held.change > allowed:
        what = "of their spread" if held.classes is None else "of the classes"
        raise ValueError(
            f"max_change is {allowed:g}, but {held.change:.3g} {what} would change on samples of X "
            "that were held out: take more bits or levels, or more samples"
        )
    return small


def agreement(small: ConvertedNetwork, net: Any, X: ArrayLike) -> Agreement:
    """How far a network agrees on samples with the one that it was made of.

    Parameters
    ----------
    small : ConvertedNetwork
    net : torch.nn.Module or a network of scikit-learn
        As for :func:`compress`.
    X : (n, …) array
        Samples, best such as neither was made with.

    Returns
    -------
    Agreement
        TypeError if ``net`` is none that can be read; ValueError if X does not fit both networks.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> agreement(nh.compress(net, X, levels=64, bits=8), net, X).error < 0.1
    True
    """
    if not isinstance(small, ConvertedNetwork):
        raise TypeError(f"small must be a ConvertedNetwork, got {type(small).__name__}")
    after = small.outputs(X)
    x = tensor(X)
    steps = read(net, x[:PROBE]).steps
    with torch.no_grad():
        before = torch.cat([run(steps, rows) for rows in x.split(PROBE)])
    if before.shape != after.shape:
        raise ValueError(f"net must have {after.shape[1]} outputs, got {before.shape[1]}")
    return agreed(before, torch.from_numpy(after), small.classes is not None)


def _names(original: Original, classes: Any) -> NDArray | None:
    """What the outputs stand for; None for values."""
    own, outputs = original.classes, original.outputs
    if classes is None:
        if own is None and outputs == 1 and not original.shows:
            raise ValueError(
                "classes must name the two that net's one output tells apart, such as "
                "classes=[0, 1]; or be () where outputs are values"
            )
        classes = np.arange(max(2, outputs)) if own is None else own
    elif own is not None and np.size(own) == 0 and np.size(classes):
        raise ValueError("classes belong to a classifier; the outputs of net are values")
    return known_classes(classes, outputs)


def _compress_random(
    net: RandomMLP, X: NDArray, levels: Levels, grid: Grid, sparsity: float, seed: int, draw: bool
) -> CompressedNetwork:
    scale = float(np.sqrt(np.mean(np.sum(samples("X", X, net.p) ** 2, axis=1))))
    if abs(scale / net.tau0 - 1) > _SCALE_TOLERANCE:
        raise ValueError(
            f"X must have the scale the network was made for, tau0={net.tau0:.4g}; its rows have "
            f"root mean square norm {scale:.4g}. See ntklc_helpers.normalize"
        )
    if any(law.variance != 1 for law in net.laws[:-1]):
        raise ValueError(f"net must have weights of variance 1, got {net.law}")
    if isinstance(levels, Matching):
        matching = levels
    else:
        # The published scheme has levels of its own and takes no grid.
        own: Any = {} if isinstance(levels, str) else {"grid": grid}
        matching = match(net.activations, net.tau0, levels, **own)
    steps = matching.activations
    if (matching.tau0, len(steps)) != (net.tau0, len(net.widths)):
        raise ValueError(
            f"levels is a matching of {len(steps)} layers at tau0={matching.tau0:g}; the network "
            f"has {len(net.widths)} at tau0={net.tau0:g}"
        )
    layers, centres = [], RandomMLP(net.p, net.widths, steps, net.tau0).centres
    for i, (step, centre, width) in enumerate(zip(steps, centres, net.widths, strict=True)):
        W = None if draw else net.matrices[i].double().cpu().numpy()
        T, drawn = _ternary(W, (width, (net.p, *net.widths)[i]), sparsity, seed, i + 1)
        stairs = Quantized(step.thresholds, (np.array(step.levels) - centre) / np.sqrt(width))
        layers.append(TernaryLayer(T, (1 - sparsity) ** -0.5, stairs, drawn=drawn))
    return CompressedNetwork(layers, matching=matching)


def _ternary(
    W: NDArray[np.float64] | None, shape: tuple[int, int], sparsity: float, seed: int, layer: int
) -> tuple[TernaryMatrix, Drawn | None]:
    """Weights drawn; or the signs of W's largest, the share 1 − ε of them, at least one."""
    if W is None:
        drawn = Drawn(sparsity, seed, layer)
        return drawn.matrix(shape), drawn
    size, signs = np.abs(W).ravel(), np.sign(W).astype(np.int8)
    kept = max(1, round((1 - sparsity) * size.size))
    signs.ravel()[np.argsort(-size, kind="stable")[kept:]] = 0
    return TernaryMatrix.from_signs(signs), None


@frozen(eq=False)
class _Linear:
    """h ↦ h Wᵀ + b for rows h."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, h: NDArray[np.float64]) -> NDArray[np.float64]:
        return h @ self.weight.T + self.bias


# The hidden layers of a trained network, each with its activation.
_Hidden = list[tuple[_Linear, AnyActivation]]


def _compress_trained(
    hidden: _Hidden, X: NDArray, levels: Levels, grid: Grid, sparsity: float, seed: int, draw: bool
) -> list[TernaryLayer]:
    if not hidden:
        raise TypeError("net must have at least one Linear layer followed by an activation")
    if isinstance(levels, str | Matching):
        raise ValueError('levels="paper" or a Matching is for a RandomMLP, taken as a whole')
    counts: list[Any] = list(levels) if isinstance(levels, Sequence) else [levels] * len(hidden)
    same_length("levels", counts, "the hidden layers", len(hidden))
    before = after = samples("X", X, hidden[0][0].weight.shape[1])
    layers = []
    for i, ((linear, act), count) in enumerate(zip(hidden, counts, strict=True), start=1):
        shape, W = linear.weight.shape, None if draw else linear.weight
        T, drawn = _ternary(W, shape, sparsity, seed, i)
        u, sums = linear(before), after @ T.to_dense().T.astype(np.float64)
        if not (np.ptp(u, axis=0).any() and np.ptp(sums, axis=0).any()):
            raise ValueError("X must hold samples that differ, in every layer of the network")
        scale = float(u.std(axis=0).mean() / sums.std(axis=0).mean())
        offset = linear.bias if draw else u.mean(axis=0) - scale * sums.mean(axis=0)
        (step,) = match([act], float(np.sqrt(np.mean(u**2))), count, grid=grid).activations
        layer = TernaryLayer(T, scale, step, offset if np.any(offset) else None, drawn)
        before, after = act(u), step(scale * sums + (0 if layer.offset is None else layer.offset))
        layers.append(layer)
    return layers


def _readout(last: _Linear | None, classes: ArrayLike | None) -> Readout | None:
    if last is None:
        if classes is not None:
            raise ValueError("classes belong to a network that ends with a Linear layer")
        return None
    W, b = last.weight, last.bias
    if len(W) == 1:
        # One logit against a score of 0: the second class where it is positive.
        W, b = np.concatenate([0 * W, W]), np.concatenate([0 * b, b])
    return Readout.from_weights(W.T, b, np.arange(len(b)) if classes is None else classes)


def _sklearn_read(net: Any) -> tuple[_Hidden, _Linear]:
    """The layers of a fitted MLPClassifier."""
    if net.out_activation_ != ("logistic" if net.n_outputs_ == 1 else "softmax"):
        raise TypeError(
            f"net must be a classifier of one label a sample, got {net!r}: compress takes scores "
            "of classes; fit a model of your own on features of a network compressed without its "
            "last layer"
        )
    pairs = zip(net.coefs_, net.intercepts_, strict=True)
    *hidden, last = (_Linear(W.T.astype(np.float64), b.astype(np.float64)) for W, b in pairs)
    act = activation(SKLEARN[net.activation])
    return [(linear, act) for linear in hidden], last


def _leaves(path: str, net: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """Modules in their order, each with where it stands."""
    own = type(net).forward is not nn.Sequential.forward
    if own or net._forward_hooks or net._forward_pre_hooks:
        raise refusal(path, net, "a Sequential must run its modules and nothing else")
    for i, module in enumerate(net):
        if isinstance(module, nn.Sequential):
            yield from _leaves(f"{path}[{i}]", module)
        else:
            yield f"{path}[{i}]", module


def _modules_read(net: nn.Sequential, X: NDArray) -> tuple[_Hidden, _Linear | None, bool]:
    """The layers of a Sequential, each module held against what it makes of X.

    Then its last Linear without an activation, and whether that is shown as probabilities.
    """
    hidden: _Hidden = []
    linear: _Linear | None = None
    h = before = X[:PROBE]
    shown: NDArray | None = None
    modules = list(_leaves("net", net))
    for path, module in modules:
        # First of all: hooks of pruning and parametrisations set the weights when they run.
        found, rounding = _run(path, module, h)
        if isinstance(module, nn.Identity | nn.Dropout | nn.AlphaDropout | nn.Flatten):
            expected = h
        elif isinstance(module, nn.Linear) and linear is None:
            W = plain(module.weight)
            linear = _Linear(W, np.zeros(len(W)) if module.bias is None else plain(module.bias))
            before, expected = h, linear(h)
        elif linear is None:
            raise refusal(path, module, "only a Linear can stand here; compress what follows it")
        elif isinstance(module, nn.BatchNorm1d) and module.track_running_stats:
            linear = _folded(linear, module)
            expected = linear(before)
        elif path == modules[-1][0] and (shown := _probabilities(module, h)) is not None:
            expected = shown
        else:
            act = _activation(path, module)
            hidden, linear = [*hidden, (linear, act)], None
            expected = act(h.ravel()).reshape(h.shape)
        near = rounding**0.5 * np.abs(expected).max()
        if found.shape != expected.shape or not np.abs(found - expected).max() <= near:
            reason = "it computes something else than its type says; take off what changes it"
            raise refusal(path, module, reason)
        h = expected
    return hidden, linear, shown is not None


def _run(path: str, module: nn.Module, h: NDArray) -> tuple[NDArray, float]:
    """What a module, evaluated, makes of rows, and the relative size of its rounding."""
    try:
        found = outputs(module, torch.from_numpy(h))
    except ValueError as error:
        if isinstance(module, nn.Linear):
            raise ValueError(f"X must fit net: {path} is {module}, got {h.shape}") from error
        raise refusal(path, module, "it takes no rows (n, p); compress what follows") from error
    return found.double().cpu().numpy(), torch.finfo(found.dtype).eps


def _folded(linear: _Linear, norm: nn.BatchNorm1d) -> _Linear:
    """The layer and the batch norm after it, with its running statistics, as one."""
    gain = (plain(norm.running_var) + norm.eps) ** -0.5
    gain, shift = (gain * plain(norm.weight), plain(norm.bias)) if norm.affine else (gain, 0.0)
    bias = gain * (linear.bias - plain(norm.running_mean)) + shift
    return _Linear(gain[:, None] * linear.weight, bias)


def _probabilities(module: nn.Module, h: NDArray) -> NDArray | None:
    """What a last module that only shows scores h as probabilities makes of them."""
    scores = torch.from_numpy(h)
    if isinstance(module, nn.Sigmoid) and h.shape[1] == 1:
        return torch.sigmoid(scores).numpy()
    shows = {nn.Softmax: torch.softmax, nn.LogSoftmax: torch.log_softmax}.get(type(module))
    return None if shows is None else shows(scores, 1).numpy()


def _activation(path: str, module: nn.Module) -> AnyActivation:
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return activation("leaky_relu", slope=module.weight.item())
    try:
        return from_module(module)
    except TypeError:
        own = deepcopy(module).cpu().double().eval().requires_grad_(False)
    try:
        kinks = getattr(module, "breakpoints", None)
        found = activation(own, name=type(module).__name__, breakpoints=kinks)
        gaussian_moments(found, 1.0)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = "only an elementwise activation can stand here, kinks named in its `breakpoints`"
        raise refusal(path, module, reason) from error
    return found
