"""One style for every figure and number: theory as lines, simulation as bars or dots.

Colours are seaborn's colour-blind palette: a class keeps its colour through the whole book, and
so do the three ways of getting a kernel.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .theory.metrics import PowerLaw

PALETTE = tuple(sns.color_palette("colorblind").as_hex())
CLASS_COLOURS = (PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4], PALETTE[5], PALETTE[9])
SIMULATION, EXACT, THEORY = "#b8c4d6", PALETTE[2], PALETTE[3]
INK = "#333333"


def use_style() -> None:
    """Set the book's figure style for the session, as each chapter does first."""
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


def power_of_ten(value: float, digits: int = 0) -> str:
    r"""A number as a formula, with so many digits after the point of its first factor.

    Examples
    --------
    >>> plots.power_of_ten(2.6e-15)
    '$3\\cdot10^{-15}$'
    """
    factor, exponent = f"{value:.{digits}e}".split("e")
    return rf"${factor}\cdot10^{{{int(exponent)}}}$"


def to_rounding(value: float, spec: str = ".0e", word: str = "rounding") -> str:
    """An error, or the word where it is below 1e-9 and so what rounding left of none.

    Examples
    --------
    >>> plots.to_rounding(2e-16), plots.to_rounding(0.013)
    ('rounding', '1e-02')
    """
    return word if value < 1e-9 else f"{value:{spec}}"


