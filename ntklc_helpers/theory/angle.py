"""The kernel of a wide network as a power series in the cosine of the angle between two samples.

An entry depends on the two lengths and on that cosine alone: K_ij = Σ_k φ_k(‖x_i‖, ‖x_j‖) cos^k θ.
Mehler's formula gives the series of one layer, and series of layers are composed as polynomials.
The φ_k are smooth in the lengths, so that few lengths determine them; as kernels in the lengths
they are positive semi-definite and of low rank. Daniely, Frostig and Singer (2016) have the case of
unit length. Cut at some power it is a polynomial kernel, of which leading eigenvectors are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from attrs import frozen
from numpy.polynomial.chebyshev import chebpts1, chebvander
from numpy.typing import ArrayLike

from .._checks import array, inside, one_of, samples, whole
from .activations import AnyActivation, activation_list, refuse_jumps
from .duals import TINY, FloatArray
from .hermite import chebyshev_coefficients, coefficients
from .moments import centres
from .operators import KernelEquivalent, low_rank_diagonal

# Squared lengths below this share of the largest count as that large.
_SHORTEST = 1e-12
_ACCURACY = 1e-9
_NODES = (8, 16, 32, 64, 128)
_ROUNDING = 1e-14
_MOST_TERMS = 200
# A block of rows of the kernel, a few times over, is all of it that is ever in memory.
_BLOCK = 2**24
_MOST_ORDERS = 24
_LENGTH_ACCURACY = 1e-6
_PRODUCTS = 6
_FIRST_COLUMNS = 48


@frozen(eq=False)
class AngleSeries:
    """φ_0 … φ_order and the kernel's diagonal, for squared lengths within ``span``.

    Attributes
    ----------
    span : (float, float)
        Shortest and longest squared length.
    terms : (order + 1, m, m) array
        φ_k at m Chebyshev points of the lengths.
    diagonal : (m,) array
        The kernel of a sample with itself there: all orders, not only those kept.
    """

    span: tuple[float, float]
    terms: FloatArray
    diagonal: FloatArray

    @property
    def order(self) -> int:
        return len(self.terms) - 1

    def basis(self, squared: ArrayLike) -> FloatArray:
        """(n, m): what turns values at the Chebyshev points into values at squared lengths (n,)."""
        m, (low, high) = len(self.diagonal), np.sqrt(self.span)
        at = np.sqrt(np.clip(array("squared", squared, 1), *self.span))
        if m == 1:
            return np.ones((len(at), 1))
        place = (2 * at - low - high) / (high - low)
        return chebvander(place, m - 1) @ chebyshev_coefficients(m)

    def factor(self, k: int, squared: ArrayLike, accuracy: float = _ACCURACY) -> FloatArray:
        """F (n, r) with φ_k ≈ F Fᵀ at squared lengths (n,), r as small as ``accuracy`` allows.

        Relative to the largest eigenvalue, and the first column by itself the best of rank one;
        r is 0 where φ_k vanishes.
        """
        Q, R = np.linalg.qr(self.basis(squared))
        values, vectors = np.linalg.eigh(R @ self.terms[whole("k", k, 0, self.order)] @ R.T)
        size = len(Q) * np.abs(self.terms).max()
        kept = np.flatnonzero(values > max(accuracy * values[-1], _ROUNDING * size))[::-1]
        return Q @ (vectors[:, kept] * np.sqrt(values[kept]))

    def linear_part(self, squared: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """u_1 and u_0, (n, 1) each: φ_0 + φ_1 cos θ ≈ u_0 u_0ᵀ + (u_1 u_1ᵀ) ∘ cos θ."""
        squared = array("squared", squared, 1)
        zero = np.zeros((len(squared), 1))
        constant, linear = (self.factor(k, squared, 1 - 1e-9)[:, :1] for k in (0, 1))
        return (linear if linear.size else zero), (constant if constant.size else zero)

    def kernel(self, X: ArrayLike, order: int | None = None) -> FloatArray:
        """The (n, n) matrix on data X (n, p) of lengths within ``span``, to an order, its highest.

        The diagonal is that of all orders.
        """
        X = samples("X", X)
        order = self.order if order is None else whole("order", order, 0, self.order)
        unit, squared = unit_rows(X)
        cosine, basis = np.clip(unit @ unit.T, -1, 1), self.basis(squared)
        total = np.zeros_like(cosine)
        for term in self.terms[order::-1]:
            total *= cosine
            total += basis @ term @ basis.T
        np.fill_diagonal(total, basis @ self.diagonal)
        return total


def unit_rows(X: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rows of X (n, p) at length 1, but for rows of 0, and their squared lengths (n,)."""
    squared = np.einsum("ij,ij->i", X, X)
    return X / np.sqrt(np.maximum(squared, TINY))[:, None], squared


