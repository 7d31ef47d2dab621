"""Training: one loop and one evaluator for all networks; dense and pruned networks by Adam."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import NOTHING, Converter, define, evolve, field, frozen
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from .._checks import (
    checked,
    class_labels,
    labels,
    positive,
    samples,
    share,
    torch_device,
    whole,
)
from .pruning import prune_globally
from .storage import replace_file

Network = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def descend(
    net: nn.Module,
    X: torch.Tensor,
    y: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    *,
    steps: int,
    per_epoch: int,
    batch_size: int,
    generator: torch.Generator,
    loss_of: Loss | None = None,
    after_step: Callable[[int], None] = lambda step: None,
    state: State | None = None,
    progress: bool = False,
) -> Iterator[float]:
    """Minimise a loss over rows X and labels y in place: every training's loop.

    Yields the mean loss of each epoch, and trains as it is asked for the next. An epoch is
    ``per_epoch`` batches of a permutation by ``generator``; ``loss_of`` takes a batch and its
    labels, and is by default the network's softmax cross-entropy. ``after_step`` gets the number of
    steps done. With a ``state``, which is kept after every epoch, training goes on from there: on
    the CPU, with as many threads as before, to the very weights of a training that was not stopped.
    """
    loss_of, step = loss_of or cross_entropy(net), state.read() if state else 0
    net.train()
    # Without progress; with it, what the environment says of bars holds.
    quiet = {} if progress else {"disable": True}
    with tqdm(desc="training", total=steps, initial=step, leave=False, **quiet) as bar:
        while step < steps:
            order = torch.randperm(len(X), generator=generator).to(X.device)
            total, seen = torch.zeros((), device=X.device), 0
            for rows in order.split(batch_size)[: min(per_epoch, steps - step)]:
                loss = loss_of(X[rows], y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(rows)
                seen, step = seen + len(rows), step + 1
                bar.update()
                after_step(step)
            yield total.item() / seen
            bar.set_postfix(loss=f"{total.item() / seen:.4f}")
            if state:
                state.write(step)


def cross_entropy(forward: Network) -> Loss:
    """The mean softmax cross-entropy, in nats, of the logits that ``forward`` makes of a batch."""
    return lambda X, y: F.cross_entropy(forward(X).float(), y)


@define(eq=False)
class State:
    """What a training goes on from, in a file: a ``state_dict`` of each part, random numbers, time.

    A file made with other settings, first weights or data is refused.
    """

    path: str | os.PathLike
    settings: dict[str, Any]
    parts: Mapping[str, Any]
    generator: torch.Generator
    seconds: float = 0.0
    begun: float = field(factory=time.perf_counter)

    def write(self, step: int) -> None:
        """Keep everything after so many steps."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"settings": self.settings, "generator": self.generator.get_state(), "step": step}
        state["seconds"] = self.seconds + time.perf_counter() - self.begun
        save_state(self.path, state)

    def read(self) -> int:
        """Set everything back; the number of steps done, 0 without a file."""
        if not Path(self.path).exists():
            return 0
        state = load_state(self.path)
        if different := settings_difference(state.get("settings", {}), self.settings):
            raise ValueError(f"{self.path} is the state of another training: {different}")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.seconds = state["seconds"]
        return state["step"]


