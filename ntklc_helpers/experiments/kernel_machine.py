"""The limit itself: kernel ridge regression with the exact kernel, on all images of a data set.

An infinitely wide network whose last layer is fitted by ridge regression is kernel ridge regression
with its conjugate kernel. Images are scaled to length 1, where every layer sees one scale τ, so
that staircases matched at that scale are matched for every image; and the kernel is one function of
the angle. One n × n matrix of float32 is kept, in a file; nothing else grows as n².
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from .._checks import checked, each, inside, positive, whole
from ..matching.match import match
from ..theory.activations import AnyActivation, activation
from ..theory.ridge import kernel_ridge
from ..theory.sphere import SphereKernel, sphere_kernel
from ..theory.tiles import fill_tiles
from .images import Images
from .records import Record
from .runs import Run, Study, begin

__all__ = ["PRESETS", "KernelMachine", "layers_of"]

log = logging.getLogger(__name__)
_DEPTH = 3
_TEST_ROWS = 1000


def _names(argument: str, values: Any) -> tuple[str, ...]:
    names = tuple(str(value) for value in values)
    known = all(n in ("relu", "paper") or (n.isdecimal() and int(n) >= 2) for n in names)
    if not names or not known or len(set(names)) < len(names):
        raise ValueError(
            f"{argument} must be relu, paper or numbers of levels, each once; got {names}"
        )
    return names


def layers_of(network: str) -> list[AnyActivation]:
    """Three layers by name: ``"relu"``, ``"paper"`` (σ_T, σ_T, σ_Q), or a number of levels.

    Staircases are matched to ReLU × 3 at τ₀ = 1. Raises ValueError for another name.

    Returns
    -------
    list of Activation or Quantized

    Examples
    --------
    >>> [layer.name for layer in layers_of("relu")]
    ['relu', 'relu', 'relu']
    """
    (network,) = _names("network", [network])
    relu = [activation("relu")] * _DEPTH
    if network == "relu":
        return list(relu)
    levels: Any = network if network == "paper" else int(network)
    return list(match(relu, tau0=1.0, levels=levels).activations)


@frozen(kw_only=True)
class KernelMachine(Study):
    """Which kernels are fitted to how many images; the data are told as to every study.

    Attributes
    ----------
    networks : tuple of str
        As :func:`layers_of` knows them.
    sizes : tuple of int
        Training images of each fit, the first so many in one random order.
    ridges : tuple of float
        Relative to the kernel's trace; the one is taken that classifies best the last
        ``n_validation`` images after training on the first ``n_selection``.
    rank : int
        Rows of the preconditioner.
    tolerance : float
        Relative residual at which a solution is taken.

    Examples
    --------
    >>> KernelMachine(data="digits", sizes=[500], n_selection=300, n_validation=200).networks
    ('relu', '16')
    """

    networks: Sequence[str] = checked(_names, ("relu", "16"))
    sizes: Sequence[int] = checked(each, (2_500, 10_000, 60_000), whole)
    ridges: Sequence[float] = checked(each, (1e-5, 1e-6, 1e-7), positive)
    n_selection: int = checked(whole, 10_000)
    n_validation: int = checked(whole, 10_000)
    rank: int = checked(whole, 4_000)
    tolerance: float = checked(inside, 1e-4)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        n = len(images.X)
        if max(self.sizes) > n or self.n_selection + self.n_validation > n:
            raise ValueError(f"sizes, and n_selection + n_validation, must be at most {n}")

    def run(self, folder: str | os.PathLike | None = None) -> Record:
        """Fit all networks, or what is left of them where ``folder`` holds a run that was stopped.

        A kernel in the folder, or a fit that was done, is not made again; the kernel of a network
        that is done is deleted. Raises RunError or DataError as
        :func:`~ntklc_helpers.experiments.runs.begin`, or if a file is damaged.

        Returns
        -------
        Record
            A row for each network and size: ``ridge``, ``accuracy`` in percent on the test images,
            ``validation`` accuracy at the size of selection, steps and relative ``residual`` of the
            solution, ``seconds`` of the fit. ``findings["networks"]``: κ(0) and the validation
            accuracy of every ridge; ``findings["peak_gigabytes"]`` of memory, the file's included.
        """
        with begin(self, folder, "cpu") as run:
            found = {
                name: run.once(f"network-{name}", partial(_network, self, run, name))
                for name in self.networks
            }
            rows = [row for one in found.values() for row in one["rows"]]
            about = {name: one["about"] for name, one in found.items()}
            peak = max(one["peak_gigabytes"] for one in found.values())
            stages = {name: one["total"] for name, one in found.items()}
            return run.record(rows, stages, networks=about, peak_gigabytes=peak)


@frozen(eq=False)
class _Problem:
    """Unit rows in their random order, their labels, and the kernel; K among the rows."""

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    kernel: SphereKernel
    K: Any

    def fit(
        self, machine: KernelMachine, n: int, ridges: Sequence[float]
    ) -> tuple[dict[str, Any], NDArray, NDArray]:
        """Of the first n rows: what is to tell, coefficients (r, n, c), and the classes' shares."""
        shares = np.bincount(self.y[:n]) / n
        Y = np.eye(len(shares))[self.y[:n]] - shares
        rank = min(machine.rank, n // 4)
        solution = kernel_ridge(
            self.K[:n, :n], Y, ridges, rank=rank, tolerance=machine.tolerance, seed=machine.seed,
            progress=True,
        )  # fmt: skip
        told = {"steps": solution.steps, "residual": float(solution.residual.max())}
        return told, solution.coefficients, shares


def _network(machine: KernelMachine, run: Run, name: str) -> dict[str, Any]:
    """All fits of one network: a row for each size."""
    X, X_test = (_unit(part) for part in (run.images.X, run.images.X_test))
    order = np.random.default_rng(machine.seed).permutation(len(X))
    X, y = X[order], run.images.y[order]
    table = run.once(f"table-{name}", partial(_table, name))
    kernel = SphereKernel(1.0, table["diagonal"], table["cubics"].numpy())
    path = None if run.folder is None else run.folder / f"kernel-{name}.npy"
    made = run.read(f"kernel-{name}") if path is None or path.exists() else None
    K = _matrix(path, len(X), anew=made is None)
    if made is None:
        log.info("kernel of %s, %s images", name, len(X))
        made = _timed(lambda: fill_tiles(kernel, X, K, progress=True))
        run.write(f"kernel-{name}", made)
    problem = _Problem(X, y, kernel, K)
    best = run.once(f"selection-{name}", partial(_select, machine, problem))
    log.info("%s: validation %s, %s", name, best["validation"], made)

    def fitted(n: int) -> dict[str, Any]:
        told, coefficients, shares = problem.fit(machine, n, [best["ridge"]])
        scores = _predict(kernel, X_test, X[:n], coefficients[0]) + shares
        right = float((scores.argmax(axis=1) == run.images.y_test).mean())
        return (
            {"network": name, "n": n, "ridge": best["ridge"], "accuracy": 100 * right}
            | told
            | _memory()
        )

    rows = []
    for n in machine.sizes:
        row = run.once(f"fit-{name}-{n}", partial(fitted, n))
        rows.append(row | {"seconds": row.pop("seconds")})
        log.info("%s", rows[-1])
    peak = max(one.pop("peak_gigabytes") for one in (made, best, *rows))
    parts = (table, made, best, *rows)
    if path is not None:
        path.unlink()
    about = {"diagonal": kernel.diagonal, "validation": best["validation"]}
    about |= {"seconds_kernel": made["seconds"], "seconds_selection": best["seconds"]}
    total = sum(part["seconds"] for part in parts)
    return {"rows": rows, "about": about, "peak_gigabytes": peak, "total": total}


def _unit(images: NDArray) -> NDArray[np.float64]:
    rows = images.reshape(len(images), -1).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _table(name: str) -> dict[str, Any]:
    kernel = sphere_kernel(layers_of(name))
    return {"diagonal": kernel.diagonal, "cubics": torch.from_numpy(kernel.cubics)}


def _matrix(path: Path | None, n: int, anew: bool) -> NDArray[np.float32]:
    """The one n × n matrix: in a file, where there is a folder."""
    if path is None:
        return np.empty((n, n), np.float32)
    return open_memmap(path, mode="w+" if anew else "r+", dtype=np.float32, shape=(n, n))


def _select(machine: KernelMachine, problem: _Problem) -> dict[str, Any]:
    """The ridge that classifies the last images best, the largest of several."""
    n, last = machine.n_selection, slice(-machine.n_validation, None)
    ridges = sorted(machine.ridges, reverse=True)
    told, coefficients, shares = problem.fit(machine, n, ridges)
    right = [
        100 * float(((problem.K[last, :n] @ A + shares).argmax(axis=1) == problem.y[last]).mean())
        for A in coefficients.astype(np.float32)
    ]
    validation = {f"{ridge:g}": accuracy for ridge, accuracy in zip(ridges, right, strict=True)}
    return told | {"ridge": ridges[int(np.argmax(right))], "validation": validation} | _memory()


def _predict(kernel: SphereKernel, X_test: NDArray, X: NDArray, A: NDArray) -> NDArray[np.float64]:
    starts = range(0, len(X_test), _TEST_ROWS)
    return np.concatenate([kernel(X_test[at : at + _TEST_ROWS], X) @ A for at in starts])


def _memory() -> dict[str, float]:
    """The most memory that the process has held so far."""
    return {"peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def _timed(work: Callable[[], None]) -> dict[str, float]:
    start = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start} | _memory()


PRESETS = {
    "paper": KernelMachine(),
    "levels": KernelMachine(
        networks=("relu", "16", "8", "4", "2", "paper"), n_train=10_000,
        sizes=(2_500, 10_000), n_selection=7_500, n_validation=2_500, rank=2_000,
    ),
    "cpu": KernelMachine(
        networks=("relu", "4"), n_train=4_000, sizes=(1_000, 4_000), n_selection=3_000,
        n_validation=1_000, rank=500,
    ),
    "smoke": KernelMachine(
        networks=("relu", "4"), data="digits", n_train=600, sizes=(150, 600), n_selection=400,
        n_validation=200, rank=100,
    ),
}  # fmt: skip
"""Studies by name; the first has all 60,000 images of MNIST, and a kernel of 14.4 GB."""
