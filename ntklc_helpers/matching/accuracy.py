"""Staircases for accuracy: those with which a ridge readout is forecast to do best.

Which staircases are best depends on data, widths and ridge, and of these the forecast knows. They
are looked for among Lloyd–Max quantisers, of each layer's activation and of what it becomes when
its linear and its quadratic part are made to count for more: a search over a few numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from scipy.optimize import minimize

from .._checks import FloatArray
from ..theory.activations import Quantized

# Tilts tried for all layers alike, then for the last one apart; from there, steps: size, number.
_ALIKE = ((0.0, 0.0), (0.25, 0.0), (0.5, 0.0), (0.75, 0.0), (1.0, 0.0), (0.4, 0.1), (0.4, 0.2))
_LAST = ((0.0, 0.0), (0.5, 0.0), (0.6, 0.3))
_STEP, _STEPS = 0.15, 10
# What an error counts beside an accuracy.
_TIE = 1e-6

Staircases = tuple[Quantized, ...]
Tilts = Sequence[tuple[float, float]]


class Judged(Protocol):
    """What is known of staircases, such as a :class:`~ntklc_helpers.theory.forecast.Forecast`."""

    @property
    def accuracy(self) -> float | None: ...
    @property
    def error(self) -> float: ...


Judge = Callable[[Staircases], Judged]


def for_accuracy(
    tilted: Callable[[Tilts], Sequence[Quantized]],
    depth: int,
    judge: Judge,
    others: Sequence[Sequence[Quantized]],
) -> list[Quantized]:
    """The staircases judged best among those tilted and ``others``: by accuracy, if of classes,
    and by error, if of values.

    All ``depth`` layers are tilted alike first, then the last one apart; from the best, a simplex
    goes down.
    """
    known = dict[Staircases, float]()

    def search(steps: Staircases) -> float:
        if steps not in known:
            found = judge(steps)
            missed = 0.0 if found.accuracy is None else 1 - found.accuracy
            known[steps] = missed + found.error * (1.0 if found.accuracy is None else _TIE)
        return known[steps]

    def cost(z: FloatArray) -> float:
        z = np.clip(z, 0, 1).reshape(-1, 2)
        z = z / np.maximum(z.sum(axis=1, keepdims=True), 1)
        tilts = [(float(s), float(t)) for s, t in z]
        return search(tuple(tilted(tilts[:1] * (depth - 1) + tilts[-1:])))

    parts = min(depth, 2)
    z = min((np.array(tilt * parts) for tilt in _ALIKE), key=cost)
    z = min([z, *(np.append(z[:-2], tilt) for tilt in _LAST)], key=cost)
    # Inwards, where a tilt has room.
    simplex = z + np.vstack([np.zeros(len(z)), np.diag(np.where(z > 0.7, -_STEP, _STEP))])
    minimize(cost, z, method="Nelder-Mead", options={"initial_simplex": simplex, "maxfev": _STEPS})
    for steps in others:
        search(tuple(steps))
    least = min(known, key=known.__getitem__)
    return list(least)
