"""Activations with few levels that leave the kernels' equivalents as they are.

``match`` replaces every activation of a network by a staircase with m levels such that the
coefficients of the equivalents stay, proves where that cannot be, and says what is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from attrs import frozen

from .._checks import one_of, positive, same_length, whole
from ..theory.activations import AnyActivation, Quantized, activation_list, refuse_jumps
from ..theory.coefficients import LayerCoefficients, propagate
from ..theory.moments import layer_moments
from .accuracy import Judge, for_accuracy
from .certificates import Certificate, certify, certify_all
from .layerwise import staircases_for
from .paper import paper_scheme, sigma_t_network
from .quantisers import quantisers
from .solve import Tolerance
from .staircases import CODES, Layer, demanded_shares
from .surrogates import surrogate_for

Objective = Literal["exact", "ridge", "ntk", "lloyd-max", "accuracy"]
# Objectives that keep no coefficients.
_FREE = "lloyd-max", "accuracy"


class MatchingError(RuntimeError):
    """A demand that was not met, raised by ``match(..., strict=True)``; the message says why."""


@frozen
class Matching:
    """Staircases in place of a network's activations, and what they keep.

    Attributes
    ----------
    activations : tuple of Quantized
    tau0 : float
    objective : str
        "exact", "ridge", "ntk", "lloyd-max", "accuracy", "paper" or "script".
    original, compressed : tuple of LayerCoefficients
        Coefficients of the two networks, layer by layer.
    relative_error : dict
        Of α₁ … α₄, β₁ … β₃ and τ of the last layer, and of κ with surrogates; relative to the
        natural scale (τ_L²/τ₀² for α₁, α₄ and β₁, τ_L²/τ₀⁴ for the others) where the original's is
        below 1e-6 of it.
    proof, proof_all : Certificate or None
        Proof that no activations with these many levels make it exact; that none keep all the
        coefficients above, α₄ and the β among them.
    reason : str
        Why an activation of the published scheme was replaced; empty otherwise.
    surrogates : tuple of Quantized or None
        Of "ntk": the derivatives with which the staircases are to be trained.

    Examples
    --------
    >>> found = nh.match(["relu"] * 2, tau0=1.0, levels="paper")
    >>> found.exact, found.ridge_shift > found.original[-1].tau ** 2
    (False, True)
    """

    activations: tuple[Quantized, ...]
    tau0: float
    objective: str
    original: tuple[LayerCoefficients, ...]
    compressed: tuple[LayerCoefficients, ...]
    relative_error: dict[str, float]
    proof: Certificate | None
    proof_all: Certificate | None
    reason: str
    surrogates: tuple[Quantized, ...] | None = None

    @property
    def exact(self) -> bool:
        """Whether α₁, α₂, α₃ and τ_L are the original's to 1e-9: the conjugate kernels' equivalents
        are then equal. (α₄ enters only through α₂; the β are in ``relative_error``.)"""
        kept = [self.relative_error[name] for name in ("alpha1", "alpha2", "alpha3", "tau")]
        return max(kept) < Tolerance.EXACT

    @property
    def exact_ntk(self) -> bool:
        """Whether β₁, β₂, β₃ and κ_L are the original's to 1e-9: the tangent kernels' equivalents,
        with surrogates in the place of derivatives, are then equal."""
        kept = [self.relative_error[f"beta{i}"] for i in range(1, 4)]
        return max(*kept, self.relative_error.get("kappa", np.inf)) < Tolerance.EXACT

    @property
    def ratios_kept(self) -> bool:
        """Whether α₁ : α₂ : α₃ are the original's to 1e-9. The compressed equivalent is then, but
        for a factor, the original's and a multiple of the identity: :attr:`ridge_shift`."""
        old, new = (
            layers[-1].alpha[:3] * self.tau0 ** np.array([2, 4, 4])
            for layers in (self.original, self.compressed)
        )
        factor = (old @ new) / (new @ new)
        return bool(np.max(np.abs(factor * new - old)) < Tolerance.EXACT * np.max(np.abs(old)))

    @property
    def ridge_shift(self) -> float:
        """Δρ: how much more of the identity the compressed equivalent holds than the original.

        In units of the original's conjugate kernel: f τ_L²(compressed) − τ_L², f the factor that
        brings α₁ (α₂ where α₁ = 0) back to the original's. Where :attr:`ratios_kept`,
        f K̃_compressed = K̃ + Δρ I. Elsewhere no multiple of the identity is between the two, and
        this number no ridge; it is infinite where that coefficient is lost.
        """
        old, new = self.original[-1], self.compressed[-1]
        natural = old.tau**2 / self.tau0 ** np.array([2, 4])
        lead = next((i for i in (0, 1) if old.alpha[i] > Tolerance.ZERO * natural[i]), None)
        if lead is not None and abs(new.alpha[lead]) < Tolerance.NO_SHARE * natural[lead]:
            return float("inf")
        factor = 1.0 if lead is None else old.alpha[lead] / new.alpha[lead]
        return float(factor * new.tau**2 - old.tau**2)

    @property
    def certificate(self) -> str:
        """In words, why not all coefficients are kept; empty if they are."""
        name, worst = max(self.relative_error.items(), key=lambda item: item[1])
        if worst < Tolerance.EXACT:
            return ""
        found = f"best found: {name} off by {worst:.3g}"
        proof = self.proof_all if self.exact else self.proof
        kept = "exact for the conjugate kernel; all coefficients: " if self.exact else ""
        if proof is not None:
            return f"{kept}impossible: {proof.text}; {found}"
        if self.objective in _FREE:
            return f"{kept}not asked for; {found}"
        return f"{kept}not found, and not proved impossible; {self.reason or found}"


