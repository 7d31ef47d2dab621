"""Exact kernels of infinitely wide networks: the conjugate kernel and the neural tangent kernel.

Both follow, layer by layer and entry by entry, from the kernel of the layer before. So the matrix
is worked through in small blocks above the diagonal, each taken through all layers while it is in
cache, and only the result is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from attrs import frozen
from numpy.typing import ArrayLike

from .._checks import samples
from .activations import AnyActivation, activation_list
from .duals import TINY, FloatArray, Pair
from .hermite import series
from .moments import centres

# Large enough that the interpreter is seldom asked, small enough for a cache.
_ROWS, _COLUMNS = 128, 256


@frozen(eq=False)
class _Layer:
    """One layer: ``pair`` needs to know ``inputs`` (…, n); ``mean`` (n,) is E σ(u_i)."""

    pair: Callable[..., Pair]
    inputs: FloatArray
    mean: FloatArray
    centre: float


def limit_kernels(
    X: ArrayLike,
    activations: Sequence[AnyActivation | str],
    *,
    center: bool = True,
    tau0: float | None = None,
    ntk: bool = True,
) -> tuple[FloatArray, FloatArray | None]:
    """Conjugate kernel K and neural tangent kernel N of an infinitely wide network, on data X.

    Parameters
    ----------
    X : (n, p) array
        One sample a row.
    activations : sequence of Activation or Quantized, or of names
        σ₁ … σ_L.
    center : bool
        Subtract from each layer its constant m_ℓ = E σ_ℓ(τ_{ℓ−1} ξ), as the equivalents assume.
    tau0 : float, optional
        The scale τ₀ from which the constants m_ℓ are propagated; by default the root mean square
        of the rows' norms. Only used with ``center``.
    ntk : bool
        Whether N is wanted; K alone needs half the memory.

    Returns
    -------
    K, N : (n, n) float64 arrays
        N is None if ``ntk`` is false. Once an activation has a jump, E[σ'²] is infinite: N then
        has ``inf`` on its diagonal, and off the diagonal the finite limit.

    Raises
    ------
    ValueError
        If an argument is not as stated, an activation grows too fast or too large, is constant
        while ``center``, or has a breakpoint that was not named or a derivative not its own.

    Notes
    -----
    K₀ = N₀ = XXᵀ and, with (u, v) Gaussian of covariance K_{ℓ−1} at (ii, ij, jj),
    K_ℓ = E[(σ_ℓ(u) − m_ℓ)(σ_ℓ(v) − m_ℓ)], N_ℓ = K_ℓ + N_{ℓ−1} ∘ E[σ_ℓ'(u)σ_ℓ'(v)].
    Closed forms are exact to rounding; the error of the others is stated in
    :class:`~ntklc_helpers.theory.hermite.HermiteSeries`. Uses torch's number of threads; memory
    beyond the results is O(n).

    Examples
    --------
    >>> K, N = nh.limit_kernels(np.eye(2), [nh.activation("relu")], center=False)
    >>> K.round(3).tolist(), N.round(3).tolist()
    ([[0.5, 0.159], [0.159, 0.5]], [[1.0, 0.159], [0.159, 1.0]])
    """
    X, activations = samples("X", X), activation_list("activations", activations)
    K = X @ X.T
    layers, variance, ntk_diagonal = _prepare(K.diagonal().copy(), activations, center, tau0)
    N = np.empty_like(K) if ntk else None
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        # Consuming the results hands on an exception from a worker.
        list(pool.map(lambda start: _fill_rows(K, N, layers, start), range(0, len(K), _ROWS)))
    np.fill_diagonal(K, variance)
    if N is not None:
        np.fill_diagonal(N, ntk_diagonal)
    return K, N


def _prepare(
    variance: FloatArray, activations: Sequence[AnyActivation], center: bool, tau0: float | None
) -> tuple[list[_Layer], FloatArray, FloatArray]:
    """The layers, and the diagonals of K_L and N_L, which follow from that of K₀ alone."""
    ntk_diagonal = variance
    means = centres(activations, variance, center, tau0)
    layers = []
    pair: Callable[..., Pair]
    for activation in activations:
        inputs = np.maximum(variance, TINY)
        if (dual := activation.dual) is not None:
            pair, mean, (square, slope_square) = dual.pair, dual.mean(inputs), dual.power(inputs)
        else:
            expanded, inputs, square, slope_square = series(activation, np.sqrt(inputs))
            pair, mean = expanded.pair, inputs[0]
        # Only now: what the series has to say of X is the better reason to refuse it.
        centre = next(means)
        layers.append(_Layer(pair, inputs, mean, centre))
        variance = np.maximum(square - 2 * centre * mean + centre**2, 0)
        with np.errstate(invalid="ignore", over="ignore"):
            ntk_diagonal = variance + ntk_diagonal * slope_square
        if not np.isfinite(variance).all():
            raise ValueError(f"activation {activation.name!r} grows too large on X: scale X down")
    if any(activation.has_jump for activation in activations):
        ntk_diagonal = np.full_like(variance, np.inf)
    return layers, variance, ntk_diagonal


def _fill_rows(K: FloatArray, N: FloatArray | None, layers: Sequence[_Layer], start: int) -> None:
    """Replace K₀ by K_L, and set N_L, in one block row right of the diagonal and its mirror."""
    rows = slice(start, min(start + _ROWS, len(K)))
    workspace = [np.empty((rows.stop - start, _COLUMNS)) for _ in range(5)]
    for first in range(start, len(K), _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, len(K)))
        c, n, k, d, t = (w[:, : columns.stop - first] for w in workspace)
        c[...] = n[...] = K[rows, columns]
        for layer in layers:
            if first == start:
                # The diagonal is known; at correlation 1 a series would not converge.
                np.fill_diagonal(c, 0)
            known = layer.inputs[..., rows, None], layer.inputs[..., None, columns]
            value, slope = layer.pair(c, *known, (k, d, t))
            if layer.centre:
                np.add(layer.mean[rows, None], layer.mean[None, columns], out=t)
                t -= layer.centre
                t *= layer.centre
                value -= t
            if N is not None:
                n *= slope
                n += value
            c, k = value, c
        if first == start:
            _mirror(c)
            _mirror(n)
        K[rows, columns], K[columns, rows] = c, c.T
        if N is not None:
            N[rows, columns], N[columns, rows] = n, n.T


def _mirror(block: FloatArray) -> None:
    """Copy what is above the diagonal of the leading square below it."""
    lower = np.tril_indices(len(block), -1)
    block[lower] = block[lower[::-1]]
