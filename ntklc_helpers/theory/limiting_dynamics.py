"""How the training loss falls on a Gaussian mixture, from the limiting spectrum alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import FloatArray, whole
from ..data.mixture import GaussianMixture
from .coefficients import LayerCoefficients
from .dynamics import columns_of, training_times
from .spectrum import class_resolvent

# Points of the contour around a spectrum, tripled until the loss moves by no more than that part of
# it; with three times as many points the error is the third power of what it was.
_POINTS, _MOST_POINTS, _SETTLED = 24, 2000, 1e-4


def limiting_training_loss(
    mixture: GaussianMixture,
    n: int,
    coefficients: LayerCoefficients,
    times: ArrayLike,
    targets: ArrayLike | None = None,
) -> FloatArray:
    """Training loss over time on n samples of a mixture, before any is drawn.

    Parameters
    ----------
    mixture : GaussianMixture
    n : int
        Samples, n_a of class a.
    coefficients : LayerCoefficients
        Of the layer wanted, ``propagate(activations, mixture.tau0)[-1]``, with surrogates or not.
    times : (T,) array
        As for :func:`training_curve`.
    targets : (K,) or (K, c) array, optional
        y of each class; by default a column for each class, 1 for its samples and 0 for others,
        less its mean.

    Returns
    -------
    (T,) array
        Mean over samples of ‖f(x_i) − y_i‖² in the limit of n, p → ∞; its error is at most some
        1e-6 of what it starts from.

    Raises
    ------
    ValueError
        If an argument is not as stated, or as :func:`limiting_spectrum` for the NTK.
    RuntimeError
        If the contour's quadrature does not settle.

    Notes
    -----
    With G(λ) = yᵀ(Ñ − λ)⁻¹y/n for the NTK's equivalent Ñ, the loss is −(1/2πi) ∮ e^(−2λt) G(λ) dλ
    around its spectrum. y is constant in classes, so that G follows from the deterministic
    equivalent of the resolvent alone: see :func:`~ntklc_helpers.theory.spectrum.class_resolvent`.
    On an ellipse the trapezoidal rule converges exponentially.

    Examples
    --------
    >>> mixture = nh.GaussianMixture.preset("means", p=100, n_classes=2)
    >>> layer = nh.propagate(["erf"], mixture.tau0)[-1]
    >>> nh.theory.limiting_training_loss(mixture, 200, layer, [0.0, 1.0]).round(2)
    array([0.5 , 0.02])
    """
    times = training_times(times)
    if not isinstance(mixture, GaussianMixture):
        raise ValueError(f"mixture must be a GaussianMixture, got {type(mixture)}")
    shares = mixture.class_sizes(whole("n", n)) / n
    aims = np.eye(len(shares)) - shares if targets is None else targets
    aims = columns_of("targets", aims, len(shares))
    resolvent, (low, high) = class_resolvent(mixture, n, coefficients, "ntk")
    middle, reach = (low + high) / 2, (high - low) / 2
    # As far below the spectrum as above 0; no further above it.
    across, height = reach + low / 2, np.sqrt(low * high)

    def part(angles: FloatArray) -> FloatArray:
        """The sum over points at some angles, of the upper half."""
        z = middle + across * np.cos(angles) + 1j * height * np.sin(angles)
        dz = -across * np.sin(angles) + 1j * height * np.cos(angles)
        G = np.array([np.sum(aims * (resolvent(point) @ aims)) / n for point in z])
        return np.exp(-2 * np.outer(times, z)) @ (G * dz)

    points, total = _POINTS, part((np.arange(_POINTS) + 0.5) * np.pi / _POINTS)
    before = np.full(len(times), np.inf)
    while True:
        # Counter-clockwise, the lower half its mirror image.
        loss = -np.imag(total) / points
        if (np.abs(loss - before) <= _SETTLED * np.sum(aims**2 * shares[:, None])).all():
            return np.maximum(loss, 0)
        if points >= _MOST_POINTS:
            raise RuntimeError(f"the contour integral did not settle on {points} points")
        # Thirds of the steps: the midpoints so far are midpoints again.
        step = np.pi / points
        old = (np.arange(points) + 0.5) * step
        total, before = total + part(np.concatenate([old - step / 3, old + step / 3])), loss
        points *= 3
