"""Random convolutions that classify: filters and activations of several kinds, a ridge readout.

Every network is two convolutions, each with an activation and a mean over patches; only the readout
is trained. Beside them are a fully connected network with as many features, and the pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from .._checks import FloatArray, checked, each, inside, whole
from ..compression.readout import fit_readout
from ..data.images import balanced_rows, normalize
from ..matching.match import Objective, match
from ..theory.activations import AnyActivation
from ..theory.conv_kernels import conv_scales
from ..theory.conv_layers import AveragePool, Conv, Flatten
from ..theory.conv_networks import RandomCNN
from ..theory.networks import RandomMLP
from ..theory.weights import Gaussian, Law, Layered, Ternary
from .images import SHAPES, Images
from .records import Record
from .runs import Run, Study, begin

__all__ = ["PRESETS", "SCHEMES", "Convolutions", "rows_of", "standardised", "standardised_pair"]

log = logging.getLogger(__name__)

# Scheme, seed, and what tells how well it does.
Fits = Iterator[tuple[str, int, Callable[[], dict[str, Any]]]]

# Whether the filters of each convolution are ternary, and the objective of the staircases, if any.
SCHEMES: dict[str, tuple[tuple[bool, bool], Objective | None]] = {
    "dense, ReLU": ((False, False), None),
    "dense, matched": ((False, False), "exact"),
    "ternary, ReLU": ((True, True), None),
    "ternary, matched": ((True, True), "exact"),
    "ternary, Lloyd–Max": ((True, True), "lloyd-max"),
    "ternary but for the first layer, matched": ((False, True), "exact"),
}
"""Kinds of convolutional networks by name."""
_RELUS = ("relu",) * 2
_CONNECTED, _PIXELS = "fully connected, ReLU", "pixels alone"
# Patches on each side of an image that the readout sees; images by which scales are found.
_PATCHES, _MEASURED = 4, 200


def standardised(images: NDArray) -> FloatArray:
    """Images (n, …) of which each has mean 0 and mean square 1; one of one colour has zeros.

    Examples
    --------
    >>> standardised(np.array([[1.0, 3.0], [5.0, 5.0]])).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    axes = tuple(range(1, images.ndim))
    centred = images - images.mean(axis=axes, keepdims=True, dtype=np.float64)
    size = np.sqrt((centred**2).mean(axis=axes, keepdims=True))
    return np.asarray(centred / np.where(size > 0, size, 1.0))


def standardised_pair(
    images: Images, n_test: int, seed: int
) -> tuple[FloatArray, NDArray, FloatArray, NDArray]:
    """Standardised images (n, h, w, c) and labels, to train on and to test on.

    Of the latter ``n_test`` are drawn with ``seed``, classes balanced; all if there are no more.

    Examples
    --------
    >>> from ntklc_helpers.experiments.images import load_pair
    >>> X, y, X_test, y_test = standardised_pair(load_pair("digits", 100), 50, 0)
    >>> X.shape, y_test.shape
    ((100, 8, 8, 1), (50,))
    """
    some = balanced_rows(images.y_test, min(n_test, len(images.y_test)), seed)
    X, X_test = (
        standardised(part.transpose(0, 2, 3, 1)) for part in (images.X, images.X_test[some])
    )
    return X, images.y, X_test, images.y_test[some]


def rows_of(run: Run, stage: str, fits: Fits) -> tuple[list[dict[str, Any]], float]:
    """A row for each of ``fits``, kept by the run as a stage of its own, and the seconds they took.

    Examples
    --------
    >>> from ntklc_helpers.experiments.runs import begin
    >>> with begin(Study(data="digits", n_train=100), None, "cpu") as run:
    ...     rows, _ = rows_of(run, "fit", iter([("all ones", 0, lambda: {"accuracy": 10.0})]))
    >>> rows
    [{'scheme': 'all ones', 'seed': 0, 'accuracy': 10.0}]
    """
    rows, seconds = [], 0.0
    for scheme, seed, make in fits:
        name = scheme.replace(",", "").replace(" ", "-")
        found = run.once(f"{stage}-{name}-{seed}", make)
        seconds += found.pop("seconds")
        rows.append({"scheme": scheme, "seed": seed} | found)
        log.info("%s, seed %s: %.2f%%", scheme, seed, found["accuracy"])
    return rows, seconds


