"""Trained networks on codes and staircases: run by torch, saved in few bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import array, whole
from .export_c import CExport, export_c
from .integer_operations import of_operations
from .operations import Affine, LayerReport, Step, from_arrays, run, to_arrays
from .readout import share_right, two_classes
from .storage import NetworkFileError, from_bytes, reason, replace_file, to_bytes

_BATCH = 1024
# What a description that is none makes of those who read it.
_UNREADABLE = KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError


@frozen
class ConvertedMemory:
    """Bytes of a converted network: its file, packed; a dense one's in float32, without a header.

    ``resident`` are arrays held to predict, codes in a byte each. ``bits_per_weight`` counts codes
    as packed, without scales and biases.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> memory = nh.compress(net, X, levels=4, bits=[4, 4]).memory()
    >>> memory.weights, memory.dense_file, memory.bits_per_weight
    (32, 168, 4.0)
    """

    packed_file: int
    dense_file: int
    resident: int
    weights: int
    bits_per_weight: float


@frozen
class Agreement:
    """How far a network and another agree: share of equal classes (None for values), and error.

    ``error`` is the root of Σ (difference of outputs)² over Σ (the original's outputs less their
    mean)².

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> small = nh.compress(net, X, levels=64, bits=8)
    >>> nh.compression.agreement(small, net, X).error < 0.1
    True
    """

    classes: float | None
    error: float

    @property
    def change(self) -> float:
        """The share of classes that are not the same; of values the error."""
        return self.error if self.classes is None else 1 - self.classes


@frozen(eq=False, repr=False)
class ConvertedNetwork:
    """A trained network whose weights are codes with a scale a row; see :func:`compress`.

    A call takes a float tensor (n, …) to outputs (n, K) where the tensor is.

    Attributes
    ----------
    steps : list of Step
    shape : tuple of int
        Of one sample.
    classes : (K,) labels, or None
        None if outputs are values.
    report : tuple of LayerReport
        One for each operation that was replaced; empty for a network that was loaded.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> small = nh.compress(net, X, levels=4, bits=4, classes=["no", "yes"])
    >>> small.predict(X).shape, small
    ((99,), ConvertedNetwork(shape=(2,), bits=(4, 8), levels=(4,), classes=2))
    """

    steps: list[Step]
    shape: tuple[int, ...]
    classes: NDArray | None = None
    report: tuple[LayerReport, ...] = field(default=())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return run(self.steps, x)

    @torch.no_grad()
    def outputs(self, X: ArrayLike) -> NDArray[np.float32]:
        """(n, K) logits or values for X (n, …); ValueError if it does not fit."""
        x = tensor(X, self.shape)
        return torch.cat([self(part) for part in x.split(_BATCH)]).numpy()

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """(n, K) probabilities of the classes; ValueError if outputs are values."""
        self._known()
        scores = torch.from_numpy(two_columns(self.outputs(X)))
        return torch.softmax(scores, 1).numpy()

    def predict(self, X: ArrayLike) -> NDArray:
        """(n,) predicted labels; or values, (n,) where there is one output, else (n, K)."""
        found = self.outputs(X)
        if self.classes is None:
            return found[:, 0] if found.shape[1] == 1 else found
        return self.classes[two_columns(found).argmax(axis=1)]

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Share of the rows whose label is predicted; ValueError if outputs are values."""
        self._known()
        return share_right(self.predict(X), y)

    def memory(self) -> ConvertedMemory:
        """What the network takes on disk and in memory."""
        layers = [step.operation for step in self.steps if isinstance(step.operation, Affine)]
        others = [step.operation for step in self.steps if not isinstance(step.operation, Affine)]
        weights = sum(layer.codes.size for layer in layers)
        rows = sum(len(layer.codes) for layer in layers)
        held = sum(len(getattr(other, "levels", ())) for other in others)
        packed = sum(layer.to_arrays()[0]["codes"].nbytes for layer in layers)
        return ConvertedMemory(
            packed_file=len(self.to_bytes()),
            dense_file=4 * (weights + rows),
            resident=weights + 8 * rows + 16 * held,
            weights=weights,
            bits_per_weight=8 * packed / weights,
        )

    def save(self, path: str | os.PathLike) -> int:
        """Write one safetensors file, whole or not at all; returns its size in bytes.

        OSError if the file cannot be written.
        """
        content = self.to_bytes()
        replace_file(path, content)
        return len(content)

    def export_c(
        self,
        path: str | os.PathLike,
        *,
        low: ArrayLike = 0.0,
        step: ArrayLike = 1.0,
        weights: Literal["packed", "two_bits"] = "packed",
        name: str = "net",
    ) -> CExport:
        """Write one C99 header that predicts the same classes with whole numbers alone.

        As :meth:`CompressedNetwork.export_c`, for images whose channels come one after another;
        ``low`` and ``step`` are one number, or one a channel, and a byte u stands for ``low +
        step * u`` rounded to float32. Rows of an image are needed one at a time:
        ``net_start_input``, ``net_take_row`` for each, and ``net_class``. The result is ``exact``
        where inputs and activations are on levels a power of two apart, as those that
        :func:`prepare_qat` makes with ``input_levels``: then torch adds up without rounding.
        Elsewhere a sum may be taken to lie on the other side of a threshold where float32 puts it
        there. ``weights`` are of ternary layers; others take their bits.

        Returns
        -------
        CExport

        Raises
        ------
        ValueError
            If outputs are values, an argument is not as stated, or an operation cannot be done on
            whole numbers; it is named.
        OSError
            If the file cannot be written.
        """
        if self.classes is None:
            raise ValueError("export_c writes classifiers; this network's outputs are values")
        stages, exact = of_operations(self.steps, self.shape, low, step)
        return export_c(stages, exact, self.classes.tolist(), path, weights, name, repr(self))

    def to_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        tensors, described = to_arrays(self.steps)
        about: dict[str, Any] = {"operations": described, "shape": self.shape}
        if self.classes is not None:
            labels = self.classes.tolist()
            about["classes"] = len(labels) if labels == [*range(len(labels))] else labels
        return to_bytes(tensors, about)

    @classmethod
    def from_bytes(cls, content: bytes) -> ConvertedNetwork:
        """The network in a file's content; NetworkFileError if there is none."""
        return cls.from_parts(*from_bytes(content))

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray], about: Mapping[str, Any]
    ) -> ConvertedNetwork:
        """The network of a file's arrays and description; NetworkFileError if there is none."""
        try:
            steps = from_arrays(tensors, about["operations"], about["shape"])
            shape, last = tuple(about["shape"]), steps[-1].operation
            if not isinstance(last, Affine):
                raise ValueError("the last operation must be a layer of weights")
            told = about.get("classes")
            kinds = {type(label) for label in told} if isinstance(told, list) else {int}
            if kinds not in ({int}, {str}, set()):
                raise ValueError("classes must be whole numbers, or all of them text")
            if kinds == {int} and isinstance(told, list):
                told = [whole("classes", label, -(2**63), 2**63 - 1) for label in told]
            if isinstance(told, int):
                told = np.arange(whole("classes", told, 2, 2 * len(last.codes)))
            classes = known_classes(told, len(last.codes))
            return cls(steps, shape, classes)
        except _UNREADABLE as error:
            raise NetworkFileError(f"not a compressed network: {reason(error)}") from error

    def _known(self) -> None:
        if self.classes is None:
            raise ValueError("the network's outputs are values and no scores of classes: predict")

    def __repr__(self) -> str:
        operations = [step.operation for step in self.steps]
        bits = tuple(op.bits for op in operations if isinstance(op, Affine))
        levels = tuple(len(set(op.levels)) for op in operations if hasattr(op, "levels"))
        classes = "none" if self.classes is None else len(self.classes)
        return f"ConvertedNetwork(shape={self.shape}, bits={bits}, {levels=}, {classes=})"


