"""The published comparison: random networks of three ReLU layers, compressed in several ways.

Nothing but a ridge readout is trained. Every method is a network of the same widths, with the
kernel of the dense one in the limit; what differs is how many bytes it takes and how accurate it is
at finite width. A method is one entry of ``METHODS``: add one there, and every comparison, table
and figure that goes through :func:`all_methods` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import attrs
import matplotlib as mpl
import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import NDArray
from tqdm import tqdm

from .. import plots
from .._checks import (
    checked,
    class_labels,
    each,
    labels,
    one_of,
    samples,
    share,
    torch_device,
    whole,
)
from ..compression.convert import compress
from ..compression.readout import Readout, fit_readout
from ..compression.ternary import TernaryMatrix, pack_ternary, pruned_bytes
from ..matching.match import Matching, match
from ..theory.activations import activation
from ..theory.networks import RandomMLP
from ..theory.weights import Gaussian, Law, MagnitudePruned, Pruned, Ternary

if TYPE_CHECKING:
    from pandas import DataFrame

DEPTH = 3
RELUS = [activation("relu")] * DEPTH

Levels = int | Literal["paper", "script"]
Built = tuple[Callable[[NDArray], NDArray], Callable[[Readout], int]]
"""Two functions: the features of rows, and the bytes of the network with a readout."""


@frozen(eq=False)
class Task:
    """Rows X (n, p), X_test (m, p) and labels 0 … K − 1 to train and to test on.

    The rows should have mean 0 and mean squared norm 1 (``normalize``). ValueError if the shapes
    or labels do not fit.

    Examples
    --------
    >>> Task(np.eye(2), [0, 1], [[0.4, 0.6]], [1]).y
    array([0, 1])
    """

    X: NDArray[np.float64] = field(converter=lambda X: samples("X", X))
    y: NDArray[np.int64] = field(converter=lambda y: class_labels("y", y))
    X_test: NDArray[np.float64] = field(converter=lambda X: samples("X_test", X))
    y_test: NDArray[np.int64] = field(converter=lambda y: labels("y_test", y))

    def __attrs_post_init__(self) -> None:
        labels("y", self.y, len(self.X))
        samples("X_test", self.X_test, self.X.shape[1])
        labels("y_test", self.y_test, len(self.X_test))


@frozen(eq=False)
class Method:
    """One way to compress, and how figures show it.

    Attributes
    ----------
    name, label : str
        In tables and records, and for readers.
    colour, marker
        As matplotlib takes them.
    build : callable
        From a :class:`Case`, the rows X and a device to what is :data:`Built`.
    levels : int, "paper" or "script", optional
        Of staircases matched to three ReLU layers at τ₀ = 1, on a uniform grid; none for ReLU.
    lloyd_max : bool
        Whether they are Lloyd–Max quantisers instead, their levels free.
    sparse : bool
        Whether the weights have zeros.

    Examples
    --------
    >>> METHODS["script"].label, METHODS["dense"].sparse
    ('published script', False)
    """

    name: str
    colour: Any
    marker: str
    build: Callable[[Case, NDArray, torch.device], Built]
    levels: Levels | None = None
    lloyd_max: bool = False
    sparse: bool = True
    label: str = attrs.Factory(lambda self: self.name, takes_self=True)

    @property
    def matching(self) -> Matching | None:
        """The staircases, solved once; None for ReLU."""
        return None if self.levels is None else _matched(self.levels, self.lloyd_max)

    @property
    def look(self) -> dict[str, Any]:
        """Colour, marker and line as matplotlib's functions take them; Lloyd–Max hollow, dashed."""
        style = {"color": self.colour, "marker": self.marker, "label": self.label}
        return style | ({"mfc": "white", "ls": "--"} if self.lloyd_max else {"ls": "-"})


@cache
def _matched(levels: Levels, lloyd_max: bool) -> Matching:
    if lloyd_max:
        return match(RELUS, 1.0, levels, objective="lloyd-max")
    return match(RELUS, 1.0, levels, grid="free" if isinstance(levels, str) else "uniform")


def _named(method: Method | str) -> Method:
    return method if isinstance(method, Method) else METHODS[one_of("method", method, METHODS)]


def _width(argument: str, value: Any) -> int | tuple[int, ...]:
    """Of all hidden layers, or of each."""
    if not isinstance(value, tuple | list):
        return whole(argument, value)
    if len(value) != DEPTH:
        raise ValueError(f"{argument} must be one, or {DEPTH} of them, got {value!r}")
    return each(argument, value, whole)


