"""The tangent kernel of networks that train with surrogate derivatives, staircases among them.

Gradient descent moves a network's weights by what its backward pass returns. Where that has a
surrogate ς in place of a derivative σ', outputs move by the true gradient at the one sample times
the surrogate gradient at the other: a kernel that need not be symmetric, and that a jump in σ
leaves finite, on its diagonal too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .._checks import FloatArray, numbers, positive, same_length, samples
from .activations import AnyActivation, Quantized, activation_list, surrogate_list
from .duals import TINY
from .hermite import crossing
from .infinite import layer_kernels
from .moments import activation_mass, both_sides


def surrogate_ntk(
    X: ArrayLike,
    activations: Sequence[AnyActivation | str],
    surrogates: Sequence[Quantized | None],
    *,
    Z: ArrayLike | None = None,
    tau0: float | None = None,
    rates: Sequence[float] | None = None,
) -> FloatArray:
    """Kernel by which an infinitely wide network trains with surrogate derivatives, on data X.

    Where gradient descent on ½ Σ_j (f(z_j) − y_j)² trains the network on samples z_j with learning
    rate η, a step moves f(x_i) by −η Σ_j Θ_ij (f(z_j) − y_j).

    Parameters
    ----------
    X : (n, p) array
        One sample a row; the network is looked at there.
    activations : sequence of Activation or Quantized, or of names
        σ₁ … σ_L, every layer centred.
    surrogates : sequence of Quantized or None
        ς₁ … ς_L, in the place of σ_ℓ' in the backward pass. Piecewise constant: derivatives of
        what is continuous and piecewise linear, such as a clipped identity. None is σ_ℓ' itself,
        for an activation without a jump; that with a surrogate must be a Quantized.
    Z : (m, p) array, optional
        What is trained on; X itself by default.
    tau0 : float, optional
        The scale τ₀ from which layers are centred; by default that of what is trained on.
    rates : sequence of L + 1 floats, optional
        Factors of the learning rates of W₁ … W_L and of the readout; all 1 by default. With d_{ℓ−1}
        for W_ℓ, d_0 = p, it is the kernel of the usual parametrisation.

    Returns
    -------
    (n, n) or (n, m) float64 array

    Raises
    ------
    ValueError
        If an argument is not as stated, or as :func:`~ntklc_helpers.theory.infinite.limit_kernels`.

    Notes
    -----
    Θ₀ = K₀, Θ_ℓ = K_ℓ + Θ_{ℓ−1} ∘ E[σ_ℓ'(u)ς_ℓ(v)] with (u, v) Gaussian of covariance K_{ℓ−1}. For
    a staircase with jumps Δ_k at θ_k, and u of scale a, the expectation is
    Σ_k Δ_k φ(θ_k/a)/a · E[ς(v) | u = θ_k], and v given u is Gaussian: sums of Φ, exact to rounding.
    On the diagonal v = u, and what is left is Σ_k Δ_k φ(θ_k/a)/a · ς(θ_k).

    For samples of one length Θ is symmetric: with a_j and b_j the coefficients of σ' and ς in
    normalised Hermite polynomials, the expectation is Σ_j a_j b_j ρ^j. It has no negative
    eigenvalues, and training converges on any such data, if a_j b_j ≥ 0 for all j. In general
    training converges where the eigenvalues of Θ have positive real parts. See also "Surrogate
    gradient NTK", arXiv 2405.15539.

    Examples
    --------
    >>> window = nh.Quantized([-1, 1], [0, 1, 0])
    >>> nh.surrogate_ntk(np.eye(2), ["sign"], [window]).round(3).tolist()
    [[1.798, 0.0], [0.0, 1.798]]
    """
    X, activations = samples("X", X), activation_list("activations", activations)
    backward = surrogate_list("surrogates", surrogates, activations)
    for act, one in zip(activations, backward, strict=True):
        if one is not None and not isinstance(act, Quantized):
            raise ValueError(
                f"surrogates are of staircases: activation {act.name!r} is none, name None for it"
            )
    trained = X if Z is None else samples("Z", Z, X.shape[1])
    scale = float(np.sqrt(np.mean(np.einsum("ij,ij->i", trained, trained))))
    tau0 = positive("tau0", scale if tau0 is None else tau0)
    factors = (1.0,) * (len(activations) + 1) if rates is None else numbers("rates", rates)
    same_length("rates", factors, "activations, and one for the readout", len(activations) + 1)
    rows = X if Z is None else np.vstack([X, trained])
    columns = np.arange(len(rows) - len(trained), len(rows))
    K, variance = rows @ trained.T, np.einsum("ij,ij->i", rows, rows)
    theta = factors[0] * K
    layers = layer_kernels(rows, activations, tau0, columns)
    for act, one, rate, layer in zip(activations, backward, factors[1:], layers, strict=True):
        if one is None:
            slope, itself = layer.slope.copy(), layer.power[columns]
        else:
            assert isinstance(act, Quantized)
            inputs = np.maximum(variance, TINY)
            slope = crossing(act, one, K, inputs, inputs[columns])
            at = activation_mass(act, np.sqrt(inputs[columns]))
            itself = at @ both_sides(one, act.thresholds)
        slope[columns, np.arange(len(columns))] = itself
        theta *= slope
        theta += rate * layer.kernel
        K, variance = layer.kernel, layer.variance
    return theta[: len(X)]
