"""The published scripts' first experiment at its size: mean kernels of many networks, and theory.

``tilde_CK.py`` draws ReLU × 3 on a mixture, n = 8000 and p = 4650, and compares the mean kernel of
500 networks with the equivalent. ``tilde_ntk.py`` has sin × 3, p = 4000 and the neural tangent
kernel. The mean of N networks with d features each has Nd features for n samples, so that it is off
by a sample covariance's error whatever the theory; errors are taken here for every N on the way.
Data and sizes are those of github.com/Model-Compression/Lossless_Compression.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.sparse.linalg import eigsh

from .. import plots
from .._checks import FloatArray, checked, each, one_of, whole
from ..data.mixture import Statistics
from ..theory.coefficients import propagate, published_kappa_squared
from ..theory.equivalents import ck_equivalent, ntk_equivalent
from ..theory.infinite import limit_kernels
from ..theory.metrics import principal_cosines
from ..theory.networks import RandomMLP
from .records import Record
from .runs import Settings, Stages, claimed

__all__ = [
    "PRESETS",
    "REFERENCES",
    "PublishedKernels",
    "draw_errors",
    "errors_by_draws",
    "monte_carlo_law",
    "published_sample",
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

log = logging.getLogger(__name__)

REFERENCES = {
    "exact": "the exact kernel of infinite width",
    "equivalent": "the theorem's equivalent",
    "finite": "the equivalent with terms of finite size",
    "published": "the theorem's, with the published coefficient of the identity",
    "two": "no theory: two coefficients fitted, of the Gram matrix and the identity",
    "three": "no theory: three, with a constant",
}
"""What a mean kernel is compared with."""
_ACTIVATIONS = {"CK": "relu", "NTK": "sin"}
_SOURCE = "two Gaussian classes as in the published scripts: mixed (CK), means_binary (NTK)"
_MIXED_SHIFT = 8
_TOLERANCE = 1e-5


def _power(argument: str, value: Any) -> int:
    if whole(argument, value).bit_count() != 1:
        raise ValueError(f"{argument} must be a power of two, got {value}")
    return int(value)


def _even(argument: str, value: Any) -> int:
    if whole(argument, value, 2) % 2:
        raise ValueError(f"{argument} must be even, for two classes of one size, got {value}")
    return int(value)


def published_sample(
    kernel: str, n: int, p: int, seed: int = 0
) -> tuple[FloatArray, NDArray[np.int64], Statistics]:
    """A sample as that kernel's script draws it, n even.

    ``"CK"``: μ_a = 8 e_{8a} and C_a = (1 + 8a/√p) I, the script's ``mixed``, which is not the
    paper's. ``"NTK"``: μ = ±2 (e_0 − e_1) and C = I, its ``means_binary``. Raises
    ValueError for another.

    Returns
    -------
    X, labels, statistics : (n, p) and (n,) arrays, and the population's Statistics

    Examples
    --------
    >>> X, labels, statistics = published_sample("NTK", n=6, p=100)
    >>> X.shape, labels.tolist(), statistics.tau0
    ((6, 100), [0, 0, 0, 1, 1, 1], 1.0)
    """
    one_of("kernel", kernel, _ACTIVATIONS)
    M, variances = np.zeros((2, p)), np.ones(2)
    if kernel == "CK":
        M[[0, 1], [0, _MIXED_SHIFT]] = 8
        variances[1] += 8 / np.sqrt(p)
    else:
        M[:, :2] = [[2, -2], [-2, 2]]
    labels = np.repeat([0, 1], n // 2)
    noise = np.random.default_rng(seed).standard_normal((n, p))
    noise *= np.sqrt(variances / p)[labels, None]
    psi = np.einsum("ij,ij->i", noise, noise) - variances[labels]
    noise += M[labels] / np.sqrt(p)
    squared = variances.mean()
    T = np.outer(variances, variances)
    spread = np.outer((M**2).sum(axis=1), variances)
    squares = T + ((M @ M.T) ** 2 + spread + spread.T) / p
    t, J = np.sqrt(p) * (variances - squared), np.eye(2)[labels]
    return noise, labels, Statistics(float(np.sqrt(squared)), t, T, psi, J, p, squares)


@frozen(kw_only=True)
class PublishedKernels(Settings):
    """Sizes and draws; the published ones by default, but for fewer draws.

    Attributes
    ----------
    n, p_ck, p_ntk : int
        Samples, and dimensions of the data of the two scripts.
    widths : sequence of int
        Of both networks.
    draws_ck, draws_ntk : int
        Networks drawn, a power of two and at least as many as chains.
    chains : int
        Disjoint sets of draws, each with a running mean of its own; a power of two.

    Examples
    --------
    >>> PublishedKernels().widths
    (2000, 2000, 1000)
    """

    n: int = checked(_even, 8000)
    p_ck: int = checked(whole, 4650, _MIXED_SHIFT + 1)
    p_ntk: int = checked(whole, 4000, 2)
    widths: Sequence[int] = checked(each, (2000, 2000, 1000), whole)
    draws_ck: int = checked(_power, 64)
    draws_ntk: int = checked(_power, 4)
    chains: int = checked(_power, 2)

    def __attrs_post_init__(self) -> None:
        if self.chains > min(self.draws_ck, self.draws_ntk):
            raise ValueError(
                f"chains must be at most {min(self.draws_ck, self.draws_ntk)}, the number of draws"
            )

    def run(self, folder: str | os.PathLike | None = None) -> Record:
        """Draw all networks, or what is left where ``folder`` holds a run that was stopped.

        The sum of each chain is kept, and deleted when its kernel is done. Raises
        RunError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file is damaged.

        Returns
        -------
        Record
            A row for each kernel, entry of ``REFERENCES`` (``against``), number of draws and chain
            (``replicate``): ``error``, the spectral norm of the difference over that of the exact
            kernel. ``findings["kernels"]``: ``errors`` of the exact kernel itself; its three
            ``leading`` eigenvalues and those of all ``means``, and the least of the ``cosines``
            between planes of ``informative`` leading eigenvectors, these and the references'.
        """
        with claimed(self, folder, source=_SOURCE) as run:
            found = {k: self._kept(run, k) for k in _ACTIVATIONS}
            rows = [row for one in found.values() for row in one["rows"]]
            stages = {k: one["total"] for k, one in found.items()}
            about = {k: one["about"] for k, one in found.items()}
            return run.record(rows, stages, kernels=about)

    def _kept(self, run: Stages, kernel: str) -> dict[str, Any]:
        """What was found of a kernel; its sums are deleted once that is written."""
        found = run.once(kernel, partial(_kernel, self, run, kernel))
        for path in (run.path(f"{kernel}-{r}") for r in range(self.chains)):
            if path is not None:
                path.unlink(missing_ok=True)
        return found


def errors_by_draws(record: Record, kernel: str) -> DataFrame:
    """Errors of mean kernels, a row for each number of draws.

    Raises ValueError unless ``kernel`` is ``"CK"`` or ``"NTK"``.

    Returns
    -------
    DataFrame
        Columns ``("mean", reference)``, over disjoint sets of draws, and ``("sem", reference)``,
        one standard error; NaN for one set.

    Examples
    --------
    >>> made = PublishedKernels(
    ...     n=20, p_ck=30, p_ntk=30, widths=[9], draws_ck=2, draws_ntk=2
    ... ).run()
    >>> errors_by_draws(made, "NTK").index.tolist()
    [1, 2]
    """
    one_of("kernel", kernel, _ACTIVATIONS)
    rows = record.table[record.table.kernel == kernel]
    found = rows.groupby(["draws", "against"]).error.agg(["mean", "sem"]).unstack()
    return found.reindex(columns=[*REFERENCES], level="against")


def monte_carlo_law(record: Record, kernel: str) -> tuple[float, float]:
    """E₁ and E∞ of √(E₁²/N + E∞²), fitted to the mean kernel's errors against the exact one.

    E∞ is what a finite width leaves however many networks are drawn. Where each has fewer features
    than there are samples, only numbers N of draws count that make up for it. ValueError as for
    :func:`errors_by_draws`.

    Returns
    -------
    E₁, E∞ : float

    Examples
    --------
    >>> made = PublishedKernels(
    ...     n=20, p_ck=30, p_ntk=30, widths=[9], draws_ck=8, draws_ntk=2
    ... ).run()
    >>> a, b = monte_carlo_law(made, "CK")
    >>> a > b >= 0
    True
    """
    errors = errors_by_draws(record, kernel)["mean", "exact"]
    if kernel == "CK":
        errors = errors[errors.index * record.settings["widths"][-1] >= record.settings["n"]]
    squared = errors.to_numpy() ** 2
    parts = np.column_stack([1 / errors.index.to_numpy(), np.ones(len(errors))])
    a, b = np.sqrt(nnls(parts / squared[:, None], np.ones(len(errors)))[0])
    return float(a), float(b)


def draw_errors(
    ax: Axes, record: Record, kernel: str, shown: Mapping[str, str], furthest: int
) -> None:
    """Errors against draws, to so many: markers for means, lines for the exact kernel, the law.

    ``shown`` has a label for each reference; the law is that of :func:`monte_carlo_law`.

    Examples
    --------
    >>> made = PublishedKernels(
    ...     n=20, p_ck=30, p_ntk=30, widths=[9], draws_ck=8, draws_ntk=2
    ... ).run()
    >>> _, axes = plots.grid(1, 1)
    >>> draw_errors(axes[0, 0], made, "CK", {"exact": "draws", "two": "fitted"}, furthest=9)
    """
    table = errors_by_draws(record, kernel)
    colours = {"exact": plots.INK, "equivalent": plots.THEORY}
    others = iter((plots.PALETTE[1], plots.PALETTE[0], plots.PALETTE[4]))
    for (name, label), marker in zip(shown.items(), "osD^v", strict=False):
        colour = colours.get(name) or next(others)
        mean, half = table["mean", name], table["sem", name].fillna(0)
        ax.errorbar(table.index, mean, half, fmt=marker, ms=5, capsize=2, color=colour, label=label)
        if floor := max(record.findings["kernels"][kernel]["errors"][name], 0):
            ax.axhline(floor, color=colour, lw=1.2, ls=(0, (6, 2)) if name == "published" else "-")
    a, b = monte_carlo_law(record, kernel)
    N = np.geomspace(1, furthest, 50)
    ax.plot(N, a / np.sqrt(N), ":", color=plots.INK, lw=1.2, label=r"$E_1\,N^{-1/2}$")
    law = r"$\sqrt{E_1^2/N+E_\infty^2}$"
    ax.plot(N, np.hypot(a / np.sqrt(N), b), color=plots.INK, lw=0.8, label=law)
    ax.set(xscale="log", yscale="log", xlabel="networks $N$", ylabel="error of the mean kernel")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


@frozen(eq=False)
class _Theory:
    """References (n, n) in float32 by name, the Gram matrix, what the published shift adds."""

    dense: dict[str, NDArray[np.float32]]
    gram: NDArray[np.float32]
    lowered: float
    norm: float
    planes: dict[str, FloatArray]

    def errors(self, mean: NDArray[np.float32]) -> dict[str, float]:
        """Of a mean kernel, against all references."""
        found = {}
        for name, reference in self.dense.items():
            low, high = _ends(mean - reference)
            found[name] = max(-low, high)
            if name == "equivalent":
                found["published"] = max(-low - self.lowered, high + self.lowered)
        for name, constant in (("two", False), ("three", True)):
            a, b, c = _fit(mean, self.gram, constant)
            low, high = _ends(mean - (a * self.gram + c))
            found[name] = max(-(low - b), high - b)
        return {name: float(found[name] / self.norm) for name in REFERENCES}

    def leading(self, matrix: NDArray[np.float32]) -> dict[str, Any]:
        """Eigenvalues, and cosines with the references' planes."""
        values, vectors = _leading(matrix)
        cosines = {
            name: float(principal_cosines(vectors[:, : plane.shape[1]], plane).min())
            for name, plane in self.planes.items()
        }
        return {"leading": values.tolist(), "cosines": cosines}