def tensor(X: ArrayLike, shape: Sequence[int] | None = None) -> torch.Tensor:
    """X (n, …) as float32 of finite numbers, samples of that shape."""
    found = array("X", X, None)
    if found.ndim < 2 or 0 in found.shape:
        raise ValueError(f"X must have a sample a row, got shape {found.shape}")
    if shape is not None and found.shape[1:] != tuple(shape):
        raise ValueError(f"X must have samples of shape {tuple(shape)}, got {found.shape}")
    x = torch.from_numpy(found).float()
    if not x.isfinite().all():
        raise ValueError("X must be finite in float32: scale it")
    return x


def known_classes(classes: Any, outputs: int) -> NDArray | None:
    """Labels of that many outputs, two where there is one; None for values."""
    if classes is None or np.size(classes) == 0:
        return None
    found = two_classes("classes", classes, max(2, outputs))
    if len(np.unique(found)) < len(found):
        raise ValueError("classes must be different")
    return found


def two_columns(outputs: NDArray) -> NDArray:
    """Scores of the classes: one logit stands against 0."""
    return outputs if outputs.shape[1] > 1 else np.hstack([0 * outputs, outputs])


def agreed(before: torch.Tensor, after: torch.Tensor, classes: bool) -> Agreement:
    """How far outputs agree."""
    a, b = (values.double().numpy() for values in (before, after))
    spread = np.sum((a - a.mean(0)) ** 2)
    error = float(np.sqrt(np.sum((a - b) ** 2) / spread)) if spread else float((a != b).any())
    if not classes:
        return Agreement(None, error)
    same = two_columns(a).argmax(1) == two_columns(b).argmax(1)
    return Agreement(float(np.mean(same)), error)
