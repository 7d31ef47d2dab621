"""Networks with ternary hidden weights and staircases: run on integers, saved in few bytes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from attrs import asdict, define, field, frozen, setters
from numpy.typing import ArrayLike, NDArray

from .._checks import one_of, samples, torch_device
from .engine import IntegerLayer, run
from .export_c import CExport, CWeights, export_c
from .integer_layers import of_layers
from .layers import TernaryLayer, WeightStorage
from .readout import Readout, fit_readout
from .scaling import Scaling
from .storage import NetworkFileError, from_bytes, reason, replace_file, to_bytes
from .ternary import pack_ternary, ternary_entropy

# Rows that a device takes at a time.
_BATCH = 4096


@frozen
class Memory:
    """Bytes and bits of a compressed network.

    On disk, with packed weights, with the seed alone (None if there is no seed), and for a dense
    network of the same widths and readout in float32, without a header; in memory all arrays held
    to predict, and those of the hidden weights among them, a quarter of a byte each; hidden
    weights, zeros included, and the bits of one when packed, beside the least possible on average
    at their sparsity.
    What is published counts one bit a non-zero weight, none for where it stands, the readout as
    sparse as the rest, and one bit a neuron; against 32 bits for each of all these.

    Examples
    --------
    >>> net = nh.compress(nh.RandomMLP(2, [50], ["relu"]), np.eye(2), levels=4)
    >>> net.memory().weights
    100
    """

    packed_file: int
    seed_file: int | None
    dense_file: int
    resident: int
    resident_weights: int
    weights: int
    bits_per_weight: float
    entropy_per_weight: float
    published_bits: float
    published_dense_bits: float


def _fitting(values: Any) -> tuple[TernaryLayer, ...]:
    layers = tuple(values) if isinstance(values, Sequence) else ()
    if not layers or not all(isinstance(layer, TernaryLayer) for layer in layers):
        raise ValueError("layers must be a sequence of at least one layer, each a TernaryLayer")
    for first, second in pairwise(layer.weights.shape for layer in layers):
        if second[1] != first[0]:
            raise ValueError(
                f"layers must fit: {first[0]} outputs are followed by {second[1]} inputs"
            )
    return layers


def _without_bytes(net: CompressedNetwork, _: Any, scaling: Scaling | None) -> Scaling | None:
    """What is set; the layers made for another scaling are forgotten."""
    vars(net).pop("_on_bytes", None)
    return scaling


def _bytes(X: Any, p: int) -> bool:
    """Whether X is an array (n, p) of bytes."""
    whole = isinstance(X, np.ndarray) and not np.ma.isMaskedArray(X) and X.dtype == np.uint8
    return whole and X.ndim == 2 and len(X) > 0 and X.shape[1] == p


@define(eq=False, repr=False, slots=False)
class CompressedNetwork:
    """A network of ternary layers with a trained readout; see :func:`compress`.

    On a CPU it runs on integers; :meth:`features` runs it by torch on a device, and so does a
    call, which takes a tensor (n, p) to logits (n, K) where the tensor is. ValueError if the
    sizes of layers and readout do not fit.

    Parameters
    ----------
    layers : sequence of TernaryLayer
    readout : Readout, optional
        The trained last layer; it can be set.
    matching : Matching, optional
        What the staircases keep, where they were matched for the network as a whole.
    scaling : Scaling, optional
        What is done to inputs before the first layer; it is saved with the network.

    Examples
    --------
    >>> net, X = nh.RandomMLP(2, [50], ["relu"]), np.eye(2).repeat(9, axis=0)
    >>> small = nh.compress(net, X, levels=4).fit_readout(X, [3] * 9 + [5] * 9)
    >>> small.predict([[0.9, 0.1], [0.1, 0.9]])
    array([3, 5])
    >>> small.memory().weights, small.memory().seed_file < small.memory().packed_file
    (100, True)
    """

    layers: tuple[TernaryLayer, ...] = field(converter=_fitting, on_setattr=setters.frozen)
    readout: Readout | None = field(default=None)
    matching: Any = None
    scaling: Scaling | None = field(default=None, on_setattr=[setters.validate, _without_bytes])

    @readout.validator
    def _readout_fits(self, _: Any, readout: Readout | None) -> None:
        if readout is not None and len(readout.weights) != self.widths[-1]:
            raise ValueError(
                f"readout must take {self.widths[-1]} features, got {len(readout.weights)}"
            )

    @scaling.validator
    def _scaling_fits(self, _: Any, scaling: Scaling | None) -> None:
        if scaling is not None and len(scaling.centre) != self.p:
            raise ValueError(f"scaling must be of {self.p} columns, got {len(scaling.centre)}")

    @property
    def p(self) -> int:
        """Dimension of the input."""
        return self.layers[0].weights.shape[1]

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each hidden layer."""
        return tuple(layer.weights.shape[0] for layer in self.layers)

    @property
    def _pairs(self) -> Iterator[tuple[TernaryLayer | None, TernaryLayer]]:
        return zip((None, *self.layers[:-1]), self.layers, strict=True)

    @property
    def _trained(self) -> Readout:
        if self.readout is None:
            raise ValueError("the network has no readout yet: call fit_readout first")
        return self.readout

    @cached_property
    def _on_integers(self) -> tuple[IntegerLayer, ...]:
        last = self.layers[-1]
        return tuple(layer.on_integers(old, layer is last) for old, layer in self._pairs)

    @cached_property
    def _on_bytes(self) -> tuple[IntegerLayer, ...] | None:
        first = self.layers[0].on_bytes(self.scaling, last=len(self.layers) == 1)
        return None if first is None else (first, *self._on_integers[1:])

    def features(
        self, X: ArrayLike, device: torch.device | str | None = None
    ) -> NDArray[np.float32]:
        """(n, d_L) last hidden layer for X (n, p); each row depends on its sample alone.

        By default on integers, on the CPU; with a device by torch there. The first layer adds
        floats, by torch in float32: where a sum lies next to a threshold, the two may differ. Of an
        array of bytes (uint8), such as pixels, it adds whole numbers, which is faster, unless
        ``scaling`` divides columns by different numbers; no sum is rounded then.

        ValueError if X is no matrix of finite numbers with p columns, or torch has no such device.
        """
        if device is None and _bytes(X, self.p) and self._on_bytes:
            return run(self._on_bytes, (np.ascontiguousarray(X) ^ 128).view(np.int8))
        rows = self._scaled(samples("X", X, self.p))
        if device is not None:
            x = torch.from_numpy(rows).float().to(torch_device(device))
            return self._by_torch(x).cpu().numpy()
        return run(self._on_integers, rows)

    def _scaled(self, rows: Any) -> Any:
        return rows if self.scaling is None else self.scaling(rows)

    @torch.no_grad()
    def _by_torch(self, x: torch.Tensor) -> torch.Tensor:
        """Features of scaled x (n, p), where it is and in its precision."""
        steps = [layer.by_torch(before, x) for before, layer in self._pairs]
        base, step, _ = self.layers[-1].grid or (0.0, 1.0, None)
        parts = []
        for rows in x.split(_BATCH):
            for layer in steps:
                rows = layer(rows)
            parts.append(base + step * rows)
        return torch.cat(parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, K) for a float tensor x of shape (n, p), by torch where it is."""
        readout, features = self._trained, self._by_torch(self._scaled(x))
        parts = (readout.weights * readout.scale).T, readout.bias
        weights, bias = (torch.tensor(np.ascontiguousarray(a)).to(features) for a in parts)
        return torch.nn.functional.linear(features, weights, bias)

    def fit_readout(
        self,
        X: ArrayLike,
        y: ArrayLike,
        kind: Literal["ridge", "logistic"] = "ridge",
        dtype: str = "float32",
        seed: int = 0,
    ) -> CompressedNetwork:
        """Train the last layer on features of X (n, p) for labels y (n,); returns the network.

        Parameters and errors as for :func:`~ntklc_helpers.compression.readout.fit_readout`.
        """
        self.readout = fit_readout(self.features(X), y, kind, dtype, seed=seed)
        return self

    def outputs(self, X: ArrayLike) -> NDArray[np.floating]:
        """(n, K) scores of the classes, or values, for X (n, p); errors as for :meth:`predict`."""
        readout = self._trained
        return readout.scores_of(self.features(X))

    def predict(self, X: ArrayLike) -> NDArray:
        """(n,) predicted labels for X (n, p); ValueError if it does not fit, or without readout.

        Of a readout of values these, (n,) where there is one output, else (n, K).
        """
        return self._trained.labels_of(self.outputs(X))

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Share of the samples whose label is predicted; errors as for :meth:`predict`."""
        return self._trained.score(self.features(X), y)

    def save(self, path: str | os.PathLike, weights: WeightStorage = "smallest") -> int:
        """Write one safetensors file, whole or not at all; returns its size in bytes.

        Of the weights, ``"packed"`` keeps signs and gaps between non-zeros, ``"seed"`` the seed
        alone (ValueError unless they were drawn from one), ``"smallest"`` the seed where there is
        one. OSError if the file cannot be written.
        """
        content = self.to_bytes(weights)
        replace_file(path, content)
        return len(content)

    def export_c(
        self,
        path: str | os.PathLike,
        *,
        low: ArrayLike = 0.0,
        step: ArrayLike = 1.0,
        weights: CWeights = "packed",
        name: str = "net",
    ) -> CExport:
        """Write one C99 header that predicts the same classes with whole numbers alone.

        ``int net_classify(const uint8_t *input, net_workspace *work)`` gives the place of the class
        among the readout's, from 0, for p bytes. A byte u stands for the input ``low + step * u``,
        in float64. Nothing is allocated and no library called; what changes is in the workspace.

        Each layer's sums meet its bounds as in Python, which the result's ``exact`` says: not so
        only where its levels lie on no grid, columns are scaled differently, or sums come as near
        to a threshold as floats round. Scores are then exact up to the rounding of a float readout
        to 30 bits, where Python's are rounded to float32: a class may differ where two scores are
        equal but for that.

        Parameters
        ----------
        path : str or path
        low, step : number or (p,) array
            The input of byte 0, and from one byte to the next, positive.
        weights : "packed", "two_bits" or "seed"
            Of hidden layers in flash: near their entropy and read bit by bit; in two bits; or drawn
            again from the seed, which takes the most time.
        name : str
            What all names in the header begin with.

        Returns
        -------
        CExport
            Bytes of flash and of RAM, which the header itself checks.

        Raises
        ------
        ValueError
            Without a readout of classes, or if an argument is not as stated.
        OSError
            If the file cannot be written.
        """
        readout = self._trained
        if readout.classes is None:
            raise ValueError("export_c writes classifiers; this network's outputs are values")
        stages, exact = of_layers(self.layers, readout, self.scaling, low, step)
        return export_c(stages, exact, readout.classes.tolist(), path, weights, name, repr(self))

    def to_bytes(self, weights: WeightStorage = "smallest") -> bytes:
        """What :meth:`save` writes."""
        one_of("weights", weights, get_args(WeightStorage))
        tensors: dict[str, NDArray] = {}
        about: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers):
            arrays, description = layer.to_arrays(weights)
            tensors |= {f"{i}.{name}": array for name, array in arrays.items()}
            about.append(description)
        if self.readout is not None:
            tensors |= {f"readout.{name}": array for name, array in self.readout.arrays.items()}
        if self.scaling is not None:
            tensors |= {f"scaling.{name}": array for name, array in asdict(self.scaling).items()}
        return to_bytes(tensors, {"layers": about})

    @classmethod
    def from_bytes(cls, content: bytes) -> CompressedNetwork:
        """The network in a file's content; NetworkFileError if there is none."""
        return cls.from_parts(*from_bytes(content))

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray], about: Mapping[str, Any]
    ) -> CompressedNetwork:
        """The network of a file's arrays and description; NetworkFileError if there is none."""
        parts: dict[str, dict[str, NDArray]] = defaultdict(dict)
        for name, array in tensors.items():
            part, _, array_name = name.partition(".")
            parts[part][array_name] = array
        try:
            described = enumerate(about["layers"])
            layers = [TernaryLayer.from_arrays(parts[str(i)], layer) for i, layer in described]
            readout = Readout.from_arrays(parts["readout"]) if "readout" in parts else None
            scaling = Scaling(**parts["scaling"]) if "scaling" in parts else None
            return cls(layers, readout, scaling=scaling)
        except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise NetworkFileError(f"not a compressed network: {reason(error)}") from error

    def memory(self) -> Memory:
        """What the network takes on disk and in memory; see :class:`Memory`."""
        matrices, readout = [layer.weights for layer in self.layers], self.readout
        size, left = sum(T.size for T in matrices), sum(T.nonzeros for T in matrices)
        entropy = sum(T.size * ternary_entropy(T.sparsity) for T in matrices)
        outputs, biases = (readout.weights.size, readout.bias.size) if readout else (0, 0)
        packed = sum(pack_ternary(T).nbytes for T in matrices)
        drawn = all(layer.drawn for layer in self.layers)
        return Memory(
            packed_file=len(self.to_bytes("packed")),
            seed_file=len(self.to_bytes("seed")) if drawn else None,
            resident=sum(
                part.nbytes for part in (*self._on_integers, readout, self.scaling) if part
            ),
            resident_weights=sum(T.nbytes for T in matrices),
            dense_file=4 * (size + outputs + biases),
            weights=size,
            bits_per_weight=8 * packed / size,
            entropy_per_weight=entropy / size,
            published_bits=left * (1 + outputs / size) + sum(self.widths),
            published_dense_bits=32 * (size + outputs + sum(self.widths)),
        )

    def __repr__(self) -> str:
        levels = ", ".join(str(len(set(layer.activation.levels))) for layer in self.layers)
        sparsity = ", ".join(f"{layer.weights.sparsity:.3g}" for layer in self.layers)
        readout = "none" if self.readout is None else self.readout.dtype
        return (
            f"CompressedNetwork(p={self.p}, widths={self.widths}, levels=({levels}), "
            f"sparsity=({sparsity}), readout={readout})"
        )
