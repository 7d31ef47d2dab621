"""Checks at the boundary: one clear error that names the argument and what was expected.

Every room takes its arguments through these. A value is returned in the one form that the package
computes with: Python numbers, float64 arrays, int64 labels, a torch device.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from attrs import NOTHING, Attribute, Converter, cmp_using, field
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Fourth powers of entries enter the statistics, and cubes of the dimension: no float64 beyond this.
_LARGEST = 1e60
_REAL = (int, float, np.integer, np.floating, np.bool_)
# How fields that are arrays are compared.
SAME = cmp_using(eq=np.array_equal)


def checked(check: Callable[..., Any], default: Any = NOTHING, *more: Any, **how: Any) -> Any:
    """An attrs field that is what ``check(name, value, *more)`` returns; ``how`` as for any."""

    def named(value: Any, attribute: Attribute) -> Any:
        return check(attribute.name, value, *more)

    return field(default=default, converter=Converter(named, takes_field=True), **how)


def each(argument: str, values: Any, check: Callable[..., Any], *more: Any) -> tuple:
    """What ``check`` returns for each value."""
    return tuple(check(argument, value, *more) for value in values)


def number(argument: str, value: Any, expected: str = "a finite number") -> float:
    """``value`` as a float, if it is a finite real number; not text, not a truth value."""
    found = plain(argument, value)
    if found.dtype.kind == "b" or found.ndim:
        raise ValueError(f"{argument} must be {expected}, got {_kind(value, found)}")
    return float(array(argument, value, 0, expected))


def positive(argument: str, value: Any) -> float:
    """``value`` as a float, if it is a positive finite number."""
    found = number(argument, value, "a positive finite number")
    if found <= 0:
        raise ValueError(f"{argument} must be a positive finite number, got {value!r}")
    return found


def share(argument: str, value: Any) -> float:
    """``value`` as a float, if it is in [0, 1), such as a sparsity."""
    found = number(argument, value, "in [0, 1)")
    if not 0 <= found < 1:
        raise ValueError(f"{argument} must be in [0, 1), got {value!r}")
    return found


def inside(argument: str, value: Any) -> float:
    """``value`` as a float, if it is in (0, 1), such as a fraction to prune."""
    if not 0 < (found := number(argument, value, "a number in (0, 1)")) < 1:
        raise ValueError(f"{argument} must be a number in (0, 1), got {value!r}")
    return found


def whole(argument: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """``value`` as an int, if it is a whole number, NumPy's too, from ``least`` to ``most``."""
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    kind = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not kind or value < least or (most is not None and value > most):
        raise ValueError(f"{argument} must be a whole number {span}, got {value!r}")
    return int(value)