def _ends(matrix: NDArray[np.float32]) -> tuple[float, float]:
    """Least and greatest eigenvalue of a symmetric matrix."""
    if not matrix.any():
        return 0.0, 0.0
    start = np.random.default_rng(0).standard_normal(len(matrix)).astype(matrix.dtype)
    low, high = np.sort(
        eigsh(matrix, 2, which="BE", v0=start, tol=_TOLERANCE, return_eigenvectors=False)
    )
    return float(low), float(high)


def _leading(matrix: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    start = np.random.default_rng(0).standard_normal(len(matrix)).astype(matrix.dtype)
    values, vectors = eigsh(matrix, 3, which="LA", v0=start, tol=_TOLERANCE)
    order = np.argsort(-values)
    return values[order].astype(float), vectors[:, order].astype(float)


def _fit(
    K: NDArray[np.float32], G: NDArray[np.float32], constant: bool
) -> tuple[np.float32, float, np.float32]:
    """Coefficients of G, I and 11ᵀ that fit K best, entry by entry; the last 0 if not wanted."""
    n = len(K)
    k, g = K.ravel(), G.ravel()
    products = np.array([[g @ g, G.trace(), g.sum(dtype=float)], [0, n, n], [0, 0, n * n]])
    products = np.triu(products) + np.triu(products, 1).T
    right = np.array([k @ g, K.trace(), k.sum(dtype=float)])
    used = 2 + constant
    a, b, *c = np.linalg.solve(products[:used, :used], right[:used])
    return np.float32(a), float(b), np.float32(c[0] if c else 0)


def _theory(kernel: str, plan: PublishedKernels, X: FloatArray, stats: Statistics) -> _Theory:
    layers, ntk = [_ACTIVATIONS[kernel]] * len(plan.widths), kernel == "NTK"
    exact = limit_kernels(X, layers, tau0=stats.tau0, ntk=ntk)[ntk]
    assert exact is not None
    last, make = propagate(layers, stats.tau0)[-1], (ck_equivalent, ntk_equivalent)[ntk]
    dense = {
        "exact": exact.astype(np.float32),
        "equivalent": make(X, stats, last).to_dense().astype(np.float32),
        "finite": make(X, stats, last, "finite").to_dense().astype(np.float32),
    }
    lowered = last.gain(kernel.lower())[2] * stats.tau0**4
    if ntk:
        lowered += last.kappa**2 - published_kappa_squared(layers, stats.tau0)
    x = X.astype(np.float32)
    gram, informative = x @ x.T, 1 if ntk else 2
    compared = {**dense, "gram": gram}
    planes = {k: _leading(matrix)[1][:, :informative] for k, matrix in compared.items()}
    norm = max(np.abs(_ends(dense["exact"])))
    return _Theory(dense, gram, float(lowered), float(norm), planes)


def _kernel(plan: PublishedKernels, run: Stages, kernel: str) -> dict[str, Any]:
    """All draws of one kernel: a row for each mean and reference."""
    start = time.perf_counter()
    p, draws = (plan.p_ntk, plan.draws_ntk) if kernel == "NTK" else (plan.p_ck, plan.draws_ck)
    X, _, stats = published_sample(kernel, plan.n, p, plan.seed)
    theory = _theory(kernel, plan, X, stats)
    exact, values = theory.dense["exact"], theory.planes["exact"].shape[1]
    about = {"errors": theory.errors(exact), "norm": theory.norm, "informative": values}
    about |= theory.leading(exact) | {"lowered": theory.lowered, "tau0": stats.tau0}
    about["equivalent"] = _leading(theory.dense["equivalent"])[0].tolist()
    spent = time.perf_counter() - start
    log.info("%s: theory in %.0f s, %s", kernel, spent, about)
    draw = partial(_draw, plan, kernel, X, stats.tau0)
    chains = [
        run.once(f"{kernel}-{r}", partial(_chain, theory, draw, r, draws // plan.chains))
        for r in range(plan.chains)
    ]
    start = time.perf_counter()
    found = [told for chain in chains for told in chain["told"]]
    found += _merged(theory, [chain["sum"] for chain in chains], draws // plan.chains)
    found.sort(key=lambda told: told["draws"])
    total = spent + time.perf_counter() - start + sum(chain["seconds"] for chain in chains)
    rows = [
        {"kernel": kernel, "against": name, "draws": one["draws"], "replicate": one["replicate"]}
        | {"error": error}
        for one in found
        for name, error in one.pop("errors").items()
    ]
    return {"rows": rows, "about": about | {"means": found}, "total": total}


def _draw(
    plan: PublishedKernels, kernel: str, X: FloatArray, tau0: float, index: int
) -> torch.Tensor:
    """The kernel (n, n) of one network."""
    layers = [_ACTIVATIONS[kernel]] * len(plan.widths)
    seed = plan.seed + 1 + index
    net = RandomMLP(X.shape[1], plan.widths, layers, tau0=tau0, seed=seed, device="cpu")
    if kernel == "NTK":
        return net.tangent_kernel(X)
    features = net.features(X)
    return features @ features.T


def _chain(theory: _Theory, draw: Any, replicate: int, draws: int) -> dict[str, Any]:
    """The sum of a chain's kernels, and what its mean was at every power of two."""
    n = len(theory.gram)
    total, told = torch.zeros(n, n, dtype=torch.float64), []
    for done in range(1, draws + 1):
        total += draw(replicate * draws + done - 1)
        if done.bit_count() == 1:
            told.append(_told(theory, total, done, replicate))
    return {"sum": total, "told": told}


def _merged(theory: _Theory, sums: list[torch.Tensor], draws: int) -> list[dict[str, Any]]:
    """The means of two chains, and of all."""
    told = []
    while len(sums) > 1:
        draws *= 2
        sums = [a.add_(b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        told += [_told(theory, total, draws, r) for r, total in enumerate(sums)]
    return told


def _told(theory: _Theory, total: torch.Tensor, draws: int, replicate: int) -> dict[str, Any]:
    mean = (total / draws).float().numpy()
    one = {"draws": draws, "replicate": replicate, "errors": theory.errors(mean)}
    log.info("%s", one)
    return one | theory.leading(mean)


PRESETS = {
    "paper": PublishedKernels(),
    "smoke": PublishedKernels(
        n=160, p_ck=90, p_ntk=80, widths=(100, 100, 50), draws_ck=16, draws_ntk=8, chains=4
    ),
}
"""By name; ``paper`` has the scripts' sizes."""