@frozen
class Case:
    """One network: a method, or the name of one in ``METHODS``, width, sparsity and seed.

    Of all three hidden layers, or a tuple of the widths of each.

    Examples
    --------
    >>> Case("dense", 50, 0.0, seed=1).key
    {'method': 'dense', 'width': 50, 'sparsity': 0.0, 'seed': 1}
    """

    method: Method = field(converter=_named, eq=attrgetter("name"))
    width: int | tuple[int, ...] = checked(_width)
    sparsity: float = checked(share)
    seed: int = checked(whole, attrs.NOTHING, 0)

    @property
    def key(self) -> dict[str, Any]:
        """Its columns in a table."""
        return attrs.asdict(self, recurse=False) | {"method": self.method.name}

    def net(self, X: NDArray, device: torch.device, law: Law) -> RandomMLP:
        """The network with ReLU on rows like X whose weights have that law."""
        widths = [self.width] * DEPTH if isinstance(self.width, int) else self.width
        return RandomMLP(X.shape[1], widths, RELUS, weights=law, seed=self.seed, device=device)


def _floats(stored: Callable[[NDArray], int], law: Callable[[float], Law]) -> Any:
    """Builds networks with ReLU: by the bytes of a hidden matrix, and the law at a sparsity."""

    def build(case: Case, X: NDArray, device: torch.device) -> Built:
        net = case.net(X, device, law(case.sparsity))
        hidden = sum(stored(W.cpu().numpy()) for W in net.matrices)
        return lambda X: net.features(X).cpu().numpy(), lambda readout: hidden + readout.nbytes

    return build


def _signs(W: NDArray) -> int:
    """Bytes of signs and places; without levels, so activations stay in floats."""
    return pack_ternary(TernaryMatrix.from_dense(np.sign(W))).nbytes