def one_of(argument: str, value: Any, known: Collection[str]) -> str:
    """``value``, if it is one of the words known."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {value!r}")
    return value


def numbers(argument: str, values: Any) -> tuple[float, ...]:
    """``values`` as a tuple of floats, if they are finite numbers in one dimension."""
    return tuple(array(argument, values, 1).tolist())


def array(argument: str, values: Any, ndim: int | None, expected: str = "numbers") -> FloatArray:
    """``values`` as a float64 array, if real, finite and of ``ndim`` dimensions, or any for None.

    Lists, data frames and torch tensors of any precision are taken, with a gradient or without.
    """
    found = plain(argument, values)
    if found.dtype.kind == "O":
        found = _of_objects(argument, values, found, expected)
    if found.dtype.kind not in "buif":
        raise ValueError(f"{argument} must be {expected}, got {_kind(values, found)}")
    if ndim is not None and found.ndim != ndim:
        raise ValueError(f"{argument} must have {ndim} dimension(s), got shape {found.shape}")
    with np.errstate(over="ignore"):
        found = np.asarray(found, np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{argument} must be finite; it holds NaN or infinity")
    # A data frame lends its memory to read only, and torch warns of such.
    return found if found.flags.writeable else found.copy()


def samples(argument: str, values: Any, p: int | None = None) -> FloatArray:
    """``values`` as an (n, p) float64 array of finite numbers, n and p at least 1."""
    found = array(argument, values, 2)
    if 0 in found.shape:
        raise ValueError(f"{argument} must have at least one row and one column, got {found.shape}")
    if p is not None and found.shape[1] != p:
        raise ValueError(f"{argument} must have {p} columns, got shape {found.shape}")
    if not _within(found, _LARGEST):
        raise ValueError(f"{argument} must have entries of size below {_LARGEST:g}: scale it")
    return found


def image_array(argument: str, values: Any, shape: tuple[int, ...] | None = None) -> FloatArray:
    """``values`` as images (n, h, w, c) of finite float64, of ``shape`` (h, w, c) if given."""
    found = array(argument, values, 4)
    if 0 in found.shape:
        raise ValueError(f"{argument} must hold images with at least one pixel, got {found.shape}")
    if shape is not None and found.shape[1:] != tuple(shape):
        raise ValueError(f"{argument} must hold images of shape {shape}, got {found.shape[1:]}")
    if not _within(found, _LARGEST):
        raise ValueError(f"{argument} must have entries of size below {_LARGEST:g}: scale it")
    return found


def class_labels(argument: str, values: Any, n: int | None = None) -> NDArray[np.int64]:
    """``values`` as (n,) whole numbers 0 … K − 1 with every class present; any n by default."""
    found = labels(argument, values, n)
    if found.dtype.kind not in "iu":
        raise ValueError(f"{argument} must be whole numbers 0, 1, …, got dtype {found.dtype}")
    classes = np.unique(found)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"{argument} must use every class 0, 1, …, K - 1; a class with no sample is not "
            f"allowed, got classes {classes[:20].tolist()}"
        )
    return found.astype(np.int64)


def labels(argument: str, values: Any, n: int | None = None) -> NDArray:
    """``values`` as an (n,) array of labels: whole numbers, truth values or text; none missing."""
    found = plain(argument, values)
    if found.dtype.kind == "O" and (_all(found, str) or _all(found, _REAL)):
        found = np.array(found.tolist())
    if n is None and (found.ndim != 1 or not len(found)):
        raise ValueError(f"{argument} must have one dimension and an entry, got {found.shape}")
    if n is not None and found.shape != (n,):
        raise ValueError(f"{argument} must have shape ({n},), one per row of X, got {found.shape}")
    if found.dtype.kind == "f" and (found == np.round(found)).all() and _within(found, 2.0**53):
        found = found.astype(np.int64)
    if found.dtype.kind not in "biuU":
        raise ValueError(
            f"{argument} must be whole numbers or text, none missing, got {_kind(values, found)}"
        )
    return found


def destination(argument: str, value: Any, shape: tuple[int, ...]) -> NDArray:
    """``value``, if it is an array, in memory or in a file, that real numbers can be written to."""
    kind = isinstance(value, np.ndarray) and value.dtype in (np.float64, np.float32)
    if not kind or value.shape != shape or not value.flags.writeable:
        found = f"{value.dtype} {value.shape}" if hasattr(value, "dtype") else type(value).__name__
        raise ValueError(
            f"{argument} must be a writeable array of float64 or float32 of shape {shape}, "
            f"got {found}"
        )
    return value


def torch_device(device: Any) -> torch.device:
    """The device named, if torch can use it; by default CUDA where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        # To it and back: "meta" takes tensors, and never gives them back.
        torch.empty(0, device=found).cpu()
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device must be one that torch can use here: {reason}") from error
    return found


def same_length(argument: str, values: Sequence[Any], other: str, n: int) -> None:
    """Refuse ``values`` that are not as many as what ``other`` names."""
    if len(values) != n:
        raise ValueError(f"{argument} must have {n} entries, as many as {other}, got {len(values)}")


def plain(argument: str, values: Any) -> NDArray:
    """What numpy makes of it: a tensor leaves its graph and device, masked entries are refused."""
    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided:
            raise ValueError(f"{argument} must be dense, got {values.layout}; call .to_dense()")
        # numpy has no bfloat16; no floating type of torch is wider than double.
        return (values.double() if values.is_floating_point() else values).numpy(force=True)
    if isinstance(values, list | tuple) and any(isinstance(v, torch.Tensor) for v in values):
        values = [plain(argument, value) for value in values]
    if np.ma.is_masked(values):
        raise ValueError(f"{argument} must have no masked entries; fill or drop them")
    if hasattr(values, "toarray"):
        raise ValueError(f"{argument} must be dense, got {type(values).__name__}; call .toarray()")
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument} must be one array, got rows that do not fit") from error


def _of_objects(argument: str, values: Any, found: NDArray, expected: str) -> NDArray:
    """An array of Python objects, such as a data frame's of mixed columns, if all are numbers."""
    if not _all(found, _REAL):
        raise ValueError(f"{argument} must be {expected}, got {_kind(values, found)}")
    try:
        return found.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"{argument} must be finite; it holds a number too large") from error


def _all(found: NDArray, kind: type | tuple[type, ...]) -> bool:
    return all(isinstance(value, kind) for value in found.ravel())


def _within(found: NDArray, most: float) -> bool:
    return found.size == 0 or max(found.max(), -found.min()) <= most


def _kind(values: Any, found: NDArray) -> str:
    """In words, what was given."""
    if found.ndim == 0:
        return reprlib.repr(values)
    if found.dtype.kind == "O":
        odd = next((v for v in found.ravel() if not isinstance(v, _REAL)), found.ravel()[0])
        return f"{type(values).__name__} of {type(odd).__name__}"
    return f"{type(values).__name__} of {found.dtype}"