@frozen(kw_only=True)
class Convolutions(Study):
    """What is compared; the data are told as to every study, ``n_train`` of them trained on.

    Attributes
    ----------
    n_test : int
        Test images, classes balanced; all if there are no more.
    channels : pair of int
        Of the two convolutions. The readout sees 16 features for each of the last.
    levels : int
        Of every staircase.
    sparsity : float
        Of ternary filters.
    n_draws : int

    Examples
    --------
    >>> Convolutions(data="digits", n_train=500).channels
    (32, 64)
    """

    n_test: int = checked(whole, 10_000)
    channels: Sequence[int] = checked(each, (32, 64), whole)
    levels: int = checked(whole, 16, 2, 256)
    sparsity: float = checked(inside, 0.9)
    n_draws: int = checked(whole, 3)

    def __attrs_post_init__(self) -> None:
        if len(self.channels) != 2:
            raise ValueError(f"channels must be two numbers, got {self.channels}")
        self.layers(SHAPES[self.data][1], _RELUS)

    def layers(self, side: int, activations: Sequence[AnyActivation | str]) -> list[Any]:
        """The network's layers, for images of this side."""
        first, second = activations
        mean = AveragePool(side // (2 * _PATCHES))
        return [Conv(), first, AveragePool(2), Conv(), second, mean, Flatten()]

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Draw all networks, or those left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each scheme and seed: ``accuracy`` in percent of the test images, a number of
            ``features``. Finding ``scales``: of what comes into each activation.
        """
        with begin(self, folder, device) as run:
            task = _Task.of(run.images, self.n_test, self.seed)
            shown = self.layers(task.X.shape[1], _RELUS)
            scales = conv_scales(task.X[:_MEASURED], shown, center=True)
            rows, seconds = rows_of(run, "network", self._networks(task, scales, run))
            return run.record(rows, {"networks": seconds}, scales=list(scales))

    def _networks(self, task: _Task, scales: Sequence[float], run: Run) -> Fits:
        """Scheme, seed, and what draws the network and tells how well it does."""
        seeds = range(self.seed, self.seed + self.n_draws)
        by_objective: dict[str | None, Sequence[AnyActivation | str]] = {None: _RELUS}
        for scheme, (ternary, objective) in SCHEMES.items():
            if objective is not None and objective not in by_objective:
                by_objective[objective] = [
                    match(_RELUS[:1], scale, self.levels, objective).activations[0]
                    for scale in scales
                ]
            layers = self.layers(task.X.shape[1], by_objective[objective])
            laws: list[Law] = [Ternary(self.sparsity) if one else Gaussian() for one in ternary]
            for seed in seeds:
                net = RandomCNN(
                    task.X.shape[1:], layers, self.channels, Layered(laws),
                    seed=seed, scales=scales, device=run.device,
                )  # fmt: skip
                yield scheme, seed, partial(task.accuracy, net.features, self.seed)
        width = self.channels[-1] * _PATCHES**2
        for seed in seeds:
            connected = RandomMLP(
                task.flat.shape[1], [width] * 2, _RELUS, 1.0, seed=seed, device=run.device
            )
            yield _CONNECTED, seed, partial(task.accuracy, connected.features, self.seed, True)
        yield _PIXELS, self.seed, partial(task.accuracy, torch.from_numpy, self.seed, True)


@frozen(eq=False)
class _Task:
    """Standardised images (n, h, w, c) and labels, and the images as rows."""

    X: FloatArray
    y: NDArray
    X_test: FloatArray
    y_test: NDArray
    flat: FloatArray
    flat_test: FloatArray

    @classmethod
    def of(cls, images: Images, n_test: int, seed: int) -> _Task:
        X, y, X_test, y_test = standardised_pair(images, n_test, seed)
        rows, rows_test = (part.reshape(len(part), -1) for part in (X, X_test))
        return cls(X, y, X_test, y_test, normalize(rows), normalize(rows_test, rows))

    def accuracy(self, features: Any, seed: int, as_rows: bool = False) -> dict[str, Any]:
        """In percent, of a ridge readout on the features; and how many these are."""
        parts = (self.flat, self.flat_test) if as_rows else (self.X, self.X_test)
        F, F_test = (features(part).cpu().numpy() for part in parts)
        readout = fit_readout(F, self.y, seed=seed)
        right = float(np.mean(readout.predict(F_test) == self.y_test))
        return {"accuracy": 100 * right, "features": F.shape[1]}


PRESETS = {
    "paper": Convolutions(data="cifar10", n_train=10_000, channels=(64, 128)),
    "cpu": Convolutions(data="cifar10", n_train=2000, n_test=2000),
    "smoke": Convolutions(data="digits", n_train=600, channels=(16, 32), n_draws=2),
}
"""Studies by name; the first is the record."""
