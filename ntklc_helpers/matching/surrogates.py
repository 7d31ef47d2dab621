"""The surrogate derivative with which a staircase trains as the activation it stands for.

The kernel by which a network of steps trains depends on each layer's surrogate ς through three
numbers: E ς, E ς' and E[σ'ς] = Σ_k Δ_k φ(θ_k/τ)/τ ς(θ_k). A surrogate that is constant around each
threshold has more than three values to choose, so that all three can be what the original asks for.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from scipy.linalg import null_space

from .._checks import FloatArray
from ..theory.activations import AnyActivation, Quantized
from ..theory.gaussian import cell_probabilities, gaussian_panels
from ..theory.moments import activation_mass
from .solve import Tolerance

# The outermost windows reach as far as to the next threshold, and this far at least, in units of τ.
_LEAST_REACH = 0.3
# Correlations of two inputs at which E[σ'ς] is compared, terms of its series there, and how a
# surrogate's mean squared distance from the original's derivative counts beside that.
_CORRELATIONS, _TERMS, _PULL = np.cos(np.pi * np.arange(1, 33) / 33), 150, 1e-3


def surrogate_for(
    activation: AnyActivation, tau: float, steps: Quantized, scale: float, target: FloatArray
) -> Quantized:
    """A surrogate for staircase ``steps`` at ``scale``, in place of an activation at ``tau``.

    Its windows end halfway between thresholds. Of all values there for which d₁ E ς, d₂ E ς' and
    E[σ'ς] are ``target`` (3,), it has those with which E[σ'(u)ς(v)] of two inputs is nearest to the
    original's at all correlations, which matters where samples are no mixture. An equation that the
    windows cannot solve is solved in the least squares.

    >>> from ntklc_helpers.matching.surrogates import surrogate_for
    >>> steps = nh.Quantized([-0.5, 0.5], [-1, 0, 1])
    >>> found = surrogate_for(nh.activation("tanh"), 1.0, steps, 1.0, np.array([0.4, 0.0, 0.5]))
    >>> print(np.round(found.thresholds, 3))
    [-1.5  0.   1.5]
    """
    at = np.asarray(steps.thresholds)
    gaps = np.maximum(np.diff(at), _LEAST_REACH * scale) if len(at) > 1 else np.array([scale])
    windows = np.concatenate([[at[0] - gaps[0]], (at[1:] + at[:-1]) / 2, [at[-1] + gaps[-1]]])
    problem = _Problem.of(activation, tau, steps, scale, windows)
    return Quantized(windows, problem.solve(target), f"surrogate of {activation.name}")


@frozen(eq=False)
class _Problem:
    """Values on windows: what they must solve, and what they should be near to.

    ``equations`` (3, m) give d₁ E ς, d₂ E ς', E[σ'ς]; ``curve`` (k, m) E[σ'(u)ς(v)] at some
    correlations, ``wanted`` (k,) that of the original; ``share`` (m,) are the windows'
    probabilities and ``wish`` (m,) the original's mean derivative there.
    """

    equations: FloatArray
    curve: FloatArray
    wanted: FloatArray
    share: FloatArray
    wish: FloatArray

    @classmethod
    def of(
        cls, act: AnyActivation, tau: float, steps: Quantized, scale: float, windows: FloatArray
    ) -> _Problem:
        x, at = windows / scale, np.asarray(steps.thresholds) / scale
        share, mass = cell_probabilities(x), activation_mass(steps, scale)
        xi, weight = gaussian_panels([*act.breakpoints, *(tau * x)], tau, 2)
        slope, cell = act.derivative(tau * xi), np.searchsorted(x, xi)
        # Coefficients of the original's derivative, of the staircase's, and of each window.
        normal = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * hermite(x, _TERMS)
        ends = (
            np.diff(np.pad(-normal, ((0, 0), (1, 1)))) / np.sqrt(np.arange(1, _TERMS + 1))[:, None]
        )
        inside = np.vstack([share, ends[:-1]])
        powers = _CORRELATIONS[:, None] ** np.arange(_TERMS)
        wanted = powers @ (hermite(xi, _TERMS) @ (weight * slope)) ** 2
        equations = [
            mass.sum() * share,
            mass @ at / scale * ends[0] / scale,
            np.bincount(np.searchsorted(x, at), mass, len(share)),
        ]
        curve = (powers * (hermite(at, _TERMS) @ mass)) @ inside
        wish = np.bincount(cell, weight * slope, len(share)) / np.where(share > 0, share, 1.0)
        return cls(np.array(equations), curve, wanted, share, wish)

    def solve(self, target: FloatArray) -> FloatArray:
        """The values (m,)."""
        # Where no sample comes nothing is changed.
        root = np.where(self.share > Tolerance.NO_SHARE, np.sqrt(self.share), np.inf)
        rows, left = self.equations / root, target - self.equations @ self.wish
        size = np.linalg.norm(rows, axis=1)
        # An even or odd staircase leaves one equation without unknowns.
        some = size > Tolerance.NO_MOMENT * size.max()
        rows, left = rows[some] / size[some, None], left[some] / size[some]
        step = np.linalg.lstsq(rows, left, rcond=1e-12)[0]
        free = null_space(rows, rcond=1e-12)
        curve = self.curve / root
        gap = self.wanted - self.curve @ self.wish - curve @ step
        pull = np.sqrt(_PULL * len(gap))
        system = np.vstack([curve @ free, pull * free])
        step += free @ np.linalg.lstsq(system, np.concatenate([gap, -pull * step]), rcond=None)[0]
        return np.asarray(self.wish + step / root)


def hermite(x: FloatArray, terms: int) -> FloatArray:
    """Normalised Hermite polynomials h_0 … of these arguments (n,), (terms, n).

    >>> from ntklc_helpers.matching.surrogates import hermite
    >>> hermite(np.array([2.0]), 3).round(4).ravel().tolist()
    [1.0, 2.0, 2.1213]
    """
    found = np.ones((terms, len(x)))
    found[1] = x
    for k in range(2, terms):
        found[k] = (x * found[k - 1] - np.sqrt(k - 1) * found[k - 2]) / np.sqrt(k)
    return found
