"""Bits and levels of every layer of a trained network, where bytes are short.

What each choice costs in bytes is known, and what it costs in error is measured one choice at a
time, all else as it was trained: as a part of the variance of the network's outputs. Errors of
different layers nearly add up, and the best choices are then those of a knapsack, found exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, get_args

import numpy as np
import torch
from attrs import frozen
from numpy.typing import ArrayLike

from .._checks import positive, share, whole
from .calibrate import (
    MOST_LEVELS,
    let_go,
    relative_error,
    replaced,
    run_step,
    split,
    to_be_replaced,
)
from .convert import converted
from .converted import Agreement, ConvertedNetwork, tensor
from .operations import Affine, Step, staircase_bytes
from .reading import PROBE, read
from .rounding import Bits

# Parts that room is counted in; how near to the least room halving goes.
_PARTS, _NEAR = 4096, 0.01


@frozen
class _Choice:
    """Of one operation: bits or levels, their bytes, and the error that they alone make."""

    value: Any
    nbytes: int
    error: float


def compress_within(
    net: Any,
    X: ArrayLike,
    budget: int | None = None,
    *,
    max_change: float | None = None,
    bits: Sequence[Bits] = ("ternary", 2, 3, 4, 8),
    levels: Sequence[int] = (4, 8, 16, 32),
    classes: ArrayLike | None = None,
    seed: int = 0,
) -> ConvertedNetwork:
    """A trained network in a file of so many bytes, as near to the original as may be.

    Or in as few bytes as may be, where ``max_change`` says how near. Bits of every layer and levels
    of every activation are chosen, and its ``report`` tells them; all else as for
    :func:`~ntklc_helpers.compression.convert.compress` with these.

    Parameters
    ----------
    net : torch.nn.Module or scikit-learn's MLPClassifier or MLPRegressor
    X : (n, …) array
        As for :func:`~ntklc_helpers.compression.convert.compress`; a tenth is held out.
    budget : int
        Bytes of the file, header included.
    max_change : float
        In place of a budget: the share of held-out samples that may change their class; of values
        the error, as a part of their spread.
    bits, levels : sequences
        To choose from, for each layer of weights and each activation.
    classes : (K,) labels, optional
    seed : int
        Of what is held out.

    Returns
    -------
    ConvertedNetwork

    Raises
    ------
    TypeError
        For a module that cannot be taken, with its place.
    ValueError
        If not even the smallest choices fit the budget, or the finest ones change too much; if both
        or neither of the two are given, X does not fit, or an argument is out of range.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> small = nh.compression.compress_within(net, X, 400)
    >>> len(small.to_bytes()) <= 400
    True
    """
    if (budget is None) == (max_change is None):
        raise ValueError("one of budget and max_change must be given, and not both")
    known, counts = get_args(Bits), [whole("levels", m, 2, MOST_LEVELS) for m in levels]
    if not counts or not bits or any(b not in known for b in bits):
        raise ValueError("bits and levels must have an entry, bits among ternary, 2, 3, 4 and 8")
    seed, x = whole("seed", seed, 0), tensor(X)
    steps = read(net, x[:PROBE]).steps
    options = _measured(steps, x, list(bits), counts, seed)

    @cache
    def made(room: int) -> tuple[ConvertedNetwork, Agreement]:
        found: dict[bool, list[Any]] = {True: [], False: []}
        for i, choice in zip(options, _best(list(options.values()), room), strict=True):
            found[isinstance(steps[i].operation, Affine)].append(choice.value)
        return converted(net, X, found[False], found[True], seed, classes)

    least, most = (
        sum(end(choice.nbytes for choice in found) for found in options.values())
        for end in (min, max)
    )
    if budget is not None:
        return _fitting(made, least, most, positive("budget", budget))
    return _near(made, least, most, share("max_change", max_change))


_Made = Callable[[int], tuple[ConvertedNetwork, Agreement]]


def _measured(
    steps: Sequence[Step], X: torch.Tensor, bits: list[Bits], levels: list[int], seed: int
) -> dict[int, list[_Choice]]:
    """The choices of each operation that is to be replaced, by its place."""
    X, fit, held, rng = split(X, seed)
    apart = {0: X[held]}
    for i, step in enumerate(steps):
        apart[i + 1] = run_step(step.operation, [apart[k] for k in step.inputs])
    values = {0: X[fit]}
    found: dict[int, list[_Choice]] = {}
    for i, step in enumerate(steps):
        given = [values[k] for k in step.inputs]
        if to_be_replaced(step.operation):
            found[i] = []
            for value in bits if isinstance(step.operation, Affine) else levels:
                new = replaced(step.operation, given[0], given[0], value, rng)
                after = _ended(steps, apart, i, run_step(new, [apart[k] for k in step.inputs]))
                size = new.nbytes if isinstance(new, Affine) else staircase_bytes(new)
                error = relative_error(apart[len(steps)], after)
                found[i].append(_Choice(value, size, error))
        values[i + 1] = run_step(step.operation, given)
        let_go(values, steps, i)
    return found


def _ended(
    steps: Sequence[Step], values: dict[int, torch.Tensor], i: int, changed: torch.Tensor
) -> torch.Tensor:
    """What the last step makes where the i-th makes something else."""
    values = values | {i + 1: changed}
    for k, step in enumerate(steps[i + 1 :], start=i + 1):
        values[k + 1] = run_step(step.operation, [values[j] for j in step.inputs])
    return values[len(steps)]


def _best(options: Sequence[Sequence[_Choice]], room: int) -> list[_Choice]:
    """One of each, of no more bytes than there is room for, and the least sum of errors.

    Bytes are rounded up to the room's 4,096th part; the smallest always fit.
    """
    smallest = [min(choice.nbytes for choice in found) for found in options]
    unit = max(1, (room - sum(smallest)) // _PARTS)
    cells = np.zeros(max(room - sum(smallest), 0) // unit + 1)
    taken = []
    for found, least in zip(options, smallest, strict=True):
        sums = np.full((len(found), len(cells)), np.inf)
        for row, choice in zip(sums, found, strict=True):
            more = -(-(choice.nbytes - least) // unit)
            row[more:] = choice.error + cells[: max(len(cells) - more, 0)]
        taken.append(sums.argmin(axis=0))
        cells = sums.min(axis=0)
    at, chosen = len(cells) - 1, []
    for found, least, row in reversed(list(zip(options, smallest, taken, strict=True))):
        chosen.append(found[row[at]])
        at -= -(-(chosen[-1].nbytes - least) // unit)
    return chosen[::-1]


def _fitting(made: _Made, least: int, most: int, budget: float) -> ConvertedNetwork:
    """Of the most room with which the file fits."""
    small, _ = made(least)
    around = len(small.to_bytes()) - least
    if around + least > budget:
        raise ValueError(
            f"budget must be at least {around + least} bytes, what the smallest choices take"
        )
    room = min(most, int(budget) - around)
    # Weights that are fitted to inputs as they are then pack a little differently.
    while room > least:
        found, _ = made(room)
        over = len(found.to_bytes()) - int(budget)
        if over <= 0:
            return found
        room -= over
    return small


def _near(made: _Made, least: int, most: int, allowed: float) -> ConvertedNetwork:
    """Of the least room with which no more changes, as far as halving finds it."""
    if (finest := made(most)[1].change) > allowed:
        raise ValueError(
            f"max_change is {allowed:g}, but {finest:.3g} changes with the finest choices"
        )
    while most - least > _NEAR * most:
        middle = (least + most) // 2
        least, most = (least, middle) if made(middle)[1].change <= allowed else (middle, most)
    return made(most)[0]