def angle_series(
    activations: Sequence[AnyActivation | str],
    squared: ArrayLike,
    order: int,
    *,
    kernel: str = "ck",
    tau0: float | None = None,
    center: bool = True,
) -> AngleSeries:
    """The series to an order, at the squared lengths of some data.

    Parameters
    ----------
    activations : sequence of Activation or Quantized, or of names
    squared : (n,) array
        Squared lengths of the samples; only the shortest and the longest matter.
    order : int
        Highest power of the cosine kept.
    kernel : "ck" or "ntk"
    tau0, center
        As for :func:`limit_kernels`.

    Returns
    -------
    AngleSeries
        Values between the Chebyshev points are interpolated, to 1e-9 of the largest.

    Raises
    ------
    ValueError
        As :func:`limit_kernels`; if the lengths are all 0; for the tangent kernel of an activation
        with a jump, which has no diagonal.

    Notes
    -----
    With c_j(a) the Hermite coefficients of σ(aξ), one layer turns a correlation ρ between inputs of
    scales a, b into Σ_j c_j(a) c_j(b) ρ^j, less what centring takes off; its derivative in the
    covariance, of which the tangent kernel is made, is Σ_j j c_j(a) c_j(b) ρ^(j−1) / (ab).

    Examples
    --------
    >>> from ntklc_helpers.theory.angle import angle_series
    >>> series = angle_series(["relu"], [1.0], order=2, center=False)
    >>> series.terms.ravel().round(4).tolist(), series.diagonal.round(4).tolist()
    ([0.1592, 0.25, 0.0796], [0.5])
    """
    layers = activation_list("activations", activations)
    squared = array("squared", squared, 1)
    order = whole("order", order, 0)
    one_of("kernel", kernel, ("ck", "ntk"))
    if kernel == "ntk":
        refuse_jumps("activations", layers)
    if not squared.size or squared.max() <= 0:
        raise ValueError("squared must hold a positive length")
    means = list(centres(layers, squared, center, tau0))
    span = (max(float(squared.min()), _SHORTEST * float(squared.max())), float(squared.max()))
    low, high = np.sqrt(span)
    if span[1] <= span[0] * (1 + 1e-12):
        return AngleSeries(span, *_compose(layers, means, np.array([span[1]]), order, kernel))
    found = None
    for m in _NODES:
        at = ((low + high) / 2 + (high - low) / 2 * chebpts1(m)) ** 2
        finer = AngleSeries(span, *_compose(layers, means, at, order, kernel))
        if found is not None and _same(found, finer, at):
            return finer
        found = finer
    raise ValueError(
        "squared must not hold lengths at which the activations behave so differently; "
        f"they span {span[0]:.3g} to {span[1]:.3g}"
    )


def _same(coarse: AngleSeries, fine: AngleSeries, squared: FloatArray) -> bool:
    """Whether the coarse series has the values of the fine one, at whose points they are."""
    basis = coarse.basis(squared)
    change = np.abs(basis @ coarse.terms @ basis.T - fine.terms).max()
    diagonal = np.abs(basis @ coarse.diagonal - fine.diagonal).max()
    size = max(np.abs(fine.terms).max(), np.abs(fine.diagonal).max())
    return bool(max(change, diagonal) <= _ACCURACY * size)


def _compose(
    layers: Sequence[AnyActivation],
    means: Sequence[float],
    squared: FloatArray,
    order: int,
    kernel: str,
) -> tuple[FloatArray, FloatArray]:
    """φ_k between all pairs of the lengths, and the diagonal."""
    K = np.zeros((order + 1, len(squared), len(squared)))
    if order:
        K[1] = np.sqrt(np.outer(squared, squared))
    N, variance, ntk_diagonal = K, squared, squared
    for activation, centre in zip(layers, means, strict=True):
        scale = np.sqrt(variance)
        rho = K / np.outer(scale, scale)
        c, square, slope_square = coefficients(activation, scale, _terms(rho[0], order))
        K = _series(c, rho)
        K[0] -= centre * (c[0][:, None] + c[0]) - centre**2
        variance = np.maximum(square - 2 * centre * c[0] + centre**2, 0)
        if kernel == "ntk":
            j = np.arange(1, len(c))
            slope = _series(np.sqrt(j)[:, None] * c[1:], rho) / np.outer(scale, scale)
            N = K + _times(N, slope)
            ntk_diagonal = variance + ntk_diagonal * slope_square
    return (K, variance) if kernel == "ck" else (N, ntk_diagonal)


