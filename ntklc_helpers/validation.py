"""Checks at the boundary: one clear error that names the argument and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def positive(argument: str, value: float) -> float:
    """``value`` as a float, if it is a positive finite number."""
    number = np.isscalar(value) and np.isreal(value)
    if not (number and np.isfinite(value) and value > 0):
        raise ValueError(f"{argument} must be a positive finite number, got {value!r}")
    return float(value)


def positive_integer(argument: str, value: int) -> int:
    """``value`` as an int, if it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{argument} must be a positive whole number, got {value!r}")
    return int(value)


def finite_tuple(argument: str, values: Sequence[float]) -> tuple[float, ...]:
    """``values`` as a tuple of floats, if they are finite numbers in one dimension."""
    array = finite_array(argument, values, 1)
    return tuple(array.tolist())


def finite_array(argument: str, values: ArrayLike, ndim: int) -> NDArray[np.float64]:
    """``values`` as a float64 array, if finite and of ``ndim`` dimensions."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument} must be numbers, got {type(values).__name__}") from error
    if array.ndim != ndim:
        raise ValueError(f"{argument} must have {ndim} dimension(s), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument} must be finite; it holds NaN or infinity")
    return array


def sample_matrix(argument: str, values: ArrayLike) -> NDArray[np.float64]:
    """``values`` as an (n, p) float64 array of finite numbers, n and p at least 1."""
    array = finite_array(argument, values, 2)
    if 0 in array.shape:
        raise ValueError(f"{argument} must have at least one row and one column, got {array.shape}")
    return array


def class_labels(argument: str, values: ArrayLike, n: int) -> NDArray[np.int64]:
    """``values`` as (n,) whole numbers 0 … K − 1 with every class present."""
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"{argument} must have shape ({n},), one per row of X, got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{argument} must be whole numbers 0, 1, …, got dtype {array.dtype}")
    classes = np.unique(array)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"{argument} must use every class 0, 1, …, K - 1; a class with no sample is not "
            f"allowed, got classes {classes.tolist()}"
        )
    return array.astype(np.int64)


def nonnegative_integer(argument: str, value: int) -> int:
    """``value`` as an int, if it is a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{argument} must be a whole number of at least 0, got {value!r}")
    return int(value)


def sparsity_below_one(value: float) -> float:
    """``value`` as a float, if it is in [0, 1)."""
    number = np.isscalar(value) and np.isreal(value)
    if not (number and 0 <= value < 1):
        raise ValueError(f"sparsity must be in [0, 1), got {value!r}")
    return float(value)


def seed_number(value: int) -> int:
    """``value``, if it is a Python int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {value!r}")
    return value
