"""The limit kernel on a sphere: of samples of one length it is one function of their angle.

That function is tabulated once, from the exact kernel on a circle, and then costs as much for a
staircase of sixteen levels as for a ReLU: two roots and a cubic an entry.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from .._checks import positive, samples
from .activations import AnyActivation
from .duals import FloatArray
from .infinite import limit_kernels

_NODES = 1024
# Entries that are interpolated at a time: what that takes stays in the processor's memory.
_BLOCK = 2**17


@frozen(eq=False)
class SphereKernel:
    """K(x, z) = κ(angle of x and z) for samples of one length, by :func:`sphere_kernel`.

    Attributes
    ----------
    radius : float
    diagonal : float
        κ(0), the kernel of a sample with itself.
    cubics : (2, pieces, 4) array
        κ for cosines c ≥ 0 and c < 0, highest power first, between nodes t equidistant where
        1 − ``|c|`` = t⁴: dense at either end, where kernels of jumps have roots.

    Examples
    --------
    >>> kernel = nh.theory.sphere_kernel(["relu"], center=False)
    >>> kernel([[1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]).round(4)
    array([[0.1592, 0.5   ]])
    """

    radius: float
    diagonal: float
    cubics: FloatArray

    def __call__(self, X: ArrayLike, Z: ArrayLike | None = None) -> FloatArray:
        """The (n, m) kernel between the rows of X and those of Z, or the (n, n) one among X's.

        Raises ValueError if a row is not of length ``radius``, to 1e-6 of it.
        """
        X = self._rows("X", X)
        other = X if Z is None else self._rows("Z", Z)
        K = X @ other.T
        entries = K.reshape(-1)
        for at in range(0, K.size, _BLOCK):
            block = slice(at, at + _BLOCK)
            entries[block] = _interpolate(entries[block] / self.radius**2, self.cubics)
        if Z is None:
            np.fill_diagonal(K, self.diagonal)
        return K

    def _rows(self, argument: str, values: ArrayLike) -> FloatArray:
        rows = samples(argument, values)
        if not np.allclose(np.einsum("ij,ij->i", rows, rows), self.radius**2, rtol=2e-6, atol=0):
            raise ValueError(f"{argument} must have rows of length {self.radius:g}")
        return rows


def sphere_kernel(
    activations: Sequence[AnyActivation | str], *, radius: float = 1.0, center: bool = True
) -> SphereKernel:
    """The conjugate kernel of an infinitely wide network for samples of one length.

    Parameters
    ----------
    activations : sequence of Activation or Quantized, or of names
    radius : float
        Length of every sample, and the scale τ₀ of the centring constants.
    center : bool
        As for :func:`limit_kernels`.

    Returns
    -------
    SphereKernel
        Between nodes it is interpolated, to 1e-9 of the diagonal; below an angle of 0.001, where
        the kernel of an activation with a jump has a root, to 1e-5.

    Raises
    ------
    ValueError
        As :func:`limit_kernels`.

    Examples
    --------
    >>> X = np.array([[0.6, 0.8], [1.0, 0.0]])
    >>> exact, _ = nh.limit_kernels(X, ["relu"] * 3, ntk=False)
    >>> bool(np.allclose(nh.theory.sphere_kernel(["relu"] * 3)(X), exact, atol=1e-12))
    True
    """
    radius = positive("radius", radius)
    t = np.linspace(0, 1, _NODES + 1)
    pole = [[radius, 0.0]]
    (diagonal,), _ = limit_kernels(pole, activations, center=center, ntk=False)
    # Half the chord: of it both coordinates follow without a loss at either end.
    half = t**2 / np.sqrt(2)
    sine = 2 * half * np.sqrt(1 - half**2)
    cubics = np.empty((2, _NODES, 4))
    for side, sign in enumerate((1, -1)):
        circle = radius * np.column_stack([sign * (1 - t**4), sine])
        values, _ = limit_kernels(
            pole, activations, Z=circle, center=center, tau0=radius, ntk=False
        )
        values = values[0]
        if side == 0:
            values[0] = diagonal[0]
        # Each piece is counted in its own length, so that t runs from 0 to 1 in it.
        cubics[side] = CubicSpline(t, values).c.T / float(_NODES) ** np.arange(3, -1, -1)
    return SphereKernel(radius, float(diagonal[0]), cubics)


def _interpolate(cosines: FloatArray, cubics: FloatArray) -> FloatArray:
    pieces = cubics.shape[1]
    t = pieces * np.sqrt(np.sqrt(np.maximum(1 - np.abs(cosines), 0)))
    piece = np.minimum(t.astype(np.intp), pieces - 1)
    t -= piece
    piece[cosines < 0] += pieces
    first, *others = cubics.reshape(-1, 4).T.copy()
    values = first[piece]
    for coefficient in others:
        values *= t
        values += coefficient[piece]
    return values
