"""One style for every figure: theory as lines, simulation as bars or dots.

Colours are seaborn's colour-blind palette: a class keeps its colour through the whole book, and
so do the three ways of getting a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray

from .comparison import PowerLaw

PALETTE = tuple(sns.color_palette("colorblind").as_hex())
CLASS_COLOURS = (PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4], PALETTE[5], PALETTE[9])
SIMULATION, EXACT, THEORY = "#b8c4d6", PALETTE[2], PALETTE[3]
INK = "#333333"


def use_style() -> None:
    """Set the book's figure style for the session."""
    sns.set_theme(context="notebook", style="ticks", palette=PALETTE)
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "figure.figsize": (7.2, 3.6),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "mathtext.fontset": "cm",
            "svg.hashsalt": "ntklc",
        }
    )


def grid(
    rows: int, columns: int, *, height: float = 2.6, width: float = 3.6, **kwargs: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of ``rows × columns`` panels, always as a 2-D array of axes."""
    from matplotlib.pyplot import subplots

    size = (width * columns, height * rows)
    return subplots(rows, columns, figsize=size, squeeze=False, **kwargs)


def spectrum(
    ax: Axes,
    simulated: ArrayLike | None,
    lines: Mapping[str, ArrayLike],
    *,
    isolated: int = 0,
    bins: int = 60,
    log: bool = False,
    simulated_label: str = "simulated",
) -> None:
    """Eigenvalue histograms: simulation as bars, each theory as a stepped line.

    The ``isolated`` largest eigenvalues of each spectrum are left out of the histogram and drawn
    as markers just above the axis: single eigenvalues carry the classes, and a density hides them.
    The density axis is logarithmic.

    Parameters
    ----------
    ax : matplotlib Axes
    simulated : (n,) array or None
        Eigenvalues shown as bars.
    lines : mapping of label to (n,) array
        Eigenvalues shown as lines, at most three.
    isolated : int
        How many leading eigenvalues stand outside the bulk.
    bins : int
        Number of bins over the bulk.
    log : bool
        Logarithmic axis of eigenvalues; those that are not positive are left out.
    """
    spectra = {label: np.sort(values)[::-1] for label, values in lines.items()}
    if simulated is not None:
        spectra = {simulated_label: np.sort(simulated)[::-1], **spectra}
    bulk = np.concatenate([values[isolated:] for values in spectra.values()])
    edges = _edges(bulk, bins, log)
    colours = (EXACT, THEORY, INK)
    floor = np.inf
    for order, (label, values) in enumerate(spectra.items()):
        counts, _ = np.histogram(values[isolated:], edges)
        density = counts / (len(values) * (np.diff(np.log10(edges)) if log else np.diff(edges)))
        floor = min(floor, density[density > 0].min())
        is_bar = simulated is not None and order == 0
        colour = SIMULATION if is_bar else colours[order - (simulated is not None)]
        ax.stairs(
            density,
            edges,
            fill=is_bar,
            color=colour,
            label=label,
            linewidth=0 if is_bar else 1.7,
            linestyle="--" if order == 2 else "-",
            zorder=order + 1,
        )
        ax.plot(
            values[:isolated],
            np.full(isolated, 0.06 + 0.07 * order),
            "ovD^"[order],
            transform=ax.get_xaxis_transform(),
            ms=6,
            mfc=colour if is_bar else "none",
            mec=INK if is_bar else colour,
            mew=0.8 if is_bar else 1.5,
            ls="none",
            zorder=6,
        )
    if log:
        ax.set_xscale("log")
    # An atom of the spectrum would flatten everything else on a linear axis.
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor / 2)
    ax.set_xlabel(r"eigenvalue $\lambda$")
    ax.set_ylabel(r"density in $\log_{10}\lambda$" if log else "density")


def _edges(bulk: NDArray[np.float64], bins: int, log: bool) -> NDArray[np.float64]:
    if log:
        positive = bulk[bulk > 0]
        return np.geomspace(positive.min() * 0.999, positive.max() * 1.001, bins + 1)
    margin = 1e-3 * (bulk.max() - bulk.min() + 1e-300)
    return np.linspace(bulk.min() - margin, bulk.max() + margin, bins + 1)


def eigenvector(
    ax: Axes,
    simulated: ArrayLike,
    theory: ArrayLike,
    labels: ArrayLike,
    *,
    order: int = 1,
    shown: int = 120,
) -> None:
    """Entries of one eigenvector: simulation as dots coloured by class, theory as a line.

    Samples come sorted by class; ``shown`` of them, evenly spaced, are drawn. The thin line is the
    theory's eigenvector, entry by entry, the heavy one its mean over each whole class.
    """
    simulated, theory, labels = np.asarray(simulated), np.asarray(theory), np.asarray(labels)
    index = np.unique(np.linspace(0, len(labels) - 1, shown).astype(int))
    for a in np.unique(labels):
        mine = index[labels[index] == a]
        colour = CLASS_COLOURS[a % len(CLASS_COLOURS)]
        ax.plot(mine, simulated[mine], "o", ms=3.6, mew=0, color=colour, zorder=3)
        mean = theory[labels == a].mean()
        ax.hlines(mean, mine[0], mine[-1], color=INK, lw=2.4, alpha=0.8, zorder=2)
    ax.plot(index, theory[index], color=INK, lw=0.7, zorder=4)
    ax.set_xlabel("sample $i$, sorted by class")
    ax.set_ylabel(rf"$[\hat v_{order}]_i$")
    ax.margins(x=0.01)


def falling_error(
    ax: Axes,
    x: Sequence[float],
    errors: ArrayLike,
    fit: PowerLaw,
    *,
    label: str,
    colour: str = PALETTE[0],
    marker: str = "o",
) -> None:
    """Errors (len(x), repeats) against size on log axes: mean, range, and the fitted power law."""
    errors = np.asarray(errors)
    mean = errors.mean(axis=1)
    ax.errorbar(
        x,
        mean,
        yerr=[mean - errors.min(axis=1), errors.max(axis=1) - mean],
        fmt=marker,
        color=colour,
        capsize=3,
        ms=6,
        label=rf"{label}: slope ${fit.slope:.2f} \pm {fit.slope_error:.2f}$",
    )
    ax.plot(x, fit(x), color=colour, lw=1.4)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(list(x), [f"{value:g}" for value in x])
    # Minor ticks stay on the axis of errors: within one decade they are the only labels but one.
    ax.xaxis.set_minor_locator(NullLocator())