def grid(
    rows: int, columns: int, *, height: float = 2.6, width: float = 3.6, **kwargs: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of ``rows × columns`` panels, always as a 2-D array of axes.

    Examples
    --------
    >>> plots.grid(1, 2)[1].shape
    (1, 2)
    """
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
    The density axis is logarithmic; with ``log`` that of eigenvalues too, and those that are not
    positive are left out.

    Parameters
    ----------
    simulated : (n,) array or None
        Eigenvalues shown as bars, in ``bins`` bins over the bulk.
    lines : mapping of label to (n,) array
        Eigenvalues shown as lines, at most three.

    Examples
    --------
    >>> _, axes = plots.grid(1, 1)
    >>> plots.spectrum(axes[0, 0], np.arange(9.0), {"theory": np.arange(9.0)}, isolated=1)
    """
    spectra = {label: np.sort(np.asarray(values))[::-1] for label, values in lines.items()}
    colours = [EXACT, THEORY, INK]
    if simulated is not None:
        spectra = {simulated_label: np.sort(np.asarray(simulated))[::-1], **spectra}
        colours.insert(0, SIMULATION)
    edges = _edges(np.concatenate([values[isolated:] for values in spectra.values()]), bins, log)
    widths = np.diff(np.log10(edges)) if log else np.diff(edges)
    floor = np.inf
    for k, ((label, values), colour) in enumerate(zip(spectra.items(), colours, strict=False)):
        bars = colour == SIMULATION
        density = np.histogram(values[isolated:], edges)[0] / (len(values) * widths)
        floor = min(floor, density[density > 0].min())
        line: dict[str, Any] = {"lw": 0 if bars else 1.7, "ls": "--" if k == 2 else "-"}
        ax.stairs(density, edges, fill=bars, color=colour, label=label, zorder=k + 1, **line)
        heights, above = np.full(isolated, 0.06 + 0.07 * k), ax.get_xaxis_transform()
        look = {"mfc": colour, "mec": INK, "mew": 0.8} if bars else {"mfc": "none", "mew": 1.5}
        look = {"mec": colour, "ms": 6, "ls": "none", "zorder": 6} | look
        ax.plot(values[:isolated], heights, "ovD^"[k], transform=above, **look)
    if log:
        ax.set_xscale("log")
    # An atom of the spectrum would flatten everything else on a linear axis.
    ax.set(yscale="log", ylim=(floor / 2, None), xlabel=r"eigenvalue $\lambda$")
    ax.set_ylabel(r"density in $\log_{10}\lambda$" if log else "density")


def spectrum_key(owner: Axes | Figure, ax: Axes, **placing: Any) -> None:
    """Legend of what :func:`spectrum` drew in ``ax``: bars and lines, each with its marker.

    ``owner`` is the axes or figure that shows it; ``placing`` goes to its ``legend``.

    Examples
    --------
    >>> fig, axes = plots.grid(1, 1)
    >>> plots.spectrum(axes[0, 0], np.arange(9.0), {"theory": np.arange(9.0)}, isolated=1)
    >>> plots.spectrum_key(fig, axes[0, 0], loc="outside upper center", ncols=2)
    """
    handles, labels = ax.get_legend_handles_labels()
    pairs: list[Any] = list(zip(handles, ax.lines, strict=True))
    beside = {tuple: HandlerTuple(ndivide=None, pad=0.6)}
    owner.legend(pairs, labels, handler_map=beside, handlelength=3, **placing)


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

    Examples
    --------
    >>> _, axes = plots.grid(1, 1)
    >>> plots.eigenvector(axes[0, 0], [-0.7, 0.7], [-0.7, 0.7], labels=[0, 1])
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
    """Errors (len(x), repeats) against size on log axes: mean, range, and the fitted power law.

    Examples
    --------
    >>> _, axes = plots.grid(1, 1)
    >>> x, errors = [1, 2, 4], [[1.0], [0.6], [0.3]]
    >>> plots.falling_error(axes[0, 0], x, errors, nh.power_law(x, [1, 0.6, 0.3]), label="CK")
    """
    errors = np.asarray(errors)
    mean = errors.mean(axis=1)
    reach = [mean - errors.min(axis=1), errors.max(axis=1) - mean]
    digits = 3 if fit.slope_error < 0.005 else 2
    slope = rf"{label}: slope ${fit.slope:.{digits}f} \pm {fit.slope_error:.{digits}f}$"
    ax.errorbar(x, mean, reach, fmt=marker, color=colour, capsize=3, ms=6, label=slope)
    ax.plot(x, fit(x), color=colour, lw=1.4)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(list(x), [f"{value:g}" for value in x])
    # Minor ticks stay on the axis of errors: within one decade they are the only labels but one.
    ax.xaxis.set_minor_locator(NullLocator())


# What moves the slider: it finds its own box, since a page may have several.
_MOVE = """
(() => {
  const box = document.currentScript.parentElement;
  const [image, control, data] = box.children;
  const frames = JSON.parse(data.textContent);
  const [input, output] = control.querySelectorAll("input, output");
  input.addEventListener("input", () => {
    const [value, picture] = frames[input.value];
    image.src = "data:image/png;base64," + picture;
    output.textContent = value;
    input.setAttribute("aria-valuetext", value);
  });
  control.style.display = "flex";
})();
"""


@frozen
class Slider:
    """A figure that a slider moves, as :func:`slider` makes it.

    Attributes
    ----------
    label, alt : str
    frames : tuple of (str, str)
        Each value as it is shown, and its picture: PNG in base64.
    start : int
        The frame that is shown first, and alone where there are no scripts.
    """

    label: str
    alt: str
    frames: tuple[tuple[str, str], ...]
    start: int

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {
            "text/html": self.to_html(),
            "image/png": self.frames[self.start][1],
            "text/plain": f"{self.label}: {', '.join(value for value, _ in self.frames)}",
        }

    def to_html(self) -> str:
        """A picture, its control, and the script that joins them: no other file is needed.

        Examples
        --------
        >>> page = Slider("size", "a square", (("1", "AA=="), ("2", "AB==")), 0).to_html()
        >>> page.count("<img"), 'max="1"' in page
        (1, True)
        """
        value, picture = self.frames[self.start]
        text = escape(self.label)
        frames = json.dumps(self.frames).replace("<", "\\u003c")
        return (
            '<div class="ntklc-slider">'
            f'<img alt="{escape(self.alt)}" src="data:image/png;base64,{picture}">'
            '<label style="display: none; gap: 0.8em; align-items: center">'
            f"<span>{text}</span>"
            f'<input type="range" min="0" max="{len(self.frames) - 1}" value="{self.start}"'
            f' aria-valuetext="{escape(value)}" style="flex: 1 1 8em; min-width: 6em">'
            f'<output style="min-width: 4em">{escape(value)}</output></label>'
            f'<script type="application/json">{frames}</script>'
            f"<script>{_MOVE}</script></div>"
        )


def slider(
    draw: Callable[[Any], Figure],
    values: Mapping[str, Any],
    *,
    label: str,
    alt: str,
    start: str | None = None,
) -> Slider:
    """A figure with a slider that needs neither a kernel nor a network: all frames are drawn now.

    On a page it moves by touch, mouse and arrow keys; where there are no scripts, and in print, it
    is the figure of ``start``.

    Parameters
    ----------
    draw : callable
        From a value to a figure, of one size for all and best with the same axes. It is closed.
    values : mapping
        From what the slider shows to what ``draw`` is given, in order.
    label : str
        What moves, in plain text.
    alt : str
        What is to be seen, for those who do not see it.
    start : str, optional
        A key of ``values``; by default the one in the middle.

    Raises
    ------
    ValueError
        If there are fewer than two values, ``start`` is none of them, or sizes differ.

    Examples
    --------
    >>> def line(slope):
    ...     fig, axes = plots.grid(1, 1)
    ...     axes[0, 0].plot([0, slope])
    ...     return fig
    >>> plots.slider(line, {"1": 1, "2": 2, "3": 3}, label="slope", alt="A line.").start
    1
    """
    from matplotlib.pyplot import close

    shown = list(values)
    if len(shown) < 2:
        raise ValueError(f"values must be at least two, got {len(shown)}")
    if start is not None and start not in values:
        raise ValueError(f"start must be among {', '.join(shown)}, got {start!r}")
    frames, sizes = [], set()
    for name, value in values.items():
        figure = draw(value)
        sizes.add(tuple(figure.get_size_inches()))
        close(figure)
        frames.append((name, _picture(figure)))
    if len(sizes) > 1:
        raise ValueError(f"draw must give figures of one size, got {sorted(sizes)} inches")
    first = len(shown) // 2 if start is None else shown.index(start)
    return Slider(label, alt, tuple(frames), first)


def _picture(figure: Figure) -> str:
    """PNG in base64, of the figure's size whatever is drawn: frames must not jump.

    In 96 colours, which drawings do not miss and which make it some three times smaller.
    """
    drawn, file = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"savefig.bbox": "standard"}):
        figure.savefig(drawn, format="png", dpi=mpl.rcParams["figure.dpi"])
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(96).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
