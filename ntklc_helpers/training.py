"""Training networks: a dense one, and the same magnitude-pruned and trained on.

Every training minimises the softmax cross-entropy by Adam under a one-cycle schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.utils import prune

from .optimise import Labelled, LabelledData, Options, classes, minimise
from .validation import (
    positive,
    positive_integer,
    sample_matrix,
    sparsity_below_one,
)


@dataclass(frozen=True, eq=False)
class Training:
    """A trained network, and how it got there.

    Attributes
    ----------
    model : torch.nn.Sequential or TernaryNetwork
        On the CPU; takes a float32 tensor (n, p) to logits (n, K).
    losses : tuple of float
        Mean cross-entropy of the training batches, one an epoch, in nats.
    accuracies : tuple of float
        On the validation set after each epoch, in [0, 1]; empty without one.
    """

    model: Callable[[torch.Tensor], torch.Tensor]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    def predict(self, X: ArrayLike, batch_size: int = 1000) -> NDArray[np.int64]:
        """Classes (n,) of the rows of X, shape (n, p)."""
        X = torch.from_numpy(sample_matrix("X", X)).float()
        return classes(self.model, X, batch_size).numpy()


def train_dense(
    X: ArrayLike,
    y: ArrayLike,
    widths: Sequence[int],
    *,
    epochs: int,
    seed: int,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    validation: Labelled | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Training:
    """A ReLU network, all weights and biases trained.

    Parameters
    ----------
    X : (n, p) array
    y : (n,) whole numbers 0 … K − 1, every class present
    widths : sequence of int
        Of the hidden layers.
    epochs, batch_size : int
    seed : int
        Of the weights at the start and of the batches.
    learning_rate : float
        Highest of the one-cycle schedule.
    validation : (X, y), optional
        Classified after each epoch; training does not see it.
    device : optional
        CUDA where there is one, by default.
    dtype : torch.dtype
        Of the matrix products while training: torch.float32, or torch.bfloat16 where that is
        faster. Weights are float32.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Training
        Its model: a torch.nn.Sequential of Linear and ReLU.

    Raises
    ------
    ValueError
        If an argument is out of range, or labels do not fit.
    """
    learning_rate = positive("learning_rate", learning_rate)
    widths = [positive_integer("widths", width) for width in widths]
    if not widths:
        raise ValueError("widths must have at least one entry")
    options = Options(epochs, batch_size, seed, device, dtype, progress)
    data = LabelledData.checked(X, y, validation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [data.X.shape[1], *widths]
        hidden = [
            layer
            for d_in, d_out in zip(sizes, widths, strict=False)
            for layer in (nn.Linear(d_in, d_out), nn.ReLU())
        ]
        model = nn.Sequential(*hidden, nn.Linear(widths[-1], data.n_classes))
    _scale_input(model, 1 / data.scale)
    return _train_sequential(model, data, learning_rate, options)


def prune_and_finetune(
    model: nn.Sequential,
    sparsity: float,
    X: ArrayLike,
    y: ArrayLike,
    *,
    epochs: int,
    seed: int,
    scope: str = "layer",
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    validation: Labelled | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Training:
    """Zero the smallest hidden weights of a trained network and train the others on.

    The readout, the last Linear, is not pruned. ``model`` is left as it is.

    Parameters
    ----------
    model : torch.nn.Sequential
        Linear layers, at least two, and activations.
    sparsity : float
        Share of hidden weights to zero, in [0, 1).
    scope : "layer" or "global"
        Rank weights within each layer, or over all hidden layers together.
    X, y, epochs, seed, batch_size, learning_rate, validation, device, dtype, progress
        As in :func:`train_dense`.

    Returns
    -------
    Training
        Its model has plain Linear layers with zeros; :func:`hidden_sparsity` counts them.

    Raises
    ------
    ValueError
        If an argument is out of range, or labels do not fit.
    TypeError
        If ``model`` is not a Sequential with at least two Linear layers.
    """
    sparsity_below_one(sparsity)
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', got {scope!r}")
    hidden = _linears(model)[:-1]
    options = Options(epochs, batch_size, seed, device, dtype, progress)
    data = LabelledData.checked(X, y, validation)
    if hidden[0].in_features != data.X.shape[1]:
        raise ValueError(f"X must have {hidden[0].in_features} columns, got {data.X.shape[1]}")
    learning_rate = positive("learning_rate", learning_rate)

    def mask(model: nn.Sequential) -> None:
        targets = [(layer, "weight") for layer in _linears(model)[:-1]]
        if scope == "global":
            prune.global_unstructured(targets, prune.L1Unstructured, amount=sparsity)
            return
        for layer, name in targets:
            prune.l1_unstructured(layer, name, amount=sparsity)

    return _train_sequential(deepcopy(model).cpu(), data, learning_rate, options, mask)


def hidden_sparsity(model: nn.Sequential) -> tuple[float, ...]:
    """Share of zero weights in each Linear layer but the last."""
    return tuple((layer.weight == 0).double().mean().item() for layer in _linears(model)[:-1])


def _train_sequential(
    model: nn.Sequential,
    data: LabelledData,
    learning_rate: float,
    options: Options,
    prepare: Callable[[nn.Sequential], None] = lambda model: None,
) -> Training:
    """Train with inputs of mean square 1, the scale that Linear's initial weights are made for.

    The model takes and returns inputs as they come; ``prepare`` sees it as it trains.
    """
    scale, validation = data.scale, data.validation
    if validation is not None:
        validation = validation[0] / scale, validation[1]
    scaled = replace(data, X=data.X / scale, validation=validation)
    _scale_input(model, scale)
    prepare(model)
    model.to(options.device)

    def products() -> AbstractContextManager:
        enabled = options.dtype != torch.float32
        return torch.autocast(options.place.type, dtype=torch.bfloat16, enabled=enabled)

    groups = [(list(model.parameters()), learning_rate)]
    losses, accuracies = minimise(model, groups, scaled, options, products=products)
    model.cpu()
    for layer in _linears(model):
        if prune.is_pruned(layer):
            prune.remove(layer, "weight")
    _scale_input(model, 1 / scale)
    return Training(model, losses, accuracies)


def _scale_input(model: nn.Sequential, scale: float) -> None:
    """Make the model do to x what it did to ``scale`` · x."""
    with torch.no_grad():
        _linears(model)[0].weight.mul_(scale)


def _linears(model: nn.Sequential) -> list[nn.Linear]:
    found = (
        [m for m in model if isinstance(m, nn.Linear)] if isinstance(model, nn.Sequential) else []
    )
    if len(found) < 2:
        raise TypeError(
            "model must be a torch.nn.Sequential with at least two Linear layers, "
            f"got {type(model).__name__}"
        )
    return found
