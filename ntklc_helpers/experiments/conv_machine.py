"""Kernel ridge regression with the exact kernels of a convolutional network, flattened.

Beside it is the fully connected network of as many layers. The penalty is chosen on a part of the
training images that is held out.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from .._checks import FloatArray, checked, each, positive, whole
from ..data.images import normalize
from ..theory.conv_kernels import conv_limit_kernels
from ..theory.conv_layers import Conv, Flatten
from ..theory.infinite import limit_kernels
from ..theory.ridge import kernel_ridge
from .convolutions import standardised_pair
from .records import Record
from .runs import Study, begin

__all__ = ["NETWORKS", "PRESETS", "ConvMachine"]

log = logging.getLogger(__name__)

NETWORKS = ("two convolutions", "fully connected")
"""Networks whose kernels are fitted."""
_RANK = 2000


def _grid(lowest: int) -> tuple[float, ...]:
    return tuple(float(10.0**k) for k in np.arange(lowest, -2.5, 0.5))


@frozen(kw_only=True)
class ConvMachine(Study):
    """How many images; the data are told as to every study, ``n_train`` of them trained on.

    Attributes
    ----------
    n_test : int
        Test images, classes balanced; all if there are no more.
    ridges : sequence of float
        Relative to the kernel's trace; the one is taken that classifies best a fifth of the
        training images after training on the others.
    memory : float
        Gigabytes for :func:`~ntklc_helpers.theory.conv_kernels.conv_limit_kernels` to work with.

    Examples
    --------
    >>> ConvMachine(data="digits", n_train=100).n_test
    1000
    """

    n_test: int = checked(whole, 1000)
    ridges: Sequence[float] = checked(each, _grid(-7), positive)
    memory: float = checked(positive, 1.0)

    def run(self, folder: str | os.PathLike | None = None) -> Record:
        """Compute and fit all kernels, or what is left where ``folder`` holds a run.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each network and kernel: ``accuracy`` in percent on the test images and of
            the images held out, the ``ridge``. ``findings["networks"]``: seconds that both kernels
            took among the training images, and the peak of the process's memory until then in GiB.
        """
        with begin(self, folder, "cpu") as run:
            task = _Task(*standardised_pair(run.images, self.n_test, self.seed))
            rows, about, seconds = [], {}, 0.0
            for name in NETWORKS:
                stage = f"network-{name.replace(' ', '-')}"
                found = run.once(stage, partial(self._fit, task, name, run.folder is not None))
                rows += found["rows"]
                about[name] = found["about"]
                seconds += found["seconds"]
                log.info("%s: %s", name, [round(row["accuracy"], 2) for row in found["rows"]])
            return run.record(rows, {"networks": seconds}, networks=about)

    def _fit(self, task: _Task, name: str, shown: bool) -> dict[str, Any]:
        start = time.perf_counter()
        kernels = task.kernels(name, self.memory, shown)
        took = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        across = task.kernels(name, self.memory, shown, task.X_test)
        rows = [
            {"network": name, "kernel": kernel} | task.accuracy(K, K_test, self.ridges, self.seed)
            for kernel, K, K_test in zip(("CK", "NTK"), kernels, across, strict=True)
        ]
        return {"rows": rows, "about": {"seconds": took, "peak_gigabytes": peak}}


@frozen(eq=False)
class _Task:
    """Standardised images (n, h, w, c) and labels."""

    X: FloatArray
    y: NDArray
    X_test: FloatArray
    y_test: NDArray

    def kernels(
        self, name: str, memory: float, shown: bool, against: FloatArray | None = None
    ) -> Any:
        """CK and NTK among the training images, or between them and others; progress is shown."""
        X = self.X
        if name == NETWORKS[0]:
            layers = [Conv(3), "relu"] * 2 + [Flatten()]
            how: Any = {"center": True, "memory": memory * 2**30, "progress": shown}
            return conv_limit_kernels(X, layers, Z=against, **how)
        rows = X.reshape(len(X), -1)
        flat = normalize(rows)
        if against is None:
            return limit_kernels(flat, ["relu"] * 2, tau0=1.0)
        return limit_kernels(
            flat, ["relu"] * 2, Z=normalize(against.reshape(len(against), -1), rows), tau0=1.0
        )

    def accuracy(
        self, K: FloatArray, K_test: FloatArray, ridges: Sequence[float], seed: int
    ) -> dict[str, float]:
        """In percent, and which ridge was chosen on held-out images."""
        classes = np.unique(self.y)
        Y = (self.y[:, None] == classes) - 1 / len(classes)
        order = np.random.default_rng(seed).permutation(len(self.y))
        kept, out = np.split(order, [len(order) * 4 // 5])

        def right(A: FloatArray, K: FloatArray, y: NDArray) -> float:
            return 100 * float(np.mean(classes[(K.T @ A).argmax(axis=1)] == y))

        rank = min(_RANK, len(kept))
        tried = kernel_ridge(K[np.ix_(kept, kept)], Y[kept], ridges, rank=rank, tolerance=1e-6)
        held = [right(A, K[np.ix_(kept, out)], self.y[out]) for A in tried.coefficients]
        best = int(np.argmax(held))
        fit = kernel_ridge(K, Y, [ridges[best]], rank=rank, tolerance=1e-6)
        accuracy = right(fit.coefficients[0], K_test, self.y_test)
        return {"accuracy": accuracy, "validation": held[best], "ridge": ridges[best]}


_SMOKE = ConvMachine(data="digits", n_train=100, n_test=100)

PRESETS = {
    "conv_machine": {"paper": ConvMachine(data="cifar10", n_train=5000), "smoke": _SMOKE},
    "conv_machine_mnist": {
        "paper": ConvMachine(data="mnist", n_train=2000, ridges=_grid(-8)),
        "smoke": _SMOKE,
    },
}
"""Of each record, the studies by name."""