def _integers(case: Case, X: NDArray, device: torch.device) -> Built:
    """A ternary network with staircases; its bytes are those of its file."""
    probe = X[:: max(1, len(X) // 2000)]  # rows on which it checks the scale of its data
    how: dict[str, Any] = {"levels": case.method.matching, "sparsity": case.sparsity}
    small = compress(case.net(X, device, Gaussian()), probe, seed=case.seed, **how)

    def size(readout: Readout) -> int:
        small.readout = readout
        return len(small.to_bytes("packed"))

    return partial(small.features, device=None if device.type == "cpu" else device), size


COLOURS = plots.PALETTE
METHODS = {
    method.name: method
    for method in (
        Method("dense", plots.INK, "s", _floats(pruned_bytes, lambda _: Gaussian()), sparse=False),
        Method("random pruning", COLOURS[0], "v", _floats(pruned_bytes, Pruned)),
        Method("magnitude pruning", COLOURS[1], "^", _floats(pruned_bytes, MagnitudePruned)),
        Method("ternary, ReLU", COLOURS[2], "D", _floats(_signs, Ternary)),
        Method("paper", COLOURS[4], "x", _integers, "paper", label="published, solved"),
        Method("script", COLOURS[5], "+", _integers, "script", label="published script"),
    )
}
"""The methods without a number of levels, by name, in the order of tables and figures."""


def levels_name(levels: Levels, lloyd_max: bool = False) -> str:
    """The name of the method with m levels; ``"paper"`` and ``"script"`` are names themselves.

    Examples
    --------
    >>> levels_name(16), levels_name(16, lloyd_max=True), levels_name("paper")
    ('16 levels', 'Lloyd–Max, 16 levels', 'paper')
    """
    return (
        str(levels) if isinstance(levels, str) else "Lloyd–Max, " * lloyd_max + f"{levels} levels"
    )


def all_methods(levels: Sequence[int] = (), lloyd_max: Sequence[int] = ()) -> dict[str, Method]:
    """``METHODS``, and methods ``"m levels"`` and ``"Lloyd–Max, m levels"``, from light to dark.

    Raises ValueError if a number of levels is not at least 2.

    Returns
    -------
    dict of str to Method

    Examples
    --------
    >>> [method.label for method in all_methods([16], lloyd_max=[2]).values()][-2:]
    ['16 levels', 'Lloyd–Max, 2 levels']
    """
    found = {}
    for counts, lloyd, shades in ((levels, False, "Reds"), (lloyd_max, True, "Blues")):
        colours = mpl.colormaps[shades](np.linspace(0.35, 1, len(counts)))
        marks = "o<>*Ph8p" * (1 + len(counts) // 8)
        for m, colour, mark in zip(counts, colours, marks, strict=False):
            name, m = levels_name(m, lloyd), whole("levels", m, 2)
            found[name] = Method(name, tuple(colour), mark, _integers, m, lloyd)
    return METHODS | found


def cases(
    widths: Sequence[int | Sequence[int]],
    levels: Sequence[int],
    sparsity: float,
    seeds: Sequence[int],
    sparsities: Sequence[float] = (),
    sparsity_width: int | None = None,
    lloyd_max: Sequence[int] = (),
) -> tuple[Case, ...]:
    """All methods at all widths and one sparsity, each case once; ``lloyd_max`` as ``levels``.

    At ``sparsities``, and ``sparsity_width``, pruning, ternary weights and the most levels as well,
    beside the dense network. Raises ValueError if a setting is not as stated, or there are
    sparsities and no width for them.

    Returns
    -------
    tuple of Case

    Examples
    --------
    >>> len(cases([500, 1000], [2, 16], 0.9, seeds=range(3)))
    48
    """
    if len(sparsities) and sparsity_width is None:
        raise ValueError("sparsity_width must be given where there are sparsities")
    every, most = all_methods(levels, lloyd_max).values(), levels_name(max(levels, default=0))
    swept = [m for m in every if m.sparse and (m.levels is None or m.name == most)]
    plan: list[Any] = [
        *product(widths, [sparsity], seeds, every),
        *product([sparsity_width], sparsities, seeds, swept),
        *product([sparsity_width], sparsities[:1], seeds, [METHODS["dense"]]),
    ]
    found = (Case(m, width, eps if m.sparse else 0.0, seed) for width, eps, seed, m in plan)
    return tuple(dict.fromkeys(found))


def compare(
    task: Task, cases: Sequence[Case], device: torch.device | str | None = None
) -> Iterator[dict[str, Any]]:
    """:func:`measure` one case after the other; each row is handed out as soon as it is known.

    ``pandas.DataFrame(compare(task, cases(…)))`` is the table of all.

    Yields
    ------
    dict
        As :func:`measure` has it; errors are its too.

    Examples
    --------
    >>> X, y = np.eye(4) - 0.25, np.arange(4) % 2
    >>> found = compare(Task(X, y, X, y), [Case("dense", 50, 0.0, seed=0)], device="cpu")
    >>> [row["accuracy"] for row in found]
    [100.0]
    """
    bar = tqdm(cases, desc="networks", leave=False)
    for case in bar:
        bar.set_postfix_str(f"{case.method.name}, width {case.width}")
        yield measure(task, case, device)


def measure(task: Task, case: Case, device: torch.device | str | None = None) -> dict[str, Any]:
    """Fit a readout on a network's features of the training rows; classify the test rows.

    Raises ValueError if torch has no such device, or the task does not allow a readout.

    Returns
    -------
    dict
        ``method``, ``width``, ``sparsity`` and ``seed`` of the case, ``accuracy`` in percent of
        the test rows, and ``bytes`` of hidden weights and readout.

    Examples
    --------
    >>> X, y = np.eye(4) - 0.25, np.arange(4) % 2
    >>> measure(Task(X, y, X, y), Case("dense", 50, 0.0, seed=0), device="cpu")["accuracy"]
    100.0
    """
    place = torch_device(device)
    features, size = case.method.build(case, task.X, place)
    fitted = fit_readout(features(task.X), task.y, device=None if place.type == "cpu" else place)
    accuracy = 100 * np.mean(fitted.predict(features(task.X_test)) == task.y_test)
    return case.key | {"accuracy": float(accuracy), "bytes": int(size(fitted))}


def at_sparsity(table: DataFrame, sparsity: float) -> DataFrame:
    """The rows of a comparison's table of networks that sparse, and those of the dense ones.

    Examples
    --------
    >>> import pandas
    >>> table = pandas.DataFrame({"method": ["dense", "paper", "paper"], "sparsity": [0, 0.5, 0.9]})
    >>> at_sparsity(table, 0.9).index.tolist()
    [0, 2]
    """
    return table[(table.sparsity == sparsity) | (table.method == "dense")]
