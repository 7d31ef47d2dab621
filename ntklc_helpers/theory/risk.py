"""The test error of ridge regression on random features, from eigenvalues of the population."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from .._checks import FloatArray, array, number, whole


def ridge_risk(
    eigenvalues: ArrayLike,
    coefficients: ArrayLike,
    n: int,
    delta: float,
    width: float = float("inf"),
    noise: float = 0.0,
) -> float:
    """Expected squared error on new samples of ridge regression on random features.

    Parameters
    ----------
    eigenvalues, coefficients : (m,) arrays
        λ_i > 0 of the kernel's operator, and v_i of the target in its eigenfunctions.
    n : int
        Samples to train on.
    delta : float
        What is added to F Fᵀ, where F Fᵀ tends to the kernel; not negative.
    width : int or infinity
        Number k of random features; infinite: kernel ridge regression.
    noise : float
        Variance of the noise of the targets; it is in the error.

    Returns
    -------
    float
        Infinite where the readout interpolates at the threshold, δ = 0 and n = k.

    Raises
    ------
    ValueError
        If an argument is not as stated, or δ = 0 and there are not more modes than samples.

    Notes
    -----
    γ solves n = z + δ/κ, κ = γ(k − z)/k, z = Σ λ_i/(λ_i + γ). With q = Σ (λ_i/(λ_i + γ))² and
    b_i = γ/(λ_i+γ) − κ λ_i k/((λ_i+γ)² (k−q)), the error is
    [Σ b_i v_i² + σ²] / [1 − (q(k−2z) + z²)/(n(k−q))]: exact for Gaussian designs in the limit
    (Simon et al., arXiv 2311.14646; Defilippis, Loureiro and Misiakiewicz, arXiv 2405.15699).

    Examples
    --------
    >>> modes = np.arange(1, 1001.0)
    >>> errors = [nh.theory.ridge_risk(modes**-1.2, modes**-0.9, 300, 0.1, k) for k in (150, 600)]
    >>> np.round(errors, 2).tolist()
    [0.16, 0.05]
    """
    lam, v = array("eigenvalues", eigenvalues, 1), array("coefficients", coefficients, 1)
    if not lam.size or lam.min() <= 0:
        raise ValueError("eigenvalues must be positive, and there must be some")
    if v.shape != lam.shape:
        raise ValueError(f"coefficients must have shape {lam.shape}, got {v.shape}")
    n, k = whole("n", n), width if width == float("inf") else float(whole("width", width))
    delta, noise = (number(*pair) for pair in (("delta", delta), ("noise", noise)))
    if delta < 0 or noise < 0:
        raise ValueError(f"delta and noise must not be negative, got {delta:g} and {noise:g}")
    if delta == 0 and n >= len(lam):
        raise ValueError(f"delta must be positive for {n} samples of {len(lam)} modes")
    if delta == 0 and n == k:
        return float("inf")
    gamma = _solve_gamma(lam, n, k, delta)
    kept = lam / (lam + gamma)
    z, q = kept.sum(), (kept**2).sum()
    # Of k features and δ = 0 at most k modes are learnt: then z = k, and κ, which is 0, drops out.
    kappa = gamma * (1 - z / k)
    missed = gamma / (lam + gamma) - kappa * lam / (lam + gamma) ** 2 / (1 - q / k)
    variance = (q * (1 - 2 * z / k) + z**2 / k) / (n * (1 - q / k))
    return float((missed @ v**2 + noise) / (1 - variance))


def _solve_gamma(lam: FloatArray, n: int, k: float, delta: float) -> float:
    """γ with (n − z)(1 − z/k) γ = δ, z < min(n, k): the left side rises with γ from 0."""

    def excess(logarithm: float) -> float:
        gamma = np.exp(logarithm)
        z = np.sum(lam / (lam + gamma))
        if z >= min(n, k):
            return -delta - (z - min(n, k))
        return float((n - z) * (1 - z / k) * gamma - delta)

    low, high = np.log(lam.min()) - 60, np.log(lam.sum() + delta) + 5
    return float(np.exp(brentq(excess, low, high, xtol=1e-13, rtol=1e-14)))