def match(
    activations: Sequence[AnyActivation | str],
    tau0: float,
    levels: int | Sequence[int] | Literal["paper", "script"] = 8,
    objective: Objective = "exact",
    grid: Literal["free", "uniform"] = "free",
    strict: bool = False,
    on: Judge | None = None,
) -> Matching:
    """Replace activations by staircases that keep the coefficients of the equivalents.

    Parameters
    ----------
    activations : sequence of Activation, Quantized or names
        σ₁ … σ_L of the network, every layer centred.
    tau0 : float
        Scale of the network's input, positive.
    levels : int, sequence of int, "paper" or "script"
        Number of distinct values of each staircase, at least 2; one for all layers or one each.
        Up to 256, so many pieces are the most too. "paper": the published scheme, σ_T in every
        layer but the last, σ_Q in the last, its equations solved as far as they can be. "script":
        the last as the published script leaves it.
    objective : "exact", "ridge", "ntk", "lloyd-max" or "accuracy"
        "exact": α₁, α₂, α₃ and τ_L as they are. Every layer on its own if that can be, so that all
        coefficients stay; else the layers together; else the least relative errors found.
        "ridge": where that is not exact, α₁ : α₂ : α₃ (and β) as they are, and as little more of
        the identity as found: see :attr:`Matching.ridge_shift`.
        "ntk": staircases as of "exact", and for each a surrogate derivative, such that β₁, β₃ and κ
        of the kernel by which the network trains are the original's too, layer by layer; β₂ is then
        where α₂ is. Of activations without a jump, which have such a kernel.
        "lloyd-max": nothing is kept. Each layer has the least mean squared error that m levels can
        have, at the scale that the quantised layers before it leave: the textbook's quantiser.
        "accuracy": nothing is kept. Of the staircases tried, those with which a ridge readout is
        forecast by ``on`` to be most accurate (of values, to have the least error): Lloyd–Max
        quantisers of activations tilted towards their linear and quadratic parts, and what the
        other three objectives give.
    grid : "free" or "uniform"
        "uniform": every level is an integer of int8 times the layer's step, at most 256 levels; for
        "lloyd-max" and "accuracy" plus a constant, which centring takes off: the clipped uniform
        quantiser with the best step and ends.
    strict : bool
        Raise :class:`MatchingError` unless the demand is met to 1e-9 (for "ridge": the ratios; for
        "ntk": both kernels;
        "lloyd-max" and "accuracy" demand nothing).
    on : callable, optional
        For "accuracy", and needed for it: a function of staircases σ_1 … σ_L that returns what is
        forecast of them, by :func:`~ntklc_helpers.theory.forecast.forecast` on data, widths and
        ridge of yours. It is called some 25 times: a few hundred samples are enough, at the widths
        and the ridge that will be used.

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        If an argument is out of range, ``on`` and "accuracy" are not given together, or a moment
        of an activation does not exist.
    MatchingError
        If ``strict`` and the demand is not met.

    Notes
    -----
    A layer acts through r₁ = τ²d1²/v, r₂ = τ⁴d2²/2v, g = τ²(σ²)''/2v alone, so the staircases are
    fitted on ξ ~ N(0, 1) and scaled back. Deterministic. Derivations: the book's part on matching.

    Examples
    --------
    >>> found = nh.match(["relu"] * 3, tau0=1.0, levels=8)
    >>> found.exact, [len(set(steps.levels)) for steps in found.activations]
    (True, [8, 8, 8])
    >>> nh.match(["relu"], tau0=1.0, levels=2).proof.levels_needed
    3
    >>> quantised = nh.match(["linear"], tau0=1.0, levels=2, objective="lloyd-max")
    >>> print(np.round(quantised.activations[0].levels, 4))
    [-0.7979  0.7979]
    >>> data = nh.load_digits(classes=(3, 8), n=60, seed=0)
    >>> X = nh.normalize(data.X)
    >>> found = nh.match(
    ...     ["relu"], 1.0, 2, "accuracy", on=lambda one: nh.forecast(X, data.labels, one, [50])
    ... )
    >>> found.objective, len(found.activations[0].levels)
    ('accuracy', 2)
    """
    acts, tau0 = activation_list("activations", activations), positive("tau0", tau0)
    _check(levels, objective, grid, on)
    paper, unlimited = isinstance(levels, str), objective not in _FREE and grid == "free"
    counts = _counts(levels, len(acts), None if unlimited else CODES)
    original = propagate(acts, tau0)
    moments = tuple(layer_moments(acts, tau0))
    shares = np.stack([demanded_shares(g) for g in moments])
    proof, reason = certify(shares, counts), ""
    if paper:
        found, reason = paper_scheme(acts, moments, script=levels == "script")
    elif on is not None:
        others = [match(acts, tau0, counts, "exact", grid)]
        if not others[0].exact:
            others.append(match(acts, tau0, counts, "ridge", grid))
        tilted = partial(quantisers, acts, tau0, counts, grid == "uniform")
        found = for_accuracy(tilted, len(acts), on, [one.activations for one in others])
    elif objective == "lloyd-max":
        found = quantisers(acts, tau0, counts, grid == "uniform")
    else:
        layers = [Layer(*x, grid == "uniform") for x in zip(acts, moments, counts, strict=True)]
        ridge = sigma_t_network(moments) if objective == "ridge" else None
        found = staircases_for(layers, proof is not None, ridge)
    surrogates = _surrogates(acts, found, original) if objective == "ntk" else None
    compressed = propagate(found, tau0, surrogates)
    error = _relative_error(original[-1], compressed[-1])
    inexact = max(error.values()) > Tolerance.EXACT
    matching = Matching(
        tuple(found), tau0, str(levels) if paper else objective, original, compressed, error, proof,
        proof or (certify_all(shares, counts) if inexact else None), reason, surrogates,
    )  # fmt: skip
    met = {"exact": matching.exact, "ntk": matching.exact and matching.exact_ntk} | dict.fromkeys(
        _FREE, True
    )
    if strict and not met.get(matching.objective, matching.ratios_kept and not reason):
        raise MatchingError(matching.certificate)
    return matching


