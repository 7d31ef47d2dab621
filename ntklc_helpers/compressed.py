"""Networks with ternary hidden weights and staircases: run on integers, saved in few bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .integer import BLOCK, FEW
from .layers import TernaryLayer, WeightStorage
from .matching import Matching
from .readout import READOUT_ARRAYS, Readout, fit_readout, labels
from .storage import NetworkFileError, from_bytes, replace_file, to_bytes
from .ternary import ternary_entropy
from .validation import sample_matrix


@dataclass(frozen=True)
class Memory:
    """Bytes and bits of a compressed network.

    Attributes
    ----------
    packed_file, seed_file : int
        Bytes on disk, with packed weights and with the seed alone (None if there is no seed).
    resident : int
        Bytes of all arrays held to predict, ``resident_weights`` those of the hidden weights.
    dense_file : int
        Bytes of a network of the same widths, readout included, in float32 and without a header.
    weights : int
        Number of hidden weights, zeros included.
    bits_per_weight, entropy_per_weight : float
        Of the packed hidden weights, and the least possible on average at their sparsity.
    published_bits, published_dense_bits : float
        Counted as the published code does: one bit a non-zero weight, none for where it stands, the
        readout as sparse as the rest, and one bit a neuron; against 32 bits for each of all these.
    """

    packed_file: int
    seed_file: int | None
    resident: int
    resident_weights: int
    dense_file: int
    weights: int
    bits_per_weight: float
    entropy_per_weight: float
    published_bits: float
    published_dense_bits: float


class CompressedNetwork:
    """A network of ternary layers with a trained readout; see :func:`compress`.

    Parameters
    ----------
    layers : sequence of TernaryLayer
    readout : Readout, optional
    matching : Matching, optional
        What the staircases keep, where they were matched for the network as a whole.

    Raises
    ------
    ValueError
        If the sizes of layers and readout do not fit.
    """

    def __init__(
        self,
        layers: Sequence[TernaryLayer],
        readout: Readout | None = None,
        matching: Matching | None = None,
    ) -> None:
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("layers must hold at least one layer")
        for first, second in zip(self.layers, self.layers[1:], strict=False):
            if second.weights.shape[1] != first.weights.shape[0]:
                raise ValueError(
                    f"layers must fit: {first.weights.shape[0]} outputs are followed by "
                    f"{second.weights.shape[1]} inputs"
                )
        self.matching = matching
        self.readout = readout
        before = (None, *self.layers[:-1])
        self._prepared = tuple(
            layer.prepared(b, last=layer is self.layers[-1])
            for layer, b in zip(self.layers, before, strict=True)
        )

    @property
    def p(self) -> int:
        """Dimension of the input."""
        return self.layers[0].weights.shape[1]

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each hidden layer."""
        return tuple(layer.weights.shape[0] for layer in self.layers)

    @property
    def readout(self) -> Readout | None:
        """The trained last layer."""
        return self._readout

    @readout.setter
    def readout(self, readout: Readout | None) -> None:
        if readout is not None and len(readout.weights) != self.widths[-1]:
            raise ValueError(
                f"readout must take {self.widths[-1]} features, got {len(readout.weights)}"
            )
        self._readout = readout

    def features(self, X: ArrayLike) -> NDArray[np.float32]:
        """(n, d_L) last hidden layer for X (n, p); each row depends on its sample alone.

        Raises
        ------
        ValueError
            If X is not a matrix of finite numbers with p columns.
        """
        X = sample_matrix("X", X)
        if X.shape[1] != self.p:
            raise ValueError(f"X must have {self.p} columns, got shape {X.shape}")
        out = np.empty((len(X), self.widths[-1]), np.float32)
        for start in range(0, len(X), BLOCK):
            h = X[start : start + BLOCK].T
            count = h.shape[1]
            if FEW < count < BLOCK:
                h = np.pad(h, ((0, 0), (0, BLOCK - count)))
            for layer in self._prepared:
                h = layer(h)
            out[start : start + count] = h[:, :count].T
        return out

    def fit_readout(
        self,
        X: ArrayLike,
        y: ArrayLike,
        kind: Literal["ridge", "logistic"] = "ridge",
        dtype: str = "float32",
        seed: int = 0,
    ) -> CompressedNetwork:
        """Train the last layer on features of X (n, p) for labels y (n,); returns the network.

        Parameters and errors as for :func:`~ntklc_helpers.readout.fit_readout`.
        """
        X, y = sample_matrix("X", X), np.asarray(y)
        labels(y, len(X))
        self.readout = fit_readout(self.features(X), y, kind, dtype, seed=seed)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """(n,) predicted labels for X (n, p).

        Raises
        ------
        ValueError
            If X does not fit, or there is no readout yet.
        """
        if self.readout is None:
            raise ValueError("the network has no readout yet: call fit_readout first")
        return self.readout.predict(self.features(X))

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Share of the samples whose label is predicted."""
        return float(np.mean(self.predict(X) == np.asarray(y)))

    def save(self, path: str | os.PathLike, weights: WeightStorage = "smallest") -> int:
        """Write one safetensors file, whole or not at all; returns its size in bytes.

        Parameters
        ----------
        path : path
        weights : "smallest", "packed" or "seed"
            "packed": signs and gaps between non-zeros. "seed": the seed alone, for weights drawn
            from one. "smallest": the seed where there is one.

        Raises
        ------
        ValueError
            If the seed is asked for and weights were not drawn from one.
        OSError
            If the file cannot be written.
        """
        content = self.to_bytes(weights)
        replace_file(path, content)
        return len(content)

    def to_bytes(self, weights: WeightStorage = "smallest") -> bytes:
        """What :meth:`save` writes."""
        if weights not in get_args(WeightStorage):
            raise ValueError(
                f"weights must be one of {', '.join(get_args(WeightStorage))}, got {weights!r}"
            )
        tensors: dict[str, NDArray] = {}
        layers: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers):
            arrays, about = layer.to_arrays(weights)
            tensors |= {f"{i}.{name}": array for name, array in arrays.items()}
            layers.append(about)
        if self.readout is not None:
            tensors |= {f"readout.{name}": getattr(self.readout, name) for name in READOUT_ARRAYS}
        return to_bytes(tensors, {"layers": layers})

    def memory(self) -> Memory:
        """What the network takes on disk and in memory; see :class:`Memory`."""
        sizes = [layer.weights.shape[0] * layer.weights.shape[1] for layer in self.layers]
        left = sum(len(layer.weights.columns) for layer in self.layers)
        readout = 0 if self.readout is None else self.readout.weights.size
        biases = 0 if self.readout is None else self.readout.bias.size
        drawn = all(layer.drawn is not None for layer in self.layers)
        content = self.to_bytes("packed")
        arrays, _ = from_bytes(content)
        streams = (".unary", ".low", ".signs")
        packed = sum(array.nbytes for name, array in arrays.items() if name.endswith(streams))
        return Memory(
            packed_file=len(content),
            seed_file=len(self.to_bytes("seed")) if drawn else None,
            resident=sum(layer.nbytes for layer in self._prepared)
            + (0 if self.readout is None else self.readout.nbytes),
            resident_weights=sum(layer.weights.nbytes for layer in self.layers),
            dense_file=4 * (sum(sizes) + readout + biases),
            weights=sum(sizes),
            bits_per_weight=8 * packed / sum(sizes),
            entropy_per_weight=sum(
                n * ternary_entropy(layer.weights.sparsity)
                for n, layer in zip(sizes, self.layers, strict=True)
            )
            / sum(sizes),
            published_bits=left * (1 + readout / sum(sizes)) + sum(self.widths),
            published_dense_bits=32 * (sum(sizes) + readout + sum(self.widths)),
        )

    def __repr__(self) -> str:
        pieces = ", ".join(str(len(np.unique(layer.levels))) for layer in self.layers)
        sparsity = ", ".join(f"{layer.weights.sparsity:.3g}" for layer in self.layers)
        readout = "none" if self.readout is None else self.readout.dtype
        return (
            f"CompressedNetwork(p={self.p}, widths={self.widths}, levels=({pieces}), "
            f"sparsity=({sparsity}), readout={readout})"
        )


def load(path: str | os.PathLike) -> CompressedNetwork:
    """A network that was saved; weights saved as a seed are drawn again.

    Raises
    ------
    NetworkFileError
        If the file is cut off, changed, of another version, or holds something else.
    OSError
        If it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        return _from_bytes(content)
    except NetworkFileError as error:
        raise NetworkFileError(f"{os.fspath(path)}: {error}") from error


def _from_bytes(content: bytes) -> CompressedNetwork:
    tensors, about = from_bytes(content)
    try:
        layers = [
            TernaryLayer.from_arrays(_under(tensors, str(i)), layer)
            for i, layer in enumerate(about["layers"])
        ]
        arrays = _under(tensors, "readout")
        return CompressedNetwork(layers, Readout.from_arrays(arrays) if arrays else None)
    except (KeyError, TypeError, ValueError) as error:
        raise NetworkFileError(f"not a compressed network: {error}") from error


def _under(tensors: dict[str, NDArray], prefix: str) -> dict[str, NDArray]:
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
