"""Training networks: a dense one, and the same magnitude-pruned and trained on.

Every training minimises the softmax cross-entropy by Adam under a one-cycle schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.utils import prune
from tqdm import tqdm

from .validation import (
    class_labels,
    positive,
    positive_integer,
    sample_matrix,
    seed_number,
    sparsity_below_one,
)

Labelled = tuple[ArrayLike, ArrayLike]


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
        return _classes(self.model, X, batch_size).numpy()


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


@dataclass(frozen=True)
class Options:
    """How to train, checked."""

    epochs: int
    batch_size: int
    seed: int
    device: torch.device | str | None
    dtype: torch.dtype
    progress: bool

    def __post_init__(self) -> None:
        positive_integer("epochs", self.epochs)
        positive_integer("batch_size", self.batch_size)
        seed_number(self.seed)
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {self.dtype!r}")
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        object.__setattr__(self, "device", torch.device(device))

    @property
    def place(self) -> torch.device:
        """The device, chosen when there was none."""
        return torch.device(self.device or "cpu")


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Rows and labels as tensors, float32 and int64, checked."""

    X: torch.Tensor
    y: torch.Tensor
    n_classes: int
    validation: tuple[torch.Tensor, torch.Tensor] | None

    @cached_property
    def scale(self) -> float:
        """Root mean square of the entries of X."""
        return self.X.square().mean().sqrt().item()

    @classmethod
    def checked(cls, X: ArrayLike, y: ArrayLike, validation: Labelled | None) -> LabelledData:
        X = sample_matrix("X", X)
        y = class_labels("y", y, len(X))
        n_classes = int(y.max()) + 1
        if n_classes < 2:
            raise ValueError("y must hold at least two classes")
        if validation is not None:
            validation = _checked_validation(validation, X.shape[1], n_classes)
        return cls(torch.from_numpy(X).float(), torch.from_numpy(y), n_classes, validation)


def _checked_validation(
    validation: Labelled, p: int, n_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    X, y = sample_matrix("validation X", validation[0]), np.asarray(validation[1])
    if X.shape[1] != p:
        raise ValueError(f"validation X must have {p} columns, as X has, got {X.shape[1]}")
    if y.shape != (len(X),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"validation y must be whole numbers, one for each of {len(X)} rows")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"validation y must be among the classes of y, 0 to {n_classes - 1}")
    return torch.from_numpy(X).float(), torch.from_numpy(y.astype(np.int64))


def minimise(
    model: nn.Module,
    rates: Sequence[tuple[Sequence[nn.Parameter], float]],
    data: LabelledData,
    options: Options,
    after_step: Callable[[int], None] = lambda step: None,
    products: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Train each group of parameters up to its rate; losses and accuracies, one an epoch.

    ``after_step`` gets the number of steps done, ``products`` makes a context for forward passes.
    """
    X, y = data.X.to(options.device), data.y.to(options.device)
    per_epoch = math.ceil(len(X) / options.batch_size)
    optimiser = torch.optim.Adam([{"params": p, "lr": rate} for p, rate in rates], fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[rate for _, rate in rates],
        total_steps=per_epoch * options.epochs,
        cycle_momentum=False,
    )
    order = torch.Generator().manual_seed(options.seed)
    losses, accuracies, step = [], [], 0
    with tqdm(total=per_epoch * options.epochs, disable=not options.progress) as bar:
        for _ in range(options.epochs):
            total = torch.zeros((), device=options.device)
            for rows in torch.randperm(len(X), generator=order).split(options.batch_size):
                rows = rows.to(options.device)
                with products():
                    logits = model(X[rows])
                loss = nn.functional.cross_entropy(logits.float(), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.detach() * len(rows)
                bar.update()
                step += 1
                after_step(step)
            losses.append(total.item() / len(X))
            if data.validation is not None:
                accuracies.append(_accuracy(model, *data.validation, options.place))
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    return tuple(losses), tuple(accuracies)


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


@torch.no_grad()
def _classes(model: Callable, X: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
    return torch.cat([model(rows).argmax(1) for rows in X.split(batch_size)])


def _accuracy(model: nn.Module, X: torch.Tensor, y: torch.Tensor, device: torch.device) -> float:
    return (_classes(model, X.to(device)).cpu() == y).double().mean().item()