def _check(levels: Any, objective: str, grid: str, on: Any) -> None:
    one_of("objective", objective, ("exact", "ridge", "ntk", *_FREE))
    one_of("grid", grid, ("free", "uniform"))
    if isinstance(levels, str) and (objective, grid) != ("exact", "free"):
        raise ValueError(f'levels="{levels}" fixes objective and grid; leave them out')
    if callable(on) != (objective == "accuracy") or not (on is None or callable(on)):
        raise ValueError(
            'on must be a function of staircases that forecasts, for objective="accuracy" alone, '
            "which needs it: which staircases are best depends on data, widths and ridge"
        )


def _counts(levels: int | Sequence[int] | str, depth: int, most: int | None) -> list[int]:
    if isinstance(levels, str):
        one_of("levels", levels, ("paper", "script"))
        return [2] * (depth - 1) + [3]
    counts = list(levels) if isinstance(levels, Sequence | np.ndarray) else [levels] * depth
    same_length("levels", counts, "activations", depth)
    return [whole("levels", count, 2, most) for count in counts]


def _relative_error(old: LayerCoefficients, new: LayerCoefficients) -> dict[str, float]:
    size = old.tau**2 / old.tau0 ** np.array([2, 4, 4, 2, 2, 4, 4])
    before = np.concatenate([old.alpha, old.beta])
    error = np.abs(np.concatenate([new.alpha, new.beta]) - before)
    error /= np.where(np.abs(before) < Tolerance.ZERO * size, size, np.abs(before))
    names = [f"alpha{i}" for i in range(1, 5)] + [f"beta{i}" for i in range(1, 4)]
    kappa = {"kappa": abs(new.kappa / old.kappa - 1)} if any(new.surrogates) else {}
    return (
        dict(zip(names, error.tolist(), strict=True)) | {"tau": abs(new.tau / old.tau - 1)} | kappa
    )


