"""How wide a network must be for an error, and how that grows as fewer weights are kept."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import bootstrap

from .._checks import array, inside, positive, whole

FloatArray = NDArray[np.float64]

# Exponents that a power law with an offset is sought among, and how many are tried first.
_EXPONENTS, _TRIED = (0.05, 5.0), 60


def required_width(widths: ArrayLike, errors: ArrayLike, target: float) -> float:
    """The width at which the error first falls to ``target``, between widths on log axes.

    Refused as for :func:`~ntklc_helpers.theory.metrics.power_law`, and if the widths (k,) do not
    increase, or the errors (k,) do not cross the target between the first width and the last:
    nothing is extrapolated.

    Examples
    --------
    >>> round(nh.theory.required_width([100, 400], [0.4, 0.1], target=0.2), 9)
    200.0
    """
    widths, errors = array("widths", widths, 1), array("errors", errors, 1)
    target = positive("target", target)
    if not len(widths) or len(widths) != len(errors) or (np.diff(widths) <= 0).any():
        raise ValueError("widths must increase and be as many as errors")
    if (widths <= 0).any() or (errors <= 0).any():
        raise ValueError("widths and errors must be positive")
    below = int(np.argmax(errors <= target))
    if errors[0] <= target or errors[below] > target:
        raise ValueError(
            f"errors must cross the target {target:.3g} between the first width and the last; "
            f"they go from {errors[0]:.3g} to {errors[-1]:.3g}"
        )
    x, y = np.log(widths[below - 1 : below + 1]), np.log(errors[below - 1 : below + 1])
    return float(np.exp(x[0] + (np.log(target) - y[0]) * (x[1] - x[0]) / (y[1] - y[0])))


@frozen
class OffsetPowerLaw:
    """y = offset + scale · x^exponent."""

    offset: float
    scale: float
    exponent: float

    def __call__(self, x: ArrayLike) -> FloatArray:
        return self.offset + self.scale * array("x", x, np.ndim(x)) ** self.exponent


def offset_power_law(x: ArrayLike, y: ArrayLike) -> OffsetPowerLaw:
    """The law y = a + b x^k of which the sum of squared errors, each relative to y, is least.

    k is sought from 0.05 to 5: at an end of that range it says that the best is beyond.

    Returns
    -------
    OffsetPowerLaw

    Raises
    ------
    ValueError
        Unless x and y are as many and positive, with four or more different x, and y is not the
        same at all of them: any k would fit it.

    Notes
    -----
    For each k, a and b come from linear least squares; k from a grid, then from Brent's method.

    Examples
    --------
    >>> round(nh.theory.offset_power_law([1, 4, 9, 16], [3, 4, 5, 6]).exponent, 4)
    0.5
    """
    x, y = array("x", x, 1), array("y", y, 1)
    if len(x) != len(y) or len(np.unique(x)) < 4:
        raise ValueError("x and y must have one length, with four or more different x")
    if (x <= 0).any() or (y <= 0).any():
        raise ValueError("x and y must be positive")
    if np.ptp(y) == 0:
        raise ValueError("y must not be the same at all x: any exponent fits a constant")
    weight = y**-2 / (y**-2).sum()
    y_mean = weight @ y

    def fitted(exponent: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Offset, scale and what is left, for each of the exponents."""
        powers = x ** np.reshape(exponent, (-1, 1))
        mean = powers @ weight
        powers -= mean[:, None]
        scale = powers @ (weight * y) / (powers**2 @ weight)
        left = (y - y_mean - scale[:, None] * powers) ** 2 @ weight
        return y_mean - scale * mean, scale, left

    tried = np.linspace(*_EXPONENTS, _TRIED)
    best = int(np.argmin(fitted(tried)[-1]))
    around = tried[max(best - 1, 0)], tried[min(best + 1, _TRIED - 1)]
    found = minimize_scalar(lambda k: fitted(k)[-1].item(), bounds=around, method="bounded")
    # An end of the range itself is never among the points that Brent's method tries.
    ends = np.array([found.x, *around])
    k = ends[fitted(ends)[-1].argmin()]
    offset, scale, _ = fitted(k)
    return OffsetPowerLaw(offset.item(), scale.item(), k.item())


