"""Weights on a few codes with a scale a row, rounded for what they do to given inputs.

A row w of weights meets inputs of second moments H. Of codes z on a grid and scales s, those are
sought that leave the least ``(s z − w) H (s z − w)ᵀ``, the squared error of the row's outputs.
Three steps, each from its formula and over all rows at once:

*One after another.* Once code j is chosen, the weights behind it are set to their best: with
``H⁻¹ = UᵀU``, U upper triangular, that takes ``(w_j − s z_j)/U_jj · U_jk`` from w_k. B. Hassibi and
D. Stork, NeurIPS 5 (1992); E. Frantar et al., ICLR 2023 (arXiv:2210.17323). For some scales.

*One at a time.* The best code given all others is nearest to ``w_j − Σ_{k≠j} (s z_k − w_k) H_kj /
H_jj``; taken in turn, no step raises the error.

*The scale* that is best for given codes is ``w H zᵀ / z H zᵀ``.

Weights that were pruned stay so: their codes are 0, and the others make up for them.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from .._checks import FloatArray

Bits = Literal["ternary", 2, 3, 4, 8]

# Scales tried: of plain rounding as parts of the row's largest weight; then around its best.
_PARTS = np.geomspace(0.02, 1.0, 40)
_AROUND = 2.0 ** np.linspace(-0.75, 0.75, 7)
_SWEEPS, _BLOCK = 8, 64


def code_range(bits: Bits) -> tuple[int, int]:
    """The least and the largest code."""
    return (-1, 1) if bits == "ternary" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _nearest(w: FloatArray, scale: FloatArray, bits: Bits, kept: NDArray[np.bool_]) -> FloatArray:
    return np.clip(np.rint(w / scale), *code_range(bits)) * kept


@frozen(eq=False)
class Rounded:
    """Codes (rows, columns), a scale a row, and what they leave (rows,) of squared error."""

    codes: FloatArray
    scale: FloatArray
    error: FloatArray


def _judged(W: FloatArray, H: FloatArray, codes: FloatArray, scale: FloatArray) -> Rounded:
    off = scale[:, None] * codes - W
    return Rounded(codes, scale, np.einsum("ij,ij->i", off @ H, off))


def _better(a: Rounded, b: Rounded) -> Rounded:
    """Of each row the better."""
    first = a.error <= b.error
    return Rounded(
        np.where(first[:, None], a.codes, b.codes),
        np.where(first, a.scale, b.scale),
        np.where(first, a.error, b.error),
    )


def plain(
    W: FloatArray, H: FloatArray, bits: Bits, kept: NDArray[np.bool_] | None = None
) -> Rounded:
    """To the nearest, at each row's best scale of some; to 0 where weights are not ``kept``."""
    kept = np.ones(W.shape, bool) if kept is None else kept
    largest = np.abs(W).max(axis=1)
    unit = np.where(largest > 0, largest, 1.0) / code_range(bits)[1]
    best = None
    for scale in _PARTS[:, None] * unit:
        found = _judged(W, H, _nearest(W, scale[:, None], bits, kept), scale)
        best = found if best is None else _better(best, found)
    return cast(Rounded, best)


def second_order(
    W: FloatArray, H: FloatArray, bits: Bits, kept: NDArray[np.bool_] | None = None
) -> Rounded:
    """Rounded by the three steps above; of no row worse than :func:`plain`.

    ``W`` (rows, columns), ``H`` (columns, columns) positive definite; where ``kept`` (rows,
    columns), by default everywhere, is False, codes are 0. The inputs with the largest moments come
    first, so that most of the others can make up for them.
    """
    order = np.argsort(-np.diag(H), kind="stable")
    W, H = np.asfortranarray(W[:, order]), H[np.ix_(order, order)]
    kept = np.ones(W.shape, bool) if kept is None else np.asfortranarray(kept[:, order])
    best, U = plain(W, H, bits, kept), np.linalg.cholesky(np.linalg.inv(H)).T
    for scale in [part * best.scale for part in _AROUND]:
        best = _better(best, _judged(W, H, _in_turn(W, U, scale, bits, kept), scale))
    for _ in range(_SWEEPS):
        before, best = best, _better(best, _descended(W, H, _scaled(W, H, best), bits, kept))
        if np.array_equal(before.codes, best.codes):
            break
    best = _better(best, _scaled(W, H, best))
    return evolve(best, codes=best.codes[:, np.argsort(order)])


def _in_turn(
    W: FloatArray, U: FloatArray, scale: FloatArray, bits: Bits, kept: NDArray[np.bool_]
) -> FloatArray:
    """Codes chosen one after another; what blocks of them do to all behind is one product."""
    W, codes, errors = W.copy(order="F"), np.empty_like(W), np.empty_like(W)
    for start in range(0, W.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        for j in range(W.shape[1])[block]:
            w = W[:, j] - errors[:, start:j] @ U[start:j, j]
            codes[:, j] = _nearest(w, scale, bits, kept[:, j])
            errors[:, j] = (w - scale * codes[:, j]) / U[j, j]
        W[:, block.stop :] -= errors[:, block] @ U[block, block.stop :]
    return codes


def _scaled(W: FloatArray, H: FloatArray, found: Rounded) -> Rounded:
    """The same codes at each row's best scale."""
    Hz = found.codes @ H
    power = np.einsum("ij,ij->i", Hz, found.codes)
    fits = np.einsum("ij,ij->i", Hz, W)
    good = (power > 0) & (fits > 0)
    scale = np.where(good, fits / np.where(good, power, 1.0), found.scale)
    return _judged(W, H, found.codes, scale)


def _descended(
    W: FloatArray, H: FloatArray, found: Rounded, bits: Bits, kept: NDArray[np.bool_]
) -> Rounded:
    """Each code in turn the best given all others."""
    codes, scale = np.asfortranarray(found.codes.copy()), found.scale
    gradient = np.ascontiguousarray((scale[:, None] * codes - W) @ H)
    for j, curvature in enumerate(np.diag(H)):
        wanted = scale * codes[:, j] - gradient[:, j] / curvature
        new = _nearest(wanted, scale, bits, kept[:, j])
        changed = np.flatnonzero(new != codes[:, j])
        moved = (scale * (new - codes[:, j]))[changed]
        gradient[changed] += moved[:, None] * H[j]
        codes[:, j] = new
    return _judged(W, H, codes, scale)