def _terms(constant: FloatArray, order: int) -> int:
    """Hermite coefficients needed if two orthogonal samples have these correlations."""
    largest = min(float(np.abs(constant).max()), 1 - 1e-6)
    return order + min(_MOST_TERMS, int(np.log(_ROUNDING) / np.log(max(largest, 1e-6))) + 1)


def _series(c: FloatArray, rho: FloatArray) -> FloatArray:
    """Σ_j c_j c_jᵀ ρ^j by Horner's rule, powers of the cosine beyond those of ρ dropped."""
    total = np.zeros_like(rho)
    for coefficient in c[::-1]:
        total = _times(total, rho)
        total[0] += np.outer(coefficient, coefficient)
    return total


def _times(a: FloatArray, b: FloatArray) -> FloatArray:
    product = np.zeros_like(a)
    for k, factor in enumerate(a):
        product[k:] += factor * b[: len(a) - k]
    return product


class PolynomialEquivalent(KernelEquivalent):
    """A :class:`KernelEquivalent` made by :func:`polynomial_equivalent`.

    Attributes
    ----------
    order : int
        Highest power of the cosine kept.
    rank : int
        Columns kept besides the data's: one of the constant term, the others leading eigenvectors
        of what is beyond the linear one.
    truncation : float
        A bound of what the powers left out amount to, relative to the kernel, in spectral norm.
    error : float
        What the eigenvectors left out amount to, likewise, measured by power iteration.
    """

    def __init__(
        self,
        X: FloatArray,
        V: FloatArray,
        A: FloatArray,
        shift: FloatArray,
        order: int,
        truncation: float,
        error: float,
    ) -> None:
        super().__init__(X, V, A, 1, shift)
        self.order, self.rank = order, V.shape[1]
        self.truncation, self.error = truncation, error


@frozen(eq=False)
class _Remainder:
    """Off the diagonal, Σ_k F_k F_kᵀ ∘ cos^k − V A Vᵀ; ``directions`` (n, p) are the unit rows."""

    directions: FloatArray
    factors: tuple[FloatArray, ...]
    V: FloatArray
    A: FloatArray

    def __matmul__(self, v: FloatArray) -> FloatArray:
        out = np.empty_like(v)
        for rows, cosine in _blocks(self.directions):
            value = self.factors[-1][rows] @ self.factors[-1].T
            for factor in self.factors[-2::-1]:
                value *= cosine
                value += factor[rows] @ factor.T
            value -= self.V[rows] @ self.A @ self.V.T
            value[np.arange(len(value)), np.arange(rows.start, rows.stop)] = 0
            out[rows] = value @ v
        return out