@frozen(eq=False)
class WidthExponent:
    """How the width needed for an error grows with 1/χ, χ the share of the weights that is kept.

    Attributes
    ----------
    target : float
        The error.
    needed : (shares,) array
        The width at which the mean error over networks is that, by :func:`required_width`.
    law : OffsetPowerLaw
        Of what is needed, against 1/χ.
    interval : (low, high)
        Of the law's exponent.
    """

    target: float
    needed: FloatArray
    law: OffsetPowerLaw
    interval: tuple[float, float]


def width_exponent(
    kept: ArrayLike,
    widths: ArrayLike,
    errors: ArrayLike,
    target: float,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> WidthExponent:
    """The exponent k of a law a + b χ^(−k) of the width needed for an error, with its interval.

    Parameters
    ----------
    kept : (shares,) array
        χ in (0, 1], four different ones or more.
    widths : (k,) array
        Increasing.
    errors : (shares, k, networks) array
        Of two or more networks, drawn for each share and width.
    target : float
        Mean errors must cross it between the first width and the last at every share, and in
        every resample: nothing is extrapolated.
    level : float
        In (0, 1), of the interval.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    WidthExponent

    Raises
    ------
    ValueError
        If an argument is not as stated.

    Notes
    -----
    The interval is from the percentiles of a bootstrap (B. Efron and R. Tibshirani, *An
    Introduction to the Bootstrap*, 1993, chapter 13): at each share and width networks are drawn
    anew from those there are, and everything else is done again.

    Examples
    --------
    >>> kept, widths = np.array([1, 0.5, 0.25, 0.1]), np.array([100, 1000])
    >>> networks = 1 + 0.02 * np.random.default_rng(0).standard_normal((4, 2, 20))
    >>> errors = np.sqrt((1 + 1 / kept[:, None]) / widths)[..., None] * networks
    >>> found = nh.theory.width_exponent(kept, widths, errors, 0.12, n_resamples=100)
    >>> found.needed.round(-1).tolist(), round(found.law.exponent, 1)
    ([140.0, 210.0, 350.0, 750.0], 1.0)
    """
    kept, widths = array("kept", kept, 1), array("widths", widths, 1)
    errors = array("errors", errors, 3)
    if (kept <= 0).any() or (kept > 1).any() or len(np.unique(kept)) < 4:
        raise ValueError("kept must hold four or more different shares in (0, 1]")
    if errors.shape[:2] != (len(kept), len(widths)) or errors.shape[2] < 2:
        shape = f"({len(kept)}, {len(widths)}, networks)"
        raise ValueError(f"errors must have shape {shape}, 2 networks or more, got {errors.shape}")

    def needed(mean: FloatArray) -> FloatArray:
        return np.array([required_width(widths, curve, target) for curve in mean])

    def exponents(*cells: FloatArray, axis: int) -> FloatArray:
        mean = np.stack([cell.mean(axis=axis) for cell in cells]).reshape(*errors.shape[:2], -1)
        each = np.moveaxis(mean, -1, 0)
        return np.array([offset_power_law(1 / kept, needed(one)).exponent for one in each])

    drawn = bootstrap(
        list(errors.reshape(-1, errors.shape[2])), exponents, vectorized=True, method="percentile",
        n_resamples=whole("n_resamples", n_resamples, 2), rng=whole("seed", seed, 0),
        confidence_level=inside("level", level),
    )  # fmt: skip
    found, (low, high) = needed(errors.mean(axis=2)), drawn.confidence_interval
    law = offset_power_law(1 / kept, found)
    return WidthExponent(float(target), found, law, (float(low), float(high)))
