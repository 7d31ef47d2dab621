"""Exact kernels of infinitely wide networks: the conjugate kernel and the neural tangent kernel.

Both follow, layer by layer and entry by entry, from the kernel of the layer before. So the matrix
is worked through in small blocks above the diagonal, each taken through all layers while it is in
cache, and only the result is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import destination, positive, samples
from .activations import AnyActivation, activation_list
from .duals import TINY, FloatArray, Pair
from .hermite import HermiteSeries
from .moments import centres

# Large enough that the interpreter is seldom asked, small enough for a cache.
_ROWS, _COLUMNS = 128, 256
# Rows whose inner products are taken at once.
_STRIPE = 1024


@frozen(eq=False)
class _Layer:
    """One layer: ``pair`` needs to know ``inputs`` (…, n); ``mean`` (n,) is E σ(u_i), and
    ``variance`` and ``power`` (n,) are those of :class:`LayerKernel`.
    """

    pair: Callable[..., Pair]
    inputs: FloatArray
    mean: FloatArray
    centre: float
    variance: FloatArray
    power: FloatArray


def limit_kernels(
    X: ArrayLike,
    activations: Sequence[AnyActivation | str],
    *,
    Z: ArrayLike | None = None,
    center: bool = True,
    tau0: float | None = None,
    ntk: bool = True,
    out: Any = None,
) -> tuple[FloatArray, FloatArray | None]:
    """Conjugate kernel K and neural tangent kernel N of an infinitely wide network, on data X.

    Parameters
    ----------
    X : (n, p) array
        One sample a row.
    activations : sequence of Activation or Quantized, or of names
        σ₁ … σ_L.
    Z : (m, p) array, optional
        The kernels between the rows of X and these, instead of those among the rows of X.
    center : bool
        Subtract from each layer its constant σ̄_ℓ = E σ_ℓ(τ_{ℓ−1} ξ), as the equivalents assume.
    tau0 : float, optional
        The scale τ₀ from which the constants σ̄_ℓ are propagated; by default the root mean square
        of the norms of X's rows. Only used with ``center``.
    ntk : bool
        Whether N is wanted; K alone needs half the memory.
    out : array or pair of arrays, optional
        Where to write K, or K and N with ``ntk``: arrays of float64 or float32, such as files
        made by ``np.lib.format.open_memmap`` for kernels larger than memory. Entries are computed
        in float64 and rounded at the end: float32 is off by 6e-8 of an entry at most.

    Returns
    -------
    K, N : (n, n) or (n, m) float64 arrays, or those of ``out``
        N is None if ``ntk`` is false. Once an activation has a jump, E[σ'²] is infinite: N then
        has ``inf`` on its diagonal, and off the diagonal the finite limit.

    Raises
    ------
    ValueError
        If an argument is not as stated, an activation grows too fast or too large, is constant
        while ``center``, or has a breakpoint that was not named or a derivative not its own.
        If ``out`` has another shape or type of number, or cannot be written to.

    Notes
    -----
    K₀ = N₀ = XXᵀ and, with (u, v) Gaussian of covariance K_{ℓ−1} at (ii, ij, jj),
    K_ℓ = E[(σ_ℓ(u) − σ̄_ℓ)(σ_ℓ(v) − σ̄_ℓ)], N_ℓ = K_ℓ + N_{ℓ−1} ∘ E[σ_ℓ'(u)σ_ℓ'(v)].
    Closed forms are exact to rounding; the error of the others is stated in
    :class:`~ntklc_helpers.theory.hermite.HermiteSeries`. Uses torch's number of threads; memory
    beyond the results is that of a thousand rows.

    Examples
    --------
    >>> K, N = nh.limit_kernels(np.eye(2), [nh.activation("relu")], center=False)
    >>> K.round(3).tolist(), N.round(3).tolist()
    ([[0.5, 0.159], [0.159, 0.5]], [[1.0, 0.159], [0.159, 1.0]])
    """
    X, activations = samples("X", X), activation_list("activations", activations)
    others = X if Z is None else samples("Z", Z, X.shape[1])
    K, N = result_arrays(out, (len(X), len(others)), ntk)
    # The rows of X, then those of Z where there are some: what is known of a row, in one place.
    parts = [X] if Z is None else [X, others]
    variance = np.concatenate([np.einsum("ij,ij->i", part, part) for part in parts])
    if center:
        root_mean_square = float(np.sqrt(variance[: len(X)].mean()))
        tau0 = positive("tau0", root_mean_square if tau0 is None else tau0)
    layers, variance, ntk_diagonal = _prepare(variance, activations, center, tau0)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for top in range(0, len(X), _STRIPE):
            rows = slice(top, min(top + _STRIPE, len(X)))
            left = top if Z is None else 0
            gram = X[rows] @ others[left:].T
            stripe = _Stripe(gram, gram, top, left, 0 if Z is None else len(X))
            fill = partial(_fill_rows, K, N, layers, stripe)
            # Consuming the results hands on an exception from a worker.
            list(pool.map(fill, range(top, rows.stop, _ROWS)))
    if Z is None:
        np.fill_diagonal(K, variance)
        if N is not None:
            np.fill_diagonal(N, ntk_diagonal)
    return K, N


@frozen(eq=False)
class LayerKernel:
    """One layer of an infinitely wide network: how it maps the kernel of the layer before.

    Attributes
    ----------
    kernel : (n, m) array
        K_ℓ, centred, between n samples and m of them.
    variance : (n,) array
        K_ℓ of each sample with itself.
    slope : (n, m) array
        E[σ_ℓ'(u)σ_ℓ'(v)], what a change of an entry of K_{ℓ−1} is multiplied by; of a sample with
        itself, where a jump makes it infinite, the square of ``gain``.
    gain : (n,) array
        E σ_ℓ'(u_i) ≥ 0 up to a sign: the part of σ_ℓ that is linear in a sample's inputs.
    centre : float
        σ̄_ℓ.
    power : (n,) array
        E σ_ℓ'(u_i)²; infinite with a jump.
    """

    kernel: FloatArray
    variance: FloatArray
    slope: FloatArray
    gain: FloatArray
    centre: float
    power: FloatArray


def layer_kernels(
    X: FloatArray,
    activations: Sequence[AnyActivation],
    tau0: float,
    columns: NDArray[np.intp] | None = None,
) -> Iterator[LayerKernel]:
    """The layers of an infinitely wide network on data X (n, p), each made when it is asked for.

    The kernels are those between all rows of X and the rows ``columns`` (m,), by default all.
    Errors as for :func:`limit_kernels`.

    Examples
    --------
    >>> from ntklc_helpers.theory.infinite import layer_kernels
    >>> (layer,) = layer_kernels(np.eye(2), [nh.activation("erf")], tau0=1.0)
    >>> layer.kernel.round(3).tolist(), layer.gain.round(3).tolist()
    ([[0.465, 0.0], [0.0, 0.465]], [0.651, 0.651])
    """
    n, some = len(X), np.arange(len(X)) if columns is None else columns
    themselves = some, np.arange(len(some))
    K = X @ X[some].T
    rows = np.arange(n) if columns is None else np.concatenate([np.arange(n), some])
    squares, ones = np.einsum("ij,ij->i", X, X)[rows], np.broadcast_to(1.0, K.shape)
    for layer in _prepare(squares, activations, True, tau0)[0]:
        variance, after, slope = layer.variance, np.empty_like(K), np.empty_like(K)
        # What a sample has with itself is known; at correlation 1 a series would not converge.
        K[themselves] = 0
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            # From N_{ℓ−1} = 1 it is K_ℓ + slope.
            stripe = _Stripe(K, ones, 0, 0, 0 if columns is None else n)
            list(pool.map(partial(_fill_rows, after, slope, [layer], stripe), range(0, n, _ROWS)))
        slope -= after
        workspace = np.empty_like(variance), np.empty_like(variance), np.empty_like(variance)
        apart = layer.pair(np.zeros_like(variance), layer.inputs, layer.inputs, workspace)[1]
        slope[themselves], after[themselves] = apart[some], variance[some]
        K = after.copy()
        gain = np.sqrt(np.maximum(apart[:n], 0))
        yield LayerKernel(after, variance[:n], slope, gain, layer.centre, layer.power[:n])


def result_arrays(out: Any, shape: tuple[int, int], ntk: bool) -> tuple[Any, Any]:
    """The arrays to write to: K, and N or None."""
    if out is None:
        return np.empty(shape), np.empty(shape) if ntk else None
    given = tuple(out) if isinstance(out, tuple | list) else (out,)
    if len(given) != 1 + ntk:
        raise ValueError(f"out must be {'a pair of arrays' if ntk else 'an array'} with ntk={ntk}")
    for one in given:
        destination("out", one, shape)
    return given if ntk else (given[0], None)


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
            series = HermiteSeries.over(activation, scale := np.sqrt(inputs))
            inputs, square, slope_square = series.at(scale)
            pair, mean = series.pair, inputs[0]
        # Only now: what the series has to say of X is the better reason to refuse it.
        centre = next(means)
        variance = np.maximum(square - 2 * centre * mean + centre**2, 0)
        layers.append(_Layer(pair, inputs, mean, centre, variance, slope_square))
        with np.errstate(invalid="ignore", over="ignore"):
            ntk_diagonal = variance + ntk_diagonal * slope_square
        if not np.isfinite(variance).all():
            raise ValueError(f"activation {activation.name!r} grows too large on X: scale X down")
    if any(activation.has_jump for activation in activations):
        ntk_diagonal = np.full_like(variance, np.inf)
    return layers, variance, ntk_diagonal


@frozen(eq=False)
class _Stripe:
    """K and N of the layer before in some rows, from ``top``, and columns, from ``left``, which are
    rows ``shift`` + j of all: 0 where both are the same data.
    """

    gram: FloatArray
    tangent: FloatArray
    top: int
    left: int
    shift: int


def _fill_rows(K: Any, N: Any, layers: Sequence[_Layer], stripe: _Stripe, start: int) -> None:
    """Set K_L and N_L in one block row; of a square, right of the diagonal and in its mirror."""
    rows = slice(start, min(start + _ROWS, stripe.top + len(stripe.gram)))
    workspace = [np.empty((rows.stop - start, _COLUMNS)) for _ in range(5)]
    square = stripe.shift == 0
    for first in range(start if square else 0, K.shape[1], _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, K.shape[1]))
        across = slice(columns.start + stripe.shift, columns.stop + stripe.shift)
        c, n, k, d, t = (w[:, : columns.stop - first] for w in workspace)
        top, left = start - stripe.top, first - stripe.left
        part = slice(top, top + len(c)), slice(left, left + c.shape[1])
        c[...], n[...] = stripe.gram[part], stripe.tangent[part]
        diagonal = square and first == start
        for layer in layers:
            if diagonal:
                # The diagonal is known; at correlation 1 a series would not converge.
                np.fill_diagonal(c, 0)
            known = layer.inputs[..., rows, None], layer.inputs[..., None, across]
            value, slope = layer.pair(c, *known, (k, d, t))
            if layer.centre:
                np.add(layer.mean[rows, None], layer.mean[None, across], out=t)
                t -= layer.centre
                t *= layer.centre
                value -= t
            if N is not None:
                n *= slope
                n += value
            c, k = value, c
        for matrix, block in ((K, c), (N, n)):
            if matrix is not None:
                if diagonal:
                    _mirror(block)
                matrix[rows, columns] = block
                if square:
                    matrix[columns, rows] = block.T


def _mirror(block: FloatArray) -> None:
    """Copy what is above the diagonal of the leading square below it."""
    lower = np.tril_indices(len(block), -1)
    block[lower] = block[lower[::-1]]
