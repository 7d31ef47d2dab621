"""Exact kernels of infinitely wide networks: the conjugate kernel and the neural tangent kernel.

Both follow, layer by layer and entry by entry, from the kernel of the layer before. So the matrix
is worked through in small blocks above the diagonal, each taken through all layers while it is in
cache, and only the result is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .activations import AnyActivation
from .dual import Dual, dual
from .moments import gaussian_moments
from .validation import positive, sample_matrix

FloatArray = NDArray[np.float64]

# Large enough that the interpreter is seldom asked, small enough for a cache.
_ROWS, _COLUMNS = 128, 256


@dataclass(frozen=True)
class _Layer:
    dual: Dual
    centre: float


def limit_kernels(
    X: ArrayLike,
    activations: Sequence[AnyActivation],
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
    activations : sequence of Activation or Quantized
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
        If X is not a matrix of finite numbers, there is no activation, ``tau0`` is not positive,
        or the expansion of an activation does not converge because a breakpoint was not named.

    Notes
    -----
    K₀ = N₀ = XXᵀ and, with (u, v) Gaussian of covariance K_{ℓ−1} at (ii, ij, jj),
    K_ℓ = E[(σ_ℓ(u) − m_ℓ)(σ_ℓ(v) − m_ℓ)], N_ℓ = K_ℓ + N_{ℓ−1} ∘ E[σ_ℓ'(u)σ_ℓ'(v)].
    Closed forms are exact to rounding; the error of the others is stated in
    :class:`~ntklc_helpers.hermite.HermiteSeries`. Uses torch's number of threads; memory beyond
    the results is O(n).
    """
    X = sample_matrix("X", X)
    if not len(activations):
        raise ValueError("activations must name at least one layer")
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
    if center:
        tau = positive("tau0", float(np.sqrt(variance.mean())) if tau0 is None else tau0)
    layers = []
    for activation in activations:
        layer = dual(activation, variance)
        centre = 0.0
        if center:
            moments = gaussian_moments(activation, tau)
            centre, tau = moments.mean, float(np.sqrt(moments.variance))
        variance = np.maximum(layer.square - 2 * centre * layer.mean + centre**2, 0)
        with np.errstate(invalid="ignore"):
            ntk_diagonal = variance + ntk_diagonal * layer.slope_square
        layers.append(_Layer(layer, centre))
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
            layer.dual.block(rows, columns, c, k, d, t)
            if layer.centre:
                np.add(layer.dual.mean[rows, None], layer.dual.mean[None, columns], out=t)
                t -= layer.centre
                t *= layer.centre
                k -= t
            if N is not None:
                n *= d
                n += k
            c, k = k, c
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