def _surrogates(
    activations: Sequence[AnyActivation],
    staircases: Sequence[Quantized],
    original: Sequence[LayerCoefficients],
) -> tuple[Quantized, ...]:
    """One for each staircase, such that β₁, β₃ and κ are the original's layer by layer."""
    refuse_jumps("activations", activations)
    tau0, found = original[0].tau0, list[Quantized]()
    # Before the first layer, of a network without any.
    alpha, beta, kappa, tau = 1.0, np.array([1.0, 0.0, 0.0]), tau0, tau0
    moments = layer_moments(activations, tau0)
    for i, (activation, wanted, g) in enumerate(zip(activations, original, moments, strict=True)):
        some = staircases[: i + 1]
        # With a surrogate of 0 nothing of the layers before is handed on.
        bare = propagate(some, tau0, [*found, Quantized([0.0], [0.0, 0.0])])[-1]
        mean, slope = g.d1**2, g.d2**2
        # After an even activation nothing linear is left for these two to act on.
        if beta[0] * tau0**2 > Tolerance.ZERO * kappa**2:
            mean = (wanted.beta[0] - bare.beta[0]) / beta[0]
            if alpha * tau0**2 > Tolerance.ZERO * tau**2:
                slope = (wanted.beta[2] - bare.beta[2] - mean * beta[2]) / (alpha * beta[0])
        power = (wanted.kappa**2 - bare.kappa**2) / kappa**2
        target = np.array([mean, slope, power])
        found.append(surrogate_for(activation, g.tau, some[-1], tau, target))
        last = propagate(some, tau0, found)[-1]
        alpha, beta, kappa, tau = last.alpha[0], last.beta, last.kappa, last.tau
    return tuple(found)
