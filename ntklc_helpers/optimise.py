"""Minimising the softmax cross-entropy by Adam under a one-cycle schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from tqdm import tqdm

from .validation import class_labels, positive_integer, sample_matrix, seed_number

Labelled = tuple[ArrayLike, ArrayLike]


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
                accuracies.append(accuracy(model, *data.validation, options.place))
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    return tuple(losses), tuple(accuracies)


@torch.no_grad()
def classes(model: Callable, X: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
    return torch.cat([model(rows).argmax(1) for rows in X.split(batch_size)])


def accuracy(model: nn.Module, X: torch.Tensor, y: torch.Tensor, device: torch.device) -> float:
    return (classes(model, X.to(device)).cpu() == y).double().mean().item()
