"""The few scalars through which a wide network's layers enter the equivalents of its kernels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from attrs import field, frozen

from .._checks import SAME, FloatArray, one_of, positive
from .activations import AnyActivation, Quantized, activation_list, refuse_jumps, surrogate_list
from .moments import gaussian_moments, layer_moments, surrogate_moments


@frozen
class LayerCoefficients:
    """The few scalars through which a network's first ℓ layers enter the equivalents.

    Attributes
    ----------
    alpha, beta : (4,) and (3,) arrays
        α₁ … α₄ of the conjugate kernel, β₁ … β₃ of the neural tangent kernel.
    tau, kappa : float
        τ_ℓ² and κ_ℓ² are the diagonals of the two, layers centred; κ_ℓ is ``inf`` after a jump.
    tau0 : float
        Scale of the network's input.
    activations : tuple of Activation or Quantized
        σ_1 … σ_ℓ, for what these scalars do not say.
    surrogates : tuple of Quantized or None
        ς_1 … ς_ℓ, for which β and κ are.
    """

    alpha: FloatArray = field(eq=SAME)
    beta: FloatArray = field(eq=SAME)
    tau: float
    kappa: float
    tau0: float
    activations: tuple[AnyActivation, ...]
    surrogates: tuple[Quantized | None, ...]

    def gain(self, kernel: str) -> FloatArray:
        """α of the kernel ``"ck"``, β of ``"ntk"``."""
        return self.alpha if kernel == "ck" else self.beta


def propagate(
    activations: Sequence[AnyActivation | str],
    tau0: float = 1.0,
    surrogates: Sequence[Quantized | None] | None = None,
) -> tuple[LayerCoefficients, ...]:
    """Coefficients of every layer of a network, layers centred by their means.

    Errors as for :func:`gaussian_moments`, and if ``surrogates`` are not one for each layer, as
    :func:`~ntklc_helpers.theory.surrogates.surrogate_ntk` takes them. With the moments d1, d2, q,
    v, s of σ_ℓ at scale τ_{ℓ−1} and starting from α = (1, 0, 0, 1), β = (1, 0, 0), κ² = τ₀²::

        α1 ← d1² α1    α2 ← d1² α2 + ¼ d2² α4²    α3 ← d1² α3 + ½ d2² α1²    α4 ← ½ q α4
        β1 ← α1 + d1² β1    β2 ← α2 + d1² β2    β3 ← α3 + d1² β3 + d2² α1_old β1_old
        τ² ← v    κ² ← v + s κ²

    With surrogate derivatives ς, β and κ are those of the kernel by which they train: of the two
    factors in each of d1², d2² and s, one is then the surrogate's, E ς, E ς' and E[σ'ς].

    Examples
    --------
    >>> last = nh.propagate(["linear", "linear"], tau0=0.5)[-1]
    >>> last.alpha.round(9).tolist(), last.beta.round(9).tolist(), round(last.tau, 9)
    ([1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0], 0.5)
    """
    tau0 = positive("tau0", tau0)
    alpha, beta = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    kappa_squared, layers = tau0**2, []
    given = tuple(activation_list("activations", activations))
    bare = surrogates is None
    backward = (None,) * len(given) if bare else surrogate_list("surrogates", surrogates, given)
    for depth, g in enumerate(layer_moments(given, tau0), 1):
        d1_2, d2_2, (a1, a2, a3, a4) = g.d1**2, g.d2**2, alpha
        mean, slope, power = g.d1, g.d2, g.derivative_power
        if (surrogate := backward[depth - 1]) is not None:
            mean, slope, power = surrogate_moments(given[depth - 1], surrogate, g.tau)
        cross = np.array([0.0, 0.0, g.d2 * slope * a1 * beta[0]])
        a2, a3 = d1_2 * a2 + d2_2 * a4**2 / 4, d1_2 * a3 + d2_2 * a1**2 / 2
        alpha = np.array([d1_2 * a1, a2, a3, g.square_d2 * a4 / 2])
        beta = alpha[:3] + g.d1 * mean * beta + cross
        kappa_squared = g.variance + power * kappa_squared
        tau, kappa = float(np.sqrt(g.variance)), float(np.sqrt(max(kappa_squared, 0.0)))
        known = given[:depth], backward[:depth]
        layers.append(LayerCoefficients(alpha, beta, tau, kappa, tau0, *known))
    return tuple(layers)


def published_kappa_squared(
    activations: Sequence[AnyActivation | str],
    tau0: float = 1.0,
    slips: Collection[str] = ("start", "late", "squared"),
) -> float:
    """κ_L², as for :func:`propagate`, but for slips of the published script.

    It begins at τ₀, not τ₀², takes the moments of σ_ℓ at τ_ℓ, not τ_{ℓ−1}, and squares the result.

    Examples
    --------
    >>> [round(nh.theory.published_kappa_squared(["linear"], 2, s)) for s in ([], ["start"])]
    [8, 6]
    """
    for slip in slips:
        one_of("slips", slip, ("start", "late", "squared"))
    layers = activation_list("activations", activations)
    moments = layer_moments(layers, positive("tau0", tau0))
    if "late" in slips:
        late = zip(layers, moments, strict=True)
        moments = (gaussian_moments(layer, g.variance**0.5) for layer, g in late)
    kappa_squared = tau0 if "start" in slips else tau0**2
    for g in moments:
        kappa_squared = g.variance + g.derivative_power * kappa_squared
    return kappa_squared**2 if "squared" in slips else kappa_squared


def diagonal_of(
    coefficients: LayerCoefficients, kernel: str, tau0: float | None = None, order: str = "limit"
) -> float:
    """The diagonal of the kernel in the limit, if it exists and the coefficients are for τ₀."""
    if not isinstance(coefficients, LayerCoefficients):
        raise ValueError(f"coefficients must be LayerCoefficients, got {type(coefficients)}")
    if tau0 is not None and abs(coefficients.tau0 - tau0) > 1e-9 * tau0:
        raise ValueError(
            f"coefficients were made for tau0={coefficients.tau0:.6g}, not {tau0:.6g}; use "
            "propagate(activations, tau0) with the tau0 of the statistics or the mixture"
        )
    if one_of("kernel", kernel, ("ck", "ntk")) == "ck":
        return coefficients.tau**2
    if not any(coefficients.surrogates):
        refuse_jumps("coefficients", coefficients.activations)
    elif order == "finite":
        raise ValueError("order must be 'limit' for coefficients with surrogates")
    return coefficients.kappa**2
