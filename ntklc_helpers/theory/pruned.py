"""Limits of the kernels of networks pruned at random.

What is trained are the kept weights, so the gradient in a matrix W is that of the dense network on
its mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve
from numpy.typing import ArrayLike

from .._checks import FloatArray, positive, samples, share
from .activations import AnyActivation, Quantized, activation, activation_list
from .infinite import limit_kernels
from .moments import gaussian_moments
from .weights import Gaussian, Pruned, StudentT, Ternary

_GAUSSIAN = Gaussian()


def pruned_limit_kernels(
    X: ArrayLike,
    activations: Sequence[AnyActivation],
    sparsity: float | Sequence[float],
    *,
    rescale: bool,
    tau0: float | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Limits of the kernels of networks with :class:`Pruned` weights as n, p and widths grow.

    Arguments, results and errors are as for :func:`~ntklc_helpers.theory.infinite.limit_kernels`,
    and ``sparsity`` and ``rescale`` as there; with rescaling the limits are the dense network's.

    Notes
    -----
    Without rescaling a neuron's input is √χ times one of the dense network, χ = 1 − sparsity, and
    the gradients in its kept weights have χ times the inner product. Both are what the dense
    network has with t ↦ σ(√χ t) in place of σ: K_ℓ = E[σ(√χ u)σ(√χ v)] and
    N_ℓ = K_ℓ + N_{ℓ−1} ∘ χ E[σ'(√χ u)σ'(√χ v)]. A pruned readout multiplies every term of N by its
    χ. If σ is homogeneous, σ(√χ t) = √χ σ(t), all of N is multiplied by the product of the χ.

    Examples
    --------
    >>> linear = [nh.activation("linear")]
    >>> K, N = nh.theory.pruned_limit_kernels(np.eye(2), linear, sparsity=0.75, rescale=False)
    >>> K.diagonal().round(12).tolist(), N.diagonal().round(12).tolist()
    ([0.25, 0.25], [0.125, 0.125])
    """
    activations = activation_list("activations", activations)
    *hidden, readout = Pruned(sparsity, rescale=rescale).layers(len(activations))
    shrunk = [_shrunk(a, law.variance) for a, law in zip(activations, hidden, strict=True)]
    K, N = limit_kernels(X, shrunk, tau0=tau0)
    assert N is not None
    return K, N * readout.variance


def _shrunk(sigma: AnyActivation, alpha: float) -> AnyActivation:
    """The activation t ↦ σ(√χ t)."""
    if alpha == 1:
        return sigma
    root = alpha**0.5
    if isinstance(sigma, Quantized):
        return evolve(sigma, thresholds=[t / root for t in sigma.thresholds])
    return activation(
        lambda t: sigma(root * t),
        name=f"{sigma.name} at {root:.6g} t",
        breakpoints=[point / root for point in sigma.breakpoints],
        derivative=lambda t: root * sigma.derivative(root * t),
    )


def first_layer_correction(
    X: ArrayLike,
    activation: AnyActivation,
    sparsity: float,
    *,
    tau0: float,
    law: Gaussian | StudentT | Ternary = _GAUSSIAN,
) -> tuple[FloatArray, FloatArray]:
    """What pruning W_1 adds to the limits of one hidden layer, rescaled, where n and p are alike.

    ``law`` is that of the weights before pruning, with a fourth moment; the readout is not pruned.
    Returns ΔK and ΔN (n, n), off the diagonal to leading order in 1/p, and 0 on it; arguments and
    errors otherwise as for :func:`pruned_limit_kernels`.

    Notes
    -----
    With S_ij = Σ_k x_ik² x_jk² and d2 = E σ''(τ_0 ξ), both are multiples of d2² S. The fourth
    cumulant of the rescaled weights, κ = m_4/χ − 3, enters E[σ(u)σ(v)] as ¼ κ d2² S. The NTK has
    χ⁻¹ E[Σ_k m_k x_ik x_jk σ'(u)σ'(v)] besides: where weight k is kept its variance is 1/χ, so the
    covariance of u and v is larger by (1/χ − 1) x_ik x_jk, and σ'σ' by that times E[σ''σ''] → d2².
    The sum over k is (1/χ − 1) d2² S.

    Examples
    --------
    >>> X, square = np.eye(2) + 1, nh.activation("quadratic")
    >>> K, N = nh.theory.first_layer_correction(X, square, sparsity=0.5, tau0=1.0)
    >>> K.round(6).tolist()
    [[0.0, 24.0], [24.0, 0.0]]
    """
    X, tau0 = samples("X", X), positive("tau0", tau0)
    alpha = Pruned(share("sparsity", sparsity)).kept
    if not np.isfinite(law.excess_kurtosis):
        raise ValueError(f"law must have a finite fourth moment, got {law!r}")
    squares = X**2 @ (X**2).T
    np.fill_diagonal(squares, 0)
    squares *= gaussian_moments(activation, tau0).d2 ** 2
    K = ((law.excess_kurtosis + 3) / alpha - 3) / 4 * squares
    return K, K + (1 / alpha - 1) * squares
