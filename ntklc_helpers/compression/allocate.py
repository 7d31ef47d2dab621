"""Allocation: the widths, levels and sparsity on which a budget is forecast to be best spent.

No network is drawn. Configurations are compared by their forecasts on a small copy of the task:
fewer samples and narrower layers, both by the same factor, so that a readout is as short of
neurons there as here. Wider is better, so only widths that use a budget up are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property, partial
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from attrs import Factory, evolve, field, frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import FloatArray, labels, one_of, positive, same_length, samples, share, whole
from ..data.images import balanced_rows
from ..matching.match import Matching, match
from ..theory.activations import AnyActivation, Quantized, activation_list
from ..theory.forecast import Forecast, Forecaster
from ..theory.networks import RandomMLP
from .convert import compress
from .layers import Drawn, TernaryLayer
from .network import CompressedNetwork
from .readout import Readout
from .ternary import packed_bits

Counted = Literal["packed", "seed", "operations"]

# Samples of the copy that is searched on, and of the one for the ridge; more for many classes.
_COPY, _LARGE = 500, 1000
# Relative to the trace of the kernel, and where the search begins.
_RIDGES = tuple((10.0 ** np.arange(-5, -0.9, 0.5)).tolist())
_START = 5


@frozen(eq=False, slots=False)
class Allocation:
    """A configuration that meets a budget, and what is known of it.

    Attributes
    ----------
    widths : tuple of int
        d_1 … d_L.
    sparsity : float
    levels : tuple of int
        One count a layer.
    matching : Matching
        The staircases.
    bytes : int
        Of the file with a float32 readout, its weights packed unless the budget counted those of
        the seed; of packed weights the expected size.
    operations : int
        Additions of the hidden layers, one a non-zero weight, and multiplications of the readout,
        for one sample.
    copy : Forecast
        What it was chosen by: the forecast on the small copy.

    Examples
    --------
    >>> data = nh.load_digits(n=200, seed=0)
    >>> X = nh.normalize(data.X)
    >>> found = nh.allocate(X, data.labels, ["relu"], 6000, widths=(50, 100), levels=(4,))
    >>> small = found.network().fit_readout(X, data.labels)
    >>> small.widths == found.widths, abs(len(small.to_bytes("packed")) / found.bytes - 1) < 0.02
    (True, True)
    """

    widths: tuple[int, ...]
    sparsity: float
    levels: tuple[int, ...]
    matching: Matching = field(repr=False)
    bytes: int
    operations: int
    copy: Forecast = field(repr=False)
    _task: _Task = field(repr=False)

    @property
    def ridge(self) -> float:
        """Relative to the trace of the kernel: with which most accuracy is forecast."""
        return self._at_full_size[0]

    @property
    def forecast(self) -> Forecast:
        """At full size, of all samples to train on: made when asked for, in O(n³)."""
        return self._at_full_size[1]

    @cached_property
    def _at_full_size(self) -> tuple[float, Forecast]:
        """Ridge and forecast; where samples are many, from the ridge that is best on fewer."""
        task, at = self._task, _START
        for most in sorted({min(_LARGE, task.n_train), task.n_train}):
            prepared = task.forecaster(most, self.matching, self.sparsity)
            narrow = task.narrowed(most, self.widths)
            known = cache(partial(_at_ridge, prepared, narrow, self.widths))
            at = _climbed(at, len(_RIDGES), partial(_hits, known))
        return _RIDGES[at], known(at)

    def network(self, seed: int = 0) -> CompressedNetwork:
        """The network, drawn with a seed; its readout is still to be fitted."""
        X, steps = self._task.X, self.matching
        net = RandomMLP(X.shape[1], self.widths, steps.activations, steps.tau0)
        return compress(net, X, steps, self.sparsity, seed)


def allocate(
    X: ArrayLike,
    y: ArrayLike,
    activations: Sequence[AnyActivation | str],
    budget: float,
    counted: Counted = "packed",
    *,
    widths: Sequence[int] = (125, 250, 500, 1000, 2000),
    levels: Sequence[int | Sequence[int]] = (2, 4, 8, 16),
    sparsities: Sequence[float] = (0.5, 0.9, 0.97),
    n_train: int | None = None,
    seed: int = 0,
) -> Allocation:
    """The configuration of which most is forecast among those that meet a budget.

    Parameters
    ----------
    X : (N, p) array
        Samples to train on, of the scale that the network will be made for.
    y : (N,) labels
    activations : sequence of Activation or names
        σ_1 … σ_L, for which Lloyd–Max staircases are put.
    budget : float
    counted : "packed", "seed" or "operations"
        What the budget counts: bytes of the file with its weights packed, or with their seed alone;
        or what one sample takes, a non-zero weight an addition, a weight of the readout a
        multiplication. A seed's file pays for nothing but the readout: its hidden layers are
        bounded by ``widths`` alone.
    widths : sequence of int
        Candidates for each layer on its own.
    levels : sequence of int, or of sequences of int
        Candidates: numbers of levels, of all layers or one each.
    sparsities : sequence of float
        Candidates in [0, 1).
    n_train : int, optional
        How many of the samples a readout will be trained on, by default all.
    seed : int
        Of the samples in the copy, and of the forecast.

    Returns
    -------
    Allocation

    Raises
    ------
    ValueError
        If an argument is not as stated, nothing meets the budget, or there are fewer samples to
        train on than classes.

    Notes
    -----
    Some 20 forecasts on 500 samples: a sparsity together with widths that use the budget up, the
    levels and the ridge are changed in turn, while the expected squared error falls. That is less
    of an accident of few samples than their accuracy.

    Examples
    --------
    >>> data = nh.load_digits(n=200, seed=0)
    >>> X, widths = nh.normalize(data.X), (50, 100, 200)
    >>> found = nh.allocate(X, data.labels, ["relu"], 10_000, "seed", widths=widths, levels=(4,))
    >>> found.widths, found.bytes < 10_000
    ((200,), True)
    """
    budgets = [positive("budget", budget)]
    found = allocation_front(
        X, y, activations, budgets, counted, widths=widths, levels=levels, sparsities=sparsities,
        n_train=n_train, seed=seed,
    )  # fmt: skip
    return found[0]


def allocation_front(
    X: ArrayLike,
    y: ArrayLike,
    activations: Sequence[AnyActivation | str],
    budgets: Sequence[float],
    counted: Counted = "packed",
    *,
    widths: Sequence[int] = (125, 250, 500, 1000, 2000),
    levels: Sequence[int | Sequence[int]] = (2, 4, 8, 16),
    sparsities: Sequence[float] = (0.5, 0.9, 0.97),
    n_train: int | None = None,
    seed: int = 0,
) -> tuple[Allocation, ...]:
    """For each budget what :func:`allocate` finds, in one search that makes every kernel once.

    Of a larger budget no more error is forecast than of a smaller one; the result is in the order
    of the budgets. Arguments and errors as for :func:`allocate`.

    Returns
    -------
    tuple of Allocation

    Examples
    --------
    >>> data = nh.load_digits(n=200, seed=0)
    >>> small, large = nh.compression.allocation_front(
    ...     nh.normalize(data.X), data.labels, ["relu"], [6000, 20_000], widths=(50, 100, 200)
    ... )
    >>> small.copy.error > large.copy.error
    True
    """
    X, acts = samples("X", X), activation_list("activations", activations)
    classes, names = np.unique(labels("y", y, len(X)), return_inverse=True)
    n = len(X) if n_train is None else whole("n_train", n_train, 2, len(X))
    if not 2 <= len(classes) <= n:
        raise ValueError(
            f"y must name at least 2 classes, and not more than the {n} samples to train on; it "
            f"names {len(classes)}"
        )
    one_of("counted", counted, get_args(Counted))
    tau0 = float(np.sqrt(np.mean(np.sum(X**2, axis=1))))
    if tau0 == 0:
        raise ValueError("X must not be zero: the network is made for its scale")
    search = _Search(
        _Task(X, names, n, tau0, whole("seed", seed, 0)),
        acts,
        sorted({_counts(one, len(acts)) for one in _candidates("levels", levels)}),
        tuple(sorted({whole("widths", d) for d in _candidates("widths", widths)})),
        tuple(sorted({share("sparsities", e) for e in _candidates("sparsities", sparsities)})),
        counted,
        Price(X.shape[1], classes),
    )
    wanted = [positive("budgets", budget) for budget in _candidates("budgets", budgets)]
    least = min(search.cost(one) for one in search.cheapest())
    if min(wanted) < least:
        raise ValueError(
            f"budget must be at least {int(np.ceil(least))}, what the least of all configurations "
            f"takes, got {min(wanted):g}"
        )
    return search.front(wanted)


def _candidates(argument: str, values: Any) -> Sequence[Any]:
    found = [*values] if np.ndim(values) or isinstance(values, Sequence) else [values]
    if not found:
        raise ValueError(f"{argument} must have at least one candidate, got none")
    return found


def _climbed(at: int, count: int, merit: Callable[[int], float]) -> int:
    """From a place of ``count``, step by step while there is more merit."""
    for step in (1, -1):
        while 0 <= at + step < count and merit(at + step) > merit(at):
            at += step
    return at


def _at_ridge(
    prepared: Forecaster, widths: Sequence[int], inputs: Sequence[int], ridge: int
) -> Forecast:
    return prepared(widths, _RIDGES[ridge], inputs)


def _hits(known: Callable[[int], Forecast], ridge: int) -> float:
    return known(ridge).accuracy or 0.0


def _counts(levels: Any, depth: int) -> tuple[int, ...]:
    counts = [*levels] if np.ndim(levels) else [levels] * depth
    same_length("levels", counts, "activations", depth)
    return tuple(whole("levels", count, 2) for count in counts)


@frozen(eq=False, slots=False)
class _Task:
    """Samples (N, p), classes 0 … K − 1, how many of them a readout is trained on, their scale."""

    X: FloatArray
    y: NDArray[np.int64]
    n_train: int
    tau0: float
    seed: int

    def size(self, most: int) -> int:
        """Samples of a copy that is to have so many at most."""
        return min(self.n_train, max(most, 4 * (int(self.y.max()) + 1)))

    def narrowed(self, most: int, widths: Sequence[int]) -> list[int]:
        """The widths in a copy."""
        return [max(1, round(d * self.size(most) / self.n_train)) for d in widths]

    def forecaster(self, most: int, steps: Matching, sparsity: float) -> Forecaster:
        """The kernels of a copy, or of the task itself if so many samples are all of it."""
        n = self.size(most)
        rows = np.arange(len(self.y)) if n == self.n_train else balanced_rows(self.y, n, self.seed)
        return Forecaster.of(
            self.X[rows], self.y[rows], steps.activations, n, sparsity, tau0=self.tau0,
            seed=self.seed,
        )  # fmt: skip


@frozen
class _Choice:
    """A configuration: which of the staircases, the sparsity, the widths, which of the ridges."""

    steps: int
    sparsity: float
    widths: tuple[int, ...]
    ridge: int = _START


@frozen(eq=False)
class Price:
    """What networks cost: p inputs, ternary weights, staircases, a float32 readout of ``classes``.

    Examples
    --------
    >>> Price(10, np.arange(2)).cost("operations", (4, 4), 0.5, [[100, 50]])
    array([3100.])
    """

    p: int
    classes: NDArray

    def cost(
        self, counted: Counted, levels: Sequence[int], sparsity: float, widths: ArrayLike
    ) -> FloatArray:
        """(T,) bytes or operations of T tuples of widths (T, L)."""
        widths = np.asarray(widths, np.float64)
        before = np.column_stack([np.full(len(widths), self.p), widths[:, :-1]])
        weights, outputs = np.sum(before * widths, axis=1), len(self.classes) * widths[:, -1]
        if counted == "operations":
            return (1 - sparsity) * weights + outputs
        bits = packed_bits(sparsity) if counted == "packed" else 0.0
        return self._rest(counted, levels, sparsity) + bits / 8 * weights + 4 * outputs

    def _rest(
        self, storage: Literal["packed", "seed"], levels: Sequence[int], sparsity: float
    ) -> int:
        """Bytes of a file besides its weights: of one whose layers are single neurons."""
        layers = []
        for i, m in enumerate(levels):
            drawn, steps = Drawn(sparsity, 0, i), Quantized(np.arange(m - 1.0), np.arange(m + 0.0))
            scale = (1 - sparsity) ** -0.5
            layers.append(TernaryLayer(drawn.matrix((1, 1)), scale, steps, drawn=drawn))
        K = len(self.classes)
        readout = Readout.from_weights(np.zeros((1, K)), np.zeros(K), self.classes)
        return len(CompressedNetwork(layers, readout).to_bytes(storage)) - 4 * K


@frozen(eq=False, slots=False)
class _Search:
    """Forecasts that are made once, and what is found by them."""

    task: _Task
    activations: Sequence[AnyActivation]
    levels: Sequence[tuple[int, ...]]
    widths: tuple[int, ...]
    sparsities: tuple[float, ...]
    counted: Counted
    price: Price
    staircases: dict[int, Matching] = Factory(dict)
    prepared: dict[tuple[int, float], Forecaster] = Factory(dict)
    known: dict[_Choice, Forecast] = Factory(dict)

    @cached_property
    def shapes(self) -> NDArray[np.int64]:
        """(T, L) all widths, the last one running fastest."""
        return np.array([*product(self.widths, repeat=len(self.activations))])

    @cached_property
    def costs(self) -> dict[tuple[int, float], FloatArray]:
        """What each of the shapes costs, by levels and sparsity."""
        return {
            (i, sparsity): self.price.cost(self.counted, levels, sparsity, self.shapes)
            for i, levels in enumerate(self.levels)
            for sparsity in self.sparsities
        }

    def cost(self, choice: _Choice) -> float:
        places = np.searchsorted(self.widths, choice.widths)
        at = np.ravel_multi_index([*places], (len(self.widths),) * len(places))
        return float(self.costs[choice.steps, choice.sparsity][at])

    def cheapest(self) -> Iterator[_Choice]:
        """The narrowest network of each kind."""
        for steps, sparsity in self.costs:
            yield _Choice(steps, sparsity, (self.widths[0],) * self.shapes.shape[1])

    def fullest(self, steps: int, sparsity: float, budget: float) -> Iterator[tuple[int, ...]]:
        """Widths within the budget of which none can be had larger."""
        depth = self.shapes.shape[1]
        fits = (self.costs[steps, sparsity] <= budget).reshape((len(self.widths),) * depth)
        wider = np.zeros_like(fits)
        for axis in range(depth):
            inner, outer = [slice(None)] * depth, [slice(None)] * depth
            inner[axis], outer[axis] = slice(None, -1), slice(1, None)
            wider[tuple(inner)] |= fits[tuple(outer)]
        for shape in self.shapes[(fits & ~wider).ravel()]:
            yield tuple(shape.tolist())

    def matching(self, steps: int) -> Matching:
        """The staircases with one of the candidates' levels."""
        if steps not in self.staircases:
            levels = self.levels[steps]
            self.staircases[steps] = match(self.activations, self.task.tau0, levels, "lloyd-max")
        return self.staircases[steps]

    def forecast(self, choice: _Choice) -> Forecast:
        """On the small copy."""
        if choice not in self.known:
            task, kind = self.task, (choice.steps, choice.sparsity)
            if kind not in self.prepared:
                steps = self.matching(choice.steps)
                self.prepared[kind] = task.forecaster(_COPY, steps, choice.sparsity)
            narrow = task.narrowed(_COPY, choice.widths)
            self.known[choice] = _at_ridge(self.prepared[kind], narrow, choice.widths, choice.ridge)
        return self.known[choice]

    def best(self, choices: Iterable[_Choice]) -> _Choice:
        """Of the first of these that have the least error."""
        return min(choices, key=lambda choice: self.forecast(choice).error)

    def front(self, budgets: Sequence[float]) -> tuple[Allocation, ...]:
        """From small to large, each from what was found before."""
        found: dict[float, _Choice] = {}
        at: _Choice | None = None
        for budget in sorted(set(budgets)):
            at = at or next(one for one in reversed([*self.cheapest()]) if self.cost(one) <= budget)
            at = found[budget] = self.settled(at, budget)
        return tuple(self.allocation(found[budget]) for budget in budgets)

    def settled(self, at: _Choice, budget: float) -> _Choice:
        """The best choice within a budget: shapes of each sparsity, then ridge, then levels, until
        none of it changes.
        """
        before = None
        while at != before:
            before = at
            shapes = [
                _Choice(at.steps, sparsity, widths, at.ridge)
                for sparsity in self.sparsities
                for widths in self.fullest(at.steps, sparsity, budget)
            ]
            at = self.best([at, *shapes])
            ridges = [evolve(at, ridge=i) for i in range(len(_RIDGES))]
            at = self.climbed(ridges, at.ridge, budget)
            at = self.climbed(
                [evolve(at, steps=i) for i in range(len(self.levels))], at.steps, budget
            )
        return at

    def climbed(self, line: Sequence[_Choice], start: int, budget: float) -> _Choice:
        """Along a line of choices, from one of them, while the error falls."""

        def merit(i: int) -> float:
            return -self.forecast(line[i]).error if self.cost(line[i]) <= budget else -np.inf

        return line[_climbed(start, len(line), merit)]

    def allocation(self, at: _Choice) -> Allocation:
        levels = self.levels[at.steps]
        size, operations = (
            round(float(self.price.cost(counted, levels, at.sparsity, [at.widths])[0]))
            for counted in ("seed" if self.counted == "seed" else "packed", "operations")
        )
        return Allocation(
            at.widths, at.sparsity, levels, self.matching(at.steps), size, operations,
            self.forecast(at), self.task,
        )  # fmt: skip