def polynomial_equivalent(
    X: ArrayLike,
    activations: Sequence[AnyActivation | str],
    *,
    kernel: str = "ck",
    tau0: float | None = None,
    center: bool = True,
    order: int | None = None,
    rank: int | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
) -> PolynomialEquivalent:
    """An equivalent of the exact kernel on data X (n, p), as low rank plus a diagonal.

    Parameters
    ----------
    X, activations, tau0, center
        As for :func:`limit_kernels`.
    kernel : "ck" or "ntk"
    order : int, optional
        Highest power of the cosine; by default the lowest, up to 24, whose remainder is bounded by
        half the tolerance.
    rank : int, optional
        Most eigenvectors kept beyond the linear part, by default so many that columns are n // 4;
        as many of them as the tolerance asks for.
    tolerance : float
        Of the spectral norm, relative.
    seed : int
        Of the block that the eigenvectors are searched from.

    Returns
    -------
    PolynomialEquivalent
        With ``order``, ``rank`` and what they leave out.

    Raises
    ------
    ValueError
        As :func:`limit_kernels`; if all rows are 0; for the tangent kernel of an activation with a
        jump, which has no diagonal.

    Notes
    -----
    O(n² (p + r)) time, done by blocks of rows, and O(n (p + r)) memory. Beyond an order k the
    remainder's entries are at most ``|cos|^(k+1) √(t_i t_j)``, t the part of the diagonal left, by
    Cauchy and Schwarz, and its norm at most the largest sum of a row.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((60, 20)) / np.sqrt(20)
    >>> kernel = nh.theory.polynomial_equivalent(X, ["relu"], tolerance=0.05)
    >>> K, _ = nh.limit_kernels(X, ["relu"])
    >>> nh.relative_error(K, kernel) < 0.05
    True
    """
    X = samples("X", X)
    one_of("kernel", kernel, ("ck", "ntk"))
    tolerance, seed = inside("tolerance", tolerance), whole("seed", seed, 0)
    most = max(0, len(X) // 4 - 1) if rank is None else whole("rank", rank, 0, len(X))
    top = _MOST_ORDERS if order is None else whole("order", order, 1)
    unit, squared = unit_rows(X)
    series = angle_series(activations, squared, top, kernel=kernel, tau0=tau0, center=center)
    basis = series.basis(squared)
    diagonal = basis @ series.diagonal
    weights, constant = series.linear_part(squared)
    scaled = unit * weights
    linear = KernelEquivalent(scaled, constant, np.eye(1), 1, 0)
    size = max(float(linear.leading(1)[0][0]), float(diagonal.max()))
    tails = _tails(series, basis, diagonal)
    order, bound = _choose(unit, tails, order, tolerance * size / 2)
    factors = _without_linear_part(series, squared, order)
    allowed = max(tolerance * size - bound, tolerance * size / 2)
    values, vectors, left = _leading(unit, factors, most, allowed, seed)
    V, A = np.hstack([constant, vectors]), np.diag(np.append(1.0, values))
    shift, shares = diagonal - low_rank_diagonal(scaled, V, A), (bound / size, left / size)
    return PolynomialEquivalent(scaled, V, A, shift, order, *shares)


def _without_linear_part(
    series: AngleSeries, squared: FloatArray, order: int
) -> tuple[FloatArray, ...]:
    factors = [series.factor(k, squared, _LENGTH_ACCURACY) for k in range(order + 1)]
    return tuple(factor[:, 1:] if k < 2 else factor for k, factor in enumerate(factors))


def _tails(series: AngleSeries, basis: FloatArray, diagonal: FloatArray) -> FloatArray:
    """Roots of the part of the diagonal that is left beyond each order, (orders, n)."""
    own = np.einsum("im,kmj,ij->ki", basis, series.terms, basis, optimize=True)
    return np.sqrt(np.maximum(diagonal - np.cumsum(own, axis=0), 0))


def _choose(
    unit: FloatArray, tails: FloatArray, order: int | None, allowed: float
) -> tuple[int, float]:
    """The order, and a bound of the norm of all beyond it off the diagonal."""
    wanted = range(2, len(tails)) if order is None else [order]
    sums = np.zeros((len(tails), len(unit)))
    for rows, cosine in _blocks(unit):
        np.abs(cosine, out=cosine)
        cosine[np.arange(len(cosine)), np.arange(rows.start, rows.stop)] = 0
        power = cosine.copy()
        for k, tail in enumerate(tails):
            if k in wanted:
                sums[k, rows] = tail[rows] * (power @ tail)
            power *= cosine
    bounds = sums.max(axis=1)
    found = next((k for k in wanted if bounds[k] <= allowed), wanted[-1])
    return found, float(bounds[found])


def _blocks(unit: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """The cosines between some rows and all."""
    n = len(unit)
    step = max(1, min(n, _BLOCK // n))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        yield rows, np.clip(unit[rows] @ unit.T, -1, 1)


def _krylov(matrix: _Remainder, columns: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Ritz values and vectors on a block Krylov space of this many columns."""
    n = len(matrix.directions)
    width = max(1, -(-min(columns, n) // _PRODUCTS))
    block = np.random.default_rng(seed).standard_normal((n, width))
    basis, images = np.empty((n, 0)), np.empty((n, 0))
    for _ in range(_PRODUCTS):
        # Twice is enough to be orthogonal to rounding.
        for _ in range(2):
            block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
        block = block[:, : n - basis.shape[1]]
        basis = np.hstack([basis, block])
        block = matrix @ block
        images = np.hstack([images, block])
    product = basis.T @ images
    values, turned = np.linalg.eigh((product + product.T) / 2)
    return values, basis @ turned


def _leading(
    unit: FloatArray, factors: tuple[FloatArray, ...], most: int, allowed: float, seed: int
) -> tuple[FloatArray, FloatArray, float]:
    """Up to ``most`` eigenpairs, and the norm of what they leave; no more than make it small."""
    n, columns, least = len(unit), _FIRST_COLUMNS, allowed / 2
    remainder = _Remainder(unit, factors, np.zeros((n, 1)), np.zeros((1, 1)))
    while True:
        values, vectors = _krylov(remainder, columns, seed)
        kept = np.argsort(-np.abs(values))[:most]
        kept = kept[np.abs(values[kept]) > least]
        # The inner half of the Ritz values have not converged.
        if 2 * len(kept) > len(values) and columns < min(n, 2 * most):
            columns *= 2
            continue
        left = _Remainder(unit, factors, vectors[:, kept], np.diag(values[kept]))
        error = float(np.abs(_krylov(left, _FIRST_COLUMNS // 2, seed + 1)[0]).max())
        if error <= allowed or len(kept) == most or len(kept) == len(values):
            return values[kept], vectors[:, kept], error
        least *= 0.8
