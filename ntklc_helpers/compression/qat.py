"""A network made ready to be trained on the codes and levels that it will be saved with."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn.utils import parametrize

from .._checks import share, whole
from .calibrate import MOST_LEVELS, bits_of_layers
from .codes import Codes, Staircase
from .converted import tensor
from .operations import Affine, Applied
from .reading import evaluated, read, refusal
from .rounding import Bits

# Samples that levels are chosen on.
_SAMPLES = 512


def prepare_qat(
    net: nn.Module,
    X: ArrayLike,
    *,
    levels: int = 16,
    bits: Bits | Sequence[Bits] = "ternary",
    sparsity: float = 0.5,
    input_levels: int | None = None,
) -> nn.Module:
    """A copy of a network whose weights are on codes and activations on levels while it is trained.

    Any training of torch's does, from new weights or those that net has: gradients pass what rounds
    by the straight-through estimator (:mod:`~ntklc_helpers.compression.codes`). Then
    ``nh.compress(copy, X)`` takes it as it is, with nothing left to round. Levels are the uniform
    ones of least error of what each activation gives on X, with the normalisations at the
    statistics of X, and stay; a power of two apart, so that the compressed network's sums are exact
    and its classes the same in any order of summation. Named after ``prepare_qat`` of torch.ao.

    Parameters
    ----------
    net : torch.nn.Module
        As for :func:`compress` with bits; each activation a module of its own that does not fall,
        and best with a normalisation before it.
    X : (n, …) array
        Samples to fit levels on: the first 512 are used.
    levels : int
        Of each activation, from 2 to 256.
    bits : "ternary", 2, 3, 4, 8 or a sequence
        Of the weights, as for :func:`compress`.
    sparsity : float
        In [0, 1), the share of zeros among a layer's ternary weights.
    input_levels : int, optional
        Levels that the inputs themselves are rounded to first, from 2 to 256: then the first
        layer's sums are exact, too.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
        For what :func:`compress` refuses, or an activation that is not a module of its own.
    ValueError
        If an argument is out of range, or X does not fit the network or does not vary in a layer.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> ready = nh.compression.prepare_qat(net, X, levels=4, input_levels=8)
    >>> nh.compress(ready, X)
    ConvertedNetwork(shape=(2,), bits=('ternary', 8), levels=(8, 4), classes=2)
    """
    sparsity = share("sparsity", sparsity)
    count = whole("levels", levels, 2, MOST_LEVELS)
    x = tensor(X)[:_SAMPLES]
    net = deepcopy(net)
    steps = read(net, x).steps
    layers = [step for step in steps if isinstance(step.operation, Affine)]
    found = zip(layers, bits_of_layers(steps, bits), strict=True)
    activations = {
        step.path: _module(net, step.path) for step in steps if isinstance(step.operation, Applied)
    }
    given = _given(net, list(activations.values()), x)
    for path, module in activations.items():
        if not given[module]:
            raise refusal(path, module, "it is not used")
        _replace(net, path, _staircase(path, module, given[module], count))
    for step, width in found:
        layer = _module(net, step.path)
        parametrize.register_parametrization(layer, "weight", Codes(width, sparsity), unsafe=True)
    if input_levels is None:
        return net
    count = whole("input_levels", input_levels, 2, MOST_LEVELS)
    return nn.Sequential(Staircase.fitted(nn.Identity(), x, count), net)


def _names(path: str) -> str:
    """A place as torch names it: ``net[0].body`` is ``0.body``."""
    return path.removeprefix("net").replace("[", ".").replace("]", "").removeprefix(".")


def _module(net: nn.Module, path: str) -> nn.Module:
    try:
        return net.get_submodule(_names(path))
    except AttributeError:
        reason = "to be trained on levels it must be a module of its own, such as torch.nn.ReLU()"
        raise refusal(path, "function", reason) from None


def _given(net: nn.Module, modules: list[nn.Module], x: torch.Tensor) -> dict[Any, list]:
    """What modules are given while the network is trained, at its weights now."""
    given: dict[Any, list] = {module: [] for module in modules}

    def note(module: nn.Module, args: tuple) -> None:
        given[module].append(args[0].detach())

    trained = deepcopy(net.state_dict())
    hooks = [module.register_forward_pre_hook(note) for module in modules]
    try:
        with evaluated(net), torch.no_grad():
            # Statistics of normalisations that have seen no data say nothing yet.
            for part in net.modules():
                part.training = isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
            net(x.to(next(net.parameters())))
    finally:
        for hook in hooks:
            hook.remove()
        net.load_state_dict(trained)
    return given


def _staircase(path: str, module: nn.Module, given: list[torch.Tensor], count: int) -> Staircase:
    found = Staircase.fitted(module, torch.cat([u.flatten() for u in given]), count)
    try:
        found.quantised()
    except ValueError as error:
        raise refusal(path, module, str(error)) from error
    return found


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = _names(path).rpartition(".")
    setattr(net.get_submodule(owner), name, module)