def outputs(net: Network, X: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
    """What a network gives for all rows of X, batch by batch: evaluated, whatever mode it is in.

    Rows go to its device and precision, where the result stays; a ValueError if they do not fit.
    """
    parts = list(net.modules()) if isinstance(net, nn.Module) else []
    like = next((p for part in parts for p in part.parameters()), torch.empty(0))
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        with torch.no_grad():
            return torch.cat([net(rows.to(like)) for rows in X.split(batch_size)])
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(f"X, of shape {tuple(X.shape)}, must fit the network: {error}") from error
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def evaluate(net: Network, X: torch.Tensor, y: ArrayLike) -> tuple[float, float]:
    """Share of the rows of X whose label in y is predicted, and mean cross-entropy in nats.

    A ValueError if X does not fit the network, or y is not one of its outputs for each row.

    Examples
    --------
    >>> from ntklc_helpers.compression.train import evaluate
    >>> evaluate(torch.nn.Identity(), torch.tensor([[0.0, 50.0], [50.0, 0.0]]), [1, 0])
    (1.0, 0.0)
    """
    scores = outputs(net, X)
    found = label_tensor("y", y, len(X), scores.shape[1]).to(scores.device)
    loss = F.cross_entropy(scores, found).item()
    return (scores.argmax(1) == found).double().mean().item(), loss


def label_tensor(argument: str, y: ArrayLike, n: int, n_classes: int) -> torch.Tensor:
    """``y`` as an int64 tensor (n,), if its labels are among 0 … K − 1."""
    found = labels(argument, y, n)
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= n_classes:
        raise ValueError(f"{argument} must be whole numbers among the classes 0 to {n_classes - 1}")
    return torch.from_numpy(found.astype(np.int64))


def save_state(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers, text, and lists and mappings of them, whole or not at all.

    By ``torch.save``, behind a digest: torch alone reads changed weights without a word.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    replace_file(path, hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())


def load_state(path: str | os.PathLike) -> dict[str, Any]:
    """What :func:`save_state` wrote; a ValueError if a single bit is not as it was written.

    Of a training, ``"seconds"`` is the wall time it took so far.
    """
    content = Path(path).read_bytes()
    try:
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("digest and content do not fit")
        return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
    except (ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged, or not the state of a training; delete it to train anew"
        ) from error


def settings_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """In words, where settings differ as JSON knows them; None where they do not.

    Examples
    --------
    >>> from ntklc_helpers.compression.train import settings_difference
    >>> settings_difference({"training": {"steps": 4}, "seed": 1}, {"training": {"steps": 5}})
    'seed is 1 there and None here; training.steps is 4 there and 5 here'
    """
    there, here = (_flat(json.loads(json.dumps(settings))) for settings in (old, new))
    names = sorted(n for n in there.keys() | here.keys() if there.get(n) != here.get(n))
    different = [f"{n} is {there.get(n)!r} there and {here.get(n)!r} here" for n in names]
    return "; ".join(different) or None


def _flat(settings: Any, name: str = "") -> dict[str, Any]:
    """Settings within settings, under names with dots."""
    if not isinstance(settings, dict):
        return {name: settings}
    inner = (_flat(value, f"{name}.{key}".strip(".")) for key, value in settings.items())
    return {key: value for part in inner for key, value in part.items()}


def digest(*tensors: torch.Tensor) -> str:
    """SHA-256 of the entries of tensors, in order."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return found.hexdigest()


def _precision(argument: str, value: Any) -> torch.dtype:
    if value not in (torch.float32, torch.bfloat16):
        raise ValueError(f"{argument} must be torch.float32 or torch.bfloat16, got {value!r}")
    return value


def _held_out(values: Any, training: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The rows and labels held out, as those trained on are."""
    if values is None:
        return None
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise ValueError("validation must be a pair (X, y)")
    X = samples("validation X", values[0], training.X.shape[1])
    return _rows(X), label_tensor("validation y", values[1], len(X), training.n_classes)


def _rows(X: NDArray) -> torch.Tensor:
    return torch.from_numpy(X).float()


@frozen(eq=False)
class Training:
    """What is learnt from, and how: by Adam, each group of weights in one cycle up to its rate.

    Parameters
    ----------
    X : (n, p) array
    y : (n,) whole numbers 0 … K − 1, every class present
    epochs : int
    seed : int
        Of the weights at the start and of the batches.
    batch_size : int
    validation : (X, y), optional
        Classified after each epoch; training does not see it.
    device : optional
        CUDA where there is one, by default.
    dtype : torch.dtype
        Of the matrix products while training (of the backward pass, where the forward pass must be
        exact): torch.float32, or torch.bfloat16 where that is faster. Weights are float32.
    progress : bool
        Show a bar.
    """

    X: torch.Tensor = field(converter=lambda X: _rows(samples("X", X)))
    y: torch.Tensor = field(converter=lambda y: torch.from_numpy(class_labels("y", y)))
    epochs: int = checked(whole)
    seed: int = checked(whole, NOTHING, 0, 2**64 - 1)
    batch_size: int = checked(whole, 256)
    validation: tuple[torch.Tensor, torch.Tensor] | None = field(
        default=None,
        converter=Converter(_held_out, takes_self=True),  # type: ignore[misc]  # attrs passes self
    )
    device: Any = checked(lambda name, value: torch_device(value), None)
    dtype: torch.dtype = checked(_precision, torch.float32)
    progress: bool = True

    def __attrs_post_init__(self) -> None:
        labels("y", self.y, len(self.X))
        if self.n_classes < 2:
            raise ValueError("y must hold at least two classes")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"X must have a positive finite root mean square, got {self.scale:g}")

    @property
    def n_classes(self) -> int:
        """K."""
        return int(self.y.max()) + 1

    @property
    def scale(self) -> float:
        """Root mean square of the entries of X."""
        return self.X.square().mean().sqrt().item()

    def minimise(
        self,
        model: nn.Module,
        rates: Sequence[tuple[Sequence[nn.Parameter], float]],
        after_step: Callable[[int], None] = lambda step: None,
        loss_of: Loss | None = None,
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Train groups of parameters, each with its highest rate; hooks as for :func:`descend`.

        Returns losses and accuracies, one an epoch, as in :class:`Trained`.
        """
        X, y = self.X.to(self.device), self.y.to(self.device)
        per_epoch = math.ceil(len(X) / self.batch_size)
        steps, highest = per_epoch * self.epochs, [rate for _, rate in rates]
        optimizer = torch.optim.Adam([{"params": p, "lr": rate} for p, rate in rates], fused=True)
        schedule = OneCycleLR(optimizer, highest, total_steps=steps, cycle_momentum=False)
        losses: list[float] = []
        accuracies: list[float] = []
        for loss in descend(
            model, X, y, optimizer, schedule, steps=steps, per_epoch=per_epoch,
            batch_size=self.batch_size, generator=torch.Generator().manual_seed(self.seed),
            loss_of=loss_of, after_step=after_step, progress=self.progress,
        ):  # fmt: skip
            losses.append(loss)
            if self.validation is not None:
                accuracies.append(evaluate(model, *self.validation)[0])
        return tuple(losses), tuple(accuracies)


@frozen(eq=False)
class Trained:
    """A trained network, and how it got there.

    Attributes
    ----------
    model : torch.nn.Sequential or CompressedNetwork
        On the CPU; takes a float32 tensor (n, p) to logits (n, K).
    losses : tuple of float
        Mean cross-entropy of the training batches, one an epoch, in nats.
    accuracies : tuple of float
        On the validation set after each epoch, in [0, 1]; empty without one.

    Examples
    --------
    >>> nh.compression.Trained(torch.nn.Identity(), (), ()).predict(np.eye(2))
    array([0, 1])
    """

    model: Network
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    def predict(self, X: ArrayLike, batch_size: int = 1000) -> NDArray[np.int64]:
        """Classes (n,) of the rows of X, (n, p); a ValueError if X does not fit the network."""
        rows = torch.from_numpy(samples("X", X)).float()
        return outputs(self.model, rows, whole("batch_size", batch_size)).argmax(1).numpy()


def train_dense(
    X: ArrayLike,
    y: ArrayLike,
    widths: Sequence[int],
    *,
    learning_rate: float = 1e-3,
    **training: Any,
) -> Trained:
    """A ReLU network, all weights and biases trained by Adam in one cycle of the rate.

    All other arguments are those of :class:`~ntklc_helpers.compression.train.Training`: X and y,
    ``epochs`` and ``seed``; if wanted ``batch_size``, ``validation``, ``device``, ``dtype`` and
    ``progress``.

    Parameters
    ----------
    widths : sequence of int
        Of the hidden layers.
    learning_rate : float
        Highest of the one-cycle schedule.

    Returns
    -------
    Trained
        Its model: a torch.nn.Sequential of Linear and ReLU.

    Raises
    ------
    ValueError
        If an argument is out of range, or labels do not fit.

    Examples
    --------
    >>> X, y = [[-1.0, 1.0], [1.0, -1.0]] * 8, [0, 1] * 8
    >>> trained = nh.train_dense(X, y, [8], epochs=9, seed=0, learning_rate=0.1, progress=False)
    >>> trained.predict([[-2, 1], [2, 0]])
    array([0, 1])
    """
    learning_rate = positive("learning_rate", learning_rate)
    widths = [whole("widths", width) for width in np.atleast_1d(widths)]
    if not widths:
        raise ValueError("widths must have at least one entry")
    task = Training(X, y, **training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        sizes = [task.X.shape[1], *widths]
        hidden = [
            layer
            for d_in, d_out in zip(sizes, widths, strict=False)
            for layer in (nn.Linear(d_in, d_out), nn.ReLU())
        ]
        model = nn.Sequential(*hidden, nn.Linear(widths[-1], task.n_classes))
    _scale_input(model, 1 / task.scale)
    return _train_sequential(model, task, learning_rate)


def prune_and_finetune(
    model: nn.Sequential,
    sparsity: float,
    X: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float = 1e-3,
    **training: Any,
) -> Trained:
    """Zero each hidden layer's smallest weights, in a copy of a network, and train the others on.

    All other arguments are as for :func:`train_dense`.

    Parameters
    ----------
    model : torch.nn.Sequential
        Linear layers, at least two, and activations. The last Linear, the readout, is not pruned.
    sparsity : float
        Share of each hidden layer's weights to zero, in [0, 1).

    Returns
    -------
    Trained
        Its model has plain Linear layers with zeros; :func:`sparsity` counts them.

    Raises
    ------
    ValueError
        If an argument is out of range, or X or labels do not fit.
    TypeError
        If ``model`` is not a Sequential with at least two Linear layers.

    Examples
    --------
    >>> X, y = [[-1.0, 1.0], [1.0, -1.0]] * 8, [0, 1] * 8
    >>> dense = nh.train_dense(X, y, widths=[8], epochs=2, seed=0, progress=False).model
    >>> small = nh.prune_and_finetune(dense, 0.75, X, y, epochs=2, seed=0, progress=False)
    >>> nh.compression.sparsity(small.model, ["0"]).overall
    0.75
    """
    sparsity = share("sparsity", sparsity)
    learning_rate = positive("learning_rate", learning_rate)
    layers = list(_linears(model).values())
    task = Training(samples("X", X, layers[0].in_features), y, **training)
    if task.n_classes > layers[-1].out_features:
        raise ValueError(f"y must be among the {layers[-1].out_features} classes of the model")
    for layer in filter(prune.is_pruned, layers):
        layer.weight = layer.weight.detach()  # a product that copies and forward passes make anew
    model = deepcopy(model).cpu().requires_grad_(True)
    _make_permanent(model)
    return _train_sequential(model, task, learning_rate, sparsity)


def _train_sequential(
    model: nn.Sequential, task: Training, rate: float, sparsity: float = 0.0
) -> Trained:
    """Train with inputs of mean square 1, the scale that Linear's initial weights are made for.

    The model takes and returns inputs as they come.
    """
    scale = task.scale
    _scale_input(model, scale)
    for name, layer in list(_linears(model).items())[:-1]:
        if round(sparsity * layer.weight.numel()):
            prune_globally(model, sparsity, "magnitude", layers=[name])
    model.to(task.device)

    def forward(x: torch.Tensor) -> torch.Tensor:
        low = task.dtype != torch.float32
        with torch.autocast(task.device.type, dtype=torch.bfloat16, enabled=low):
            return model(x)

    held = task.validation and (task.validation[0] / scale, task.validation[1])
    scaled = evolve(task, X=task.X / scale, validation=held)
    rates = [(list(model.parameters()), rate)]
    losses, accuracies = scaled.minimise(model, rates, loss_of=cross_entropy(forward))
    _make_permanent(model.cpu().eval())
    _scale_input(model, 1 / scale)
    return Trained(model, losses, accuracies)


def _make_permanent(model: nn.Sequential) -> None:
    """Leave zeros where weights are masked, and no masks."""
    for layer in filter(prune.is_pruned, _linears(model).values()):
        prune.remove(layer, "weight")


def _scale_input(model: nn.Sequential, scale: float) -> None:
    """Make the model do to x what it did to ``scale`` · x."""
    with torch.no_grad():
        next(iter(_linears(model).values())).weight.mul_(scale)


def _linears(model: nn.Sequential) -> dict[str, nn.Linear]:
    parts = model.named_children() if isinstance(model, nn.Sequential) else ()
    found = {name: part for name, part in parts if isinstance(part, nn.Linear)}
    if len(found) < 2:
        kind = type(model).__name__
        raise TypeError(
            f"model must be a torch.nn.Sequential with at least two Linear layers, got {kind}"
        )
    return found
