"""Pruning of any torch module: at random or by a score, round after round, and rewinding.

Masks are those of ``torch.nn.utils.prune``: a pruned layer has a parameter ``weight_orig`` and a
buffer ``weight_mask``, and computes with their product, so gradients of pruned weights are zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from numpy.typing import ArrayLike
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import prune

from .._checks import inside, labels, one_of, whole

CRITERIA = ("magnitude", "snip", "grasp", "synflow")
STRATEGIES = ("random", *CRITERIA)

# What the authors of GraSP divide a network's outputs by, before the softmax.
_TEMPERATURE = 200.0


@frozen
class Sparsity:
    """How many weights are left: ``kept`` and ``size`` by layer's name."""

    kept: dict[str, int]
    size: dict[str, int]

    @property
    def layers_left(self) -> dict[str, float]:
        """Share of the weights that are left, by layer."""
        return {name: self.kept[name] / size for name, size in self.size.items()}

    @property
    def left(self) -> float:
        """Share of all these weights that are left."""
        return sum(self.kept.values()) / sum(self.size.values())

    @property
    def overall(self) -> float:
        """Share of all these weights that are pruned: the sparsity."""
        return 1 - self.left


def prunable_layers(module: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The layers with a matrix of weights, or those named; a ValueError if there is none such."""
    found = {
        name: part
        for name, part in module.named_modules()
        if isinstance(getattr(part, "weight", None), torch.Tensor) and part.weight.ndim >= 2
    }
    if unknown := sorted(set(layers or ()) - set(found)):
        raise ValueError(f"layers {unknown} cannot be pruned; known: {', '.join(found)}")
    chosen = found if layers is None else {name: found[name] for name in layers}
    if not chosen:
        raise ValueError("module must have at least one layer with a matrix of weights")
    return chosen


def prune_globally(
    module: nn.Module,
    fraction: float,
    strategy: str = "random",
    *,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    X: torch.Tensor | None = None,
    y: ArrayLike | None = None,
    rounds: int = 100,
) -> nn.Module:
    """Prune a fraction of the weights that are left, counted over all layers together, in place.

    Parameters
    ----------
    fraction : float
        In (0, 1), of the weights not yet pruned: k times give a sparsity of 1 − (1 − fraction)^k.
    strategy : {"random", "magnitude", "snip", "grasp", "synflow"}
        Which go: a uniform draw, or those of the least :func:`saliencies`.
    layers : sequence of str, optional
        Names of the layers, as in ``module.named_modules()``; by default all that have a matrix
        of weights. Biases and normalisations are never pruned.
    seed : int
        Of the random draw; the same on every device.
    X, y : tensor of inputs and their labels
        What saliencies are of, as there.
    rounds : int
        For "synflow" alone, in how many steps it prunes, each by the saliencies of what is left,
        the share that is left falling by one factor each time; the paper takes 100.

    Returns
    -------
    torch.nn.Module
        ``module``.

    Raises
    ------
    ValueError
        If an argument is not as stated, or so few weights are left that the fraction would be
        none or all of them. The module is then as it was.

    Examples
    --------
    >>> net = nh.compression.prune_globally(torch.nn.Linear(20, 10), 0.5, "magnitude")
    >>> nh.compression.sparsity(nh.compression.prune_globally(net, 0.5)).overall
    0.75
    """
    share, strategy = inside("fraction", fraction), one_of("strategy", strategy, STRATEGIES)
    seed, rounds = whole("seed", seed, 0, 2**64 - 1), whole("rounds", rounds)
    present = masks(module, layers)
    alive = sum(int(mask.sum()) for mask in present.values())
    if not 0 < (amount := round(share * alive)) < alive:
        raise ValueError(f"fraction {share:g} of the {alive} weights left is {amount}")
    if strategy == "random":
        # On the CPU and from a seed of its own: the same everywhere, torch's global one untouched.
        order = torch.randperm(alive, generator=torch.Generator().manual_seed(seed))
        return apply_masks(module, _without(present, order.argsort(), amount))
    steps = rounds if strategy == "synflow" else 1
    for step in range(1, steps + 1):
        found = _saliencies(module, strategy, present, X, y)
        scores = torch.cat([found[name][mask] for name, mask in present.items()])
        after = alive * (1 - amount / alive) ** (step / steps)
        present = _without(present, scores, len(scores) - round(after))
    return apply_masks(module, present)


def _without(
    masks: Mapping[str, torch.Tensor], scores: torch.Tensor, amount: int
) -> dict[str, torch.Tensor]:
    """Masks less the weights of the least scores, which are one for each weight left, in order."""
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    chosen = scores.to(kept.device).topk(amount, largest=False).indices
    kept[kept.nonzero()[chosen, 0]] = False
    parts = iter(kept.split([mask.numel() for mask in masks.values()]))
    return {name: next(parts).view_as(mask) for name, mask in masks.items()}


def saliencies(
    module: nn.Module,
    criterion: str,
    X: torch.Tensor | None = None,
    y: ArrayLike | None = None,
    *,
    layers: Sequence[str] | None = None,
) -> dict[str, torch.Tensor]:
    """How much each weight is worth, by one criterion; the least are pruned first.

    The module is evaluated: no dropout, running statistics. It stays as it is, with its gradients.

    Parameters
    ----------
    criterion : {"magnitude", "snip", "grasp", "synflow"}
        ``"magnitude"``: ``|w|``. ``"snip"``: ``|w ∂L/∂w|``, of sum 1 over all the layers, L the
        mean cross-entropy. ``"grasp"``: w (Hg), g and H being gradient and Hessian of L in the
        weights of these layers, with outputs divided by 200 as the authors have it.
        ``"synflow"``: w ∂R/∂w, R the sum of the outputs for an input of ones, with the absolute
        values of all parameters in place of these; in float64.
    X : (n, ...) tensor
        Inputs, on the module's device. For "snip" and "grasp"; "synflow" takes the shape of
        one alone, and "magnitude" nothing.
    y : (n,) whole numbers
        Classes, for "snip" and "grasp".
    layers : sequence of str, optional
        As for :func:`prune_globally`.

    Returns
    -------
    dict of str to torch.Tensor
        Of each layer, of the shape of its weights; 0 where they are pruned.

    Raises
    ------
    ValueError
        If an argument is not as stated or X does not fit the module, or if a saliency is not
        finite, or no weight has any.

    Notes
    -----
    N. Lee, T. Ajanthan and P. Torr, ICLR 2019, arXiv:1810.02340. C. Wang, G. Zhang and R. Grosse,
    ICLR 2020, arXiv:2002.07376: the gradient's squared norm changes by −2 w (Hg) to first order
    where w goes. H. Tanaka, D. Kunin, D. Yamins and S. Ganguli, NeurIPS 2020, arXiv:2006.05467:
    in a network of homogeneous activations without biases each layer's saliencies have one sum, R.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> found = nh.compression.saliencies(net, "snip", torch.randn(20, 8), [0, 1] * 10)
    >>> {name: tuple(scores.shape) for name, scores in found.items()}
    {'0': (5, 8), '2': (2, 5)}
    >>> round(sum(scores.sum().item() for scores in found.values()), 5)
    1.0
    """
    one_of("criterion", criterion, CRITERIA)
    return _saliencies(module, criterion, masks(module, layers), X, y)


def _saliencies(
    module: nn.Module,
    criterion: str,
    present: Mapping[str, torch.Tensor],
    X: torch.Tensor | None,
    y: ArrayLike | None,
) -> dict[str, torch.Tensor]:
    """As :func:`saliencies`, for the module with these masks."""
    weights = {name: _trained(module.get_submodule(name)).detach() for name in present}
    if criterion == "magnitude":
        return {name: w.abs() * present[name] for name, w in weights.items()}
    if not isinstance(X, torch.Tensor) or X.ndim < 2 or not len(X):
        raise ValueError(f"X must be a tensor of inputs, a row each, to prune by {criterion}")
    if criterion == "synflow":
        # A product over layers: single precision does not hold that of a deep network.
        weights = {name: w.double().abs() for name, w in weights.items()}
        X = torch.ones_like(X[:1], dtype=torch.float64)
    leaves = [w.clone().requires_grad_() for w in weights.values()]
    with torch.enable_grad(), _as_it_was(module):
        used = {n: w * m for w, (n, m) in zip(leaves, present.items(), strict=True)}
        out = _outputs(module, used, X, absolute=criterion == "synflow")
        of = out.sum() if criterion == "synflow" else _loss(out, y, criterion)
        slopes = torch.autograd.grad(
            of, leaves, create_graph=criterion == "grasp", materialize_grads=True
        )
        if criterion == "grasp":
            squared = torch.stack([(g.detach() * g).sum() for g in slopes]).sum()
            slopes = torch.autograd.grad(squared, leaves, materialize_grads=True)
    found = [w.detach() * g for w, g in zip(leaves, slopes, strict=True)]
    total = torch.stack([scores.abs().sum() for scores in found]).sum()
    if not 0 < total < torch.inf:
        raise ValueError(
            f"saliencies by {criterion} must be finite and not all 0; they sum to {total:g}"
        )
    if criterion == "snip":
        found = [scores.abs() / total for scores in found]
    return dict(zip(present, found, strict=True))


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, and afterwards as before, with the products that pruned layers hold."""
    parts = [(part, part.training, vars(part).get("weight")) for part in module.modules()]
    try:
        for part, *_ in parts:
            part.training = False
        yield
    finally:
        for part, mode, product in parts:
            part.training = mode
            if product is not None:
                part.weight = product


def _outputs(
    module: nn.Module, weights: Mapping[str, torch.Tensor], X: torch.Tensor, *, absolute: bool
) -> torch.Tensor:
    """Of the module with other weights in some layers, in the inputs' precision if ``absolute``."""
    values = {name: value.detach() for name, value in module.named_parameters()}
    buffers = {name: value.detach().clone() for name, value in module.named_buffers()}
    if absolute:
        values = {name: value.abs().to(X) for name, value in values.items()}
        floats = {name: v.to(X) for name, v in buffers.items() if v.is_floating_point()}
        buffers |= floats
    for name, weight in weights.items():
        pruned = hasattr(module.get_submodule(name), "weight_orig")
        values[f"{name}.weight{'_orig' * pruned}".lstrip(".")] = weight
    try:
        return functional_call(module, values | buffers, (X,))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        shape = tuple(X.shape)
        raise ValueError(f"X, of shape {shape}, must fit the module: {error}") from error


def _loss(out: torch.Tensor, y: ArrayLike | None, criterion: str) -> torch.Tensor:
    """Mean cross-entropy of outputs (n, K), for labels among 0 … K − 1."""
    if y is None:
        raise ValueError(f"y must hold the classes of X to prune by {criterion}")
    found = labels("y", y, len(out))
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= out.shape[1]:
        raise ValueError(f"y must be whole numbers among the classes 0 to {out.shape[1] - 1}")
    scores = out / _TEMPERATURE if criterion == "grasp" else out
    return F.cross_entropy(scores, torch.as_tensor(found, dtype=torch.int64, device=out.device))


def _trained(layer: nn.Module) -> nn.Parameter:
    """The trained tensor behind ``weight``."""
    return layer.get_parameter("weight_orig" if hasattr(layer, "weight_orig") else "weight")


def masks(module: nn.Module, layers: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Boolean mask of each layer, true where a weight is left."""
    return {
        name: getattr(layer, "weight_mask", torch.ones_like(_trained(layer))).bool()
        for name, layer in prunable_layers(module, layers).items()
    }


def apply_masks(module: nn.Module, masks: Mapping[str, torch.Tensor]) -> nn.Module:
    """Prune what the masks say, on top of what is pruned already, in place.

    If a name is not that of a layer with a matrix of weights, or a shape does not fit, a
    ValueError leaves the module as it was.
    """
    chosen = prunable_layers(module, list(masks))
    for name, layer in chosen.items():
        shape, found = tuple(_trained(layer).shape), tuple(masks[name].shape)
        if found != shape:
            raise ValueError(f"masks[{name!r}] must have shape {shape}, got {found}")
    for name, layer in chosen.items():
        prune.custom_from_mask(layer, "weight", masks[name].to(_trained(layer)))
    return module


def sparsity(module: nn.Module, layers: Sequence[str] | None = None) -> Sparsity:
    """How many weights are left in each layer: not masked, and where there are no masks, not 0.

    ``layers`` are as for :func:`prune_globally`, errors too.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> nh.compression.sparsity(nh.compression.prune_globally(net, 0.5, layers=["0"])).layers_left
    {'0': 0.5, '2': 1.0}
    """
    chosen = prunable_layers(module, layers)
    left: dict[str, Any] = {n: getattr(la, "weight_mask", la.weight) for n, la in chosen.items()}
    return Sparsity(
        {name: int(torch.count_nonzero(found)) for name, found in left.items()},
        {name: found.numel() for name, found in left.items()},
    )


def _pruned_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Pruned layers, by the name that their weights have in an unpruned module."""
    parts = module.named_modules()
    return {f"{n}.weight".lstrip("."): part for n, part in parts if hasattr(part, "weight_mask")}


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers but the masks, under the names they have in an unpruned module."""
    names = {f"{name}_orig": name for name in _pruned_layers(module)}
    masks = {f"{name}_mask" for name in names.values()}
    state = module.state_dict().items()
    return {names.get(name, name): value for name, value in state if name not in masks}


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers but the masks, under the names they had unpruned.

    Returns
    -------
    dict of str to torch.Tensor
        What :func:`rewind` takes.

    Examples
    --------
    >>> list(nh.compression.snapshot(nh.compression.prune_globally(torch.nn.Linear(8, 5), 0.5)))
    ['bias', 'weight']
    """
    return {name: value.clone() for name, value in _tensors(module).items()}


def rewind(
    module: nn.Module, state: Mapping[str, torch.Tensor], *, rescale: bool = False
) -> nn.Module:
    """Set parameters and buffers back to a :func:`snapshot`, keeping the masks, in place.

    ``rescale`` multiplies the weights of a layer of which the share χ is left by χ^(−½), so that
    the sum of their squares is about what it was before pruning. Raises ValueError if names or
    shapes in ``state`` are not the module's, which is then as it was.

    Returns
    -------
    torch.nn.Module
        ``module``.

    Examples
    --------
    >>> net = torch.nn.Linear(8, 5)
    >>> first = nh.compression.snapshot(net)
    >>> net = nh.compression.rewind(nh.compression.prune_globally(net, 0.75), first, rescale=True)
    >>> torch.equal(net.weight, 2 * first["weight"] * net.weight_mask)
    True
    """
    target = _tensors(module)
    shapes, given = ({k: v.shape for k, v in found.items()} for found in (target, state))
    if different := sorted({name for name, _ in shapes.items() ^ given.items()}):
        raise ValueError(f"state must hold the module's tensors; these differ: {different}")
    for name, value in state.items():
        target[name].copy_(value)
    for name, layer in _pruned_layers(module).items():
        mask = layer.get_buffer("weight_mask")
        left = mask.mean().item()
        # A layer may lose all its weights: there is nothing to rescale then.
        target[name].mul_(left**-0.5 if rescale and left else 1.0)
        layer.weight = target[name] * mask
    return module
