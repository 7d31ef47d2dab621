"""Pruning of any torch module: at random or by magnitude, level after level, and rewinding.

Masks are those of ``torch.nn.utils.prune``: a pruned layer has a parameter ``weight_orig`` and a
buffer ``weight_mask``, and computes with their product, so gradients of pruned weights are zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import prune

STRATEGIES = ("random", "magnitude")


class _Random(prune.BasePruningMethod):
    """Uniform choice among what is left, from a seed of its own (torch's takes the global one)."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: int, seed: int) -> None:
        self.amount, self.seed = amount, seed

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(t.numel(), generator=generator)[: self.amount]
        mask = default_mask.clone()
        mask.view(-1)[chosen.to(mask.device)] = 0
        return mask


@dataclass(frozen=True)
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
    """The layers of linear and convolutional kind, by name; or only those named.

    Raises
    ------
    ValueError
        If a name is not that of such a layer, or there is none.
    """
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
    module : torch.nn.Module
    fraction : float
        In (0, 1), of the weights not yet pruned. Called k times, (1 − fraction)^k are left.
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
        The same module.

    Raises
    ------
    ValueError
        If an argument is not as stated, or so few weights are left that the fraction would be
        none or all of them. The module is then as it was.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ValueError(f"fraction must be a number in (0, 1), got {fraction!r}")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    chosen = prunable_layers(module, layers)
    left = sum(sparsity(module, list(chosen)).kept.values())
    amount = round(fraction * left)
    if not 0 < amount < left:
        raise ValueError(f"fraction {fraction:g} of the {left} weights left is {amount}")
    parameters = [(layer, "weight") for layer in chosen.values()]
    if strategy == "random":
        prune.global_unstructured(parameters, _Random, amount=amount, seed=seed)
    else:
        # `weight` is a product made in the last forward pass: an optimizer's step is not in it.
        scores = {(layer, "weight"): _parameter(layer).detach() for layer in chosen.values()}
        prune.global_unstructured(parameters, prune.L1Unstructured, scores, amount=amount)
    return module


def _parameter(layer: nn.Module) -> nn.Parameter:
    """The trained tensor behind ``weight``."""
    name = "weight_orig" if hasattr(layer, "weight_orig") else "weight"
    return layer.get_parameter(name)


def masks(module: nn.Module, layers: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Boolean mask of each layer, true where a weight is left."""
    return {
        name: getattr(layer, "weight_mask", torch.ones_like(_parameter(layer))).bool()
        for name, layer in prunable_layers(module, layers).items()
    }


def apply_masks(module: nn.Module, masks: Mapping[str, torch.Tensor]) -> nn.Module:
    """Prune what the masks say, on top of what is pruned already, in place.

    Raises
    ------
    ValueError
        If a name is not that of a layer with a matrix of weights, or a shape does not fit; the
        module is then as it was.
    """
    chosen = prunable_layers(module, list(masks))
    for name, layer in chosen.items():
        if masks[name].shape != _parameter(layer).shape:
            raise ValueError(
                f"masks[{name!r}] must have shape {tuple(_parameter(layer).shape)}, "
                f"got {tuple(masks[name].shape)}"
            )
    for name, layer in chosen.items():
        prune.custom_from_mask(layer, "weight", masks[name].to(_parameter(layer)))
    return module


def sparsity(module: nn.Module, layers: Sequence[str] | None = None) -> Sparsity:
    """How many weights are left in each layer, and in all of them."""
    present = masks(module, layers)
    return Sparsity(
        {name: int(mask.sum()) for name, mask in present.items()},
        {name: mask.numel() for name, mask in present.items()},
    )


def _pruned_weights(module: nn.Module) -> dict[str, nn.Module]:
    """Pruned layers, by the name that their weights have in an unpruned module."""
    return {
        f"{name}.weight".removeprefix("."): part
        for name, part in module.named_modules()
        if hasattr(part, "weight_mask")
    }


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers but the masks, under the names they had unpruned."""
    pruned = _pruned_weights(module)
    own = {}
    for key, value in module.state_dict().items():
        plain = key.removesuffix("_orig")
        if key.removesuffix("_mask") not in pruned:
            own[plain if plain in pruned else key] = value.clone()
    return own


def rewind(
    module: nn.Module, state: Mapping[str, torch.Tensor], *, rescale: bool = False
) -> nn.Module:
    """Set parameters and buffers back to ``state``, keeping the masks, in place.

    Parameters
    ----------
    module : torch.nn.Module
    state : mapping
        From :func:`snapshot`, taken before or after pruning.
    rescale : bool
        Multiply the weights of a layer of which the share α is left by α^(−½), so that the sum of
        their squares is about what it was before pruning.

    Raises
    ------
    ValueError
        If the names or shapes in ``state`` are not the module's; the module is then as it was.
    """
    shapes = {key: value.shape for key, value in snapshot(module).items()}
    given = {key: value.shape for key, value in state.items()}
    if different := sorted(key for key, _ in shapes.items() ^ given.items()):
        raise ValueError(
            f"state must hold the module's tensors; these differ: {sorted(set(different))}"
        )
    pruned, target = _pruned_weights(module), module.state_dict()
    for key, value in state.items():
        if key not in pruned:
            target[key].copy_(value)
            continue
        layer = pruned[key]
        mask = layer.get_buffer("weight_mask")
        share = mask.mean().item()
        # A layer may lose all its weights: there is nothing to rescale then.
        target[f"{key}_orig"].copy_(value * (share**-0.5 if rescale and share else 1.0))
        layer.weight = target[f"{key}_orig"] * mask
    return module
