"""Pruning of any torch module: at random or by magnitude, round after round, and rewinding.

Masks are those of ``torch.nn.utils.prune``: a pruned layer has a parameter ``weight_orig`` and a
buffer ``weight_mask``, and computes with their product, so gradients of pruned weights are zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import nn
from torch.nn.utils import prune

from .._checks import inside, one_of, whole

STRATEGIES = ("random", "magnitude")


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
) -> nn.Module:
    """Prune a fraction of the weights that are left, counted over all layers together, in place.

    Parameters
    ----------
    fraction : float
        In (0, 1), of the weights not yet pruned: k rounds give a sparsity of 1 − (1 − fraction)^k.
    strategy : {"random", "magnitude"}
        Which go: a uniform draw, or those of the least absolute value.
    layers : sequence of str, optional
        Names of the layers, as in ``module.named_modules()``; by default all that have a matrix
        of weights. Biases and normalisations are never pruned.
    seed : int
        Of the random draw; the same on every device.

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
    share = inside("fraction", fraction)
    one_of("strategy", strategy, STRATEGIES)
    seed, present = whole("seed", seed, 0, 2**64 - 1), masks(module, layers)
    kept = torch.cat([mask.flatten() for mask in present.values()])
    alive = kept.nonzero()[:, 0]
    amount = round(share * len(alive))
    if not 0 < amount < len(alive):
        raise ValueError(f"fraction {share:g} of the {len(alive)} weights left is {amount}")
    if strategy == "random":
        # On the CPU and from a seed of its own: the same everywhere, torch's global one untouched.
        order = torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))
        chosen = order[:amount].to(kept.device)
    else:
        weights = [_trained(module.get_submodule(name)).detach().flatten() for name in present]
        chosen = torch.cat(weights).abs()[alive].topk(amount, largest=False).indices
    kept[alive[chosen]] = False
    parts = iter(kept.split([mask.numel() for mask in present.values()]))
    return apply_masks(module, {n: next(parts).view_as(mask) for n, mask in present.items()})


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

    ``rescale`` multiplies the weights of a layer of which the share α is left by α^(−½), so that
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
