"""Activations with few levels that leave the kernels' equivalents as they are.

``match`` replaces every activation of a network by a staircase with m levels such that the
coefficients of the equivalents stay, proves where that cannot be, and says what is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .activations import Activation, AnyActivation, Quantized
from .certificates import Certificate, certify, certify_all
from .equivalents import LayerCoefficients, propagate
from .moments import GaussianMoments, gaussian_moments
from .quantizers import demanded_shares
from .search import CODES, ZERO, matched, published
from .validation import positive

FloatArray = NDArray[np.float64]

EXACT = 1e-9


class MatchingError(RuntimeError):
    """A demand that was not met, raised by ``match(..., strict=True)``; the message says why."""


@dataclass(frozen=True)
class Matching:
    """Staircases in place of a network's activations, and what they keep.

    Attributes
    ----------
    activations : tuple of Quantized
    tau0 : float
    objective : str
        "exact", "ridge" or "paper".
    original, compressed : tuple of LayerCoefficients
        Coefficients of the two networks, layer by layer.
    relative_error : dict
        Of α₁ … α₄, β₁ … β₃ and τ of the last layer. Relative to the original's; where that is below
        1e-6 of the natural scale (τ_L²/τ₀² for α₁, α₄ and β₁, τ_L²/τ₀⁴ for the others), relative to
        the natural scale.
    shares, compressed_shares : (L, 3) arrays
        Per layer the linear share r₁, the quadratic share r₂ and the norm gain g.
    proof : Certificate or None
        Proof that no activations with these many levels make it exact.
    proof_all : Certificate or None
        Proof that none keep all the coefficients above, α₄ and the β among them.
    reason : str
        Why a published activation was replaced; empty otherwise.
    """

    activations: tuple[Quantized, ...]
    tau0: float
    objective: str
    original: tuple[LayerCoefficients, ...]
    compressed: tuple[LayerCoefficients, ...]
    relative_error: dict[str, float]
    shares: FloatArray
    compressed_shares: FloatArray
    proof: Certificate | None
    proof_all: Certificate | None
    reason: str

    @property
    def exact(self) -> bool:
        """Whether α₁, α₂, α₃ and τ_L are the original's to 1e-9: the conjugate kernels' equivalents
        are then equal. (α₄ enters only through α₂; the β are in ``relative_error``.)"""
        return all(self.relative_error[k] < EXACT for k in ("alpha1", "alpha2", "alpha3", "tau"))

    @property
    def ridge_shift(self) -> float:
        """Δρ: how much more of the identity the compressed equivalent holds than the original.

        In units of the original's conjugate kernel: f τ_L²(compressed) − τ_L², f the factor that
        brings α₁ (α₂ where α₁ = 0) back to the original's. Whenever α₁ : α₂ : α₃ are kept,
        f K̃_compressed = K̃ + Δρ I.
        """
        old, new = self.original[-1], self.compressed[-1]
        natural = old.tau**2 / self.tau0 ** np.array([2, 4])
        lead = next((i for i in (0, 1) if old.alpha[i] > ZERO * natural[i]), None)
        factor = 1.0 if lead is None else old.alpha[lead] / new.alpha[lead]
        return float(factor * new.tau**2 - old.tau**2)

    @property
    def linear_share(self) -> FloatArray:
        """(L, 2) linear share of each layer: original, compressed."""
        return np.column_stack([self.shares[:, 0], self.compressed_shares[:, 0]])

    @property
    def quadratic_share(self) -> FloatArray:
        """(L, 2) quadratic share of each layer: original, compressed."""
        return np.column_stack([self.shares[:, 1], self.compressed_shares[:, 1]])

    @property
    def certificate(self) -> str:
        """In words, why not all coefficients are kept; empty if they are."""
        name, worst = max(self.relative_error.items(), key=lambda item: item[1])
        if worst < EXACT:
            return ""
        found = f"best found: {name} off by {worst:.3g}"
        proof = self.proof_all if self.exact else self.proof
        kept = "exact for the conjugate kernel; all coefficients: " if self.exact else ""
        if proof is not None:
            return f"{kept}impossible: {proof.text}; {found}"
        return f"{kept}not found, and not proved impossible; {self.reason or found}"


def match(
    activations: Sequence[AnyActivation],
    tau0: float,
    levels: int | Sequence[int] | Literal["paper"] = 8,
    objective: Literal["exact", "ridge"] = "exact",
    grid: Literal["free", "uniform"] = "free",
    strict: bool = False,
) -> Matching:
    """Replace activations by staircases that keep the coefficients of the equivalents.

    Parameters
    ----------
    activations : sequence of Activation or Quantized
        σ₁ … σ_L of the network, every layer centred.
    tau0 : float
        Scale of the network's input, positive.
    levels : int, sequence of int, or "paper"
        Number of distinct values of each staircase, at least 2; one for all layers or one each.
        "paper": σ_T in every layer but the last, σ_Q in the last.
    objective : "exact" or "ridge"
        "exact": α₁, α₂, α₃ and τ_L as they are. Every layer on its own if that can be, so that all
        coefficients stay; else the layers together; else the least relative errors found.
        "ridge": where that is not exact, α₁ : α₂ : α₃ (and β) as they are, and as little more of
        the identity as found: see :attr:`Matching.ridge_shift`.
    grid : "free" or "uniform"
        "uniform": every level is an integer of int8 times the layer's step, at most 256 levels.
    strict : bool
        Raise :class:`MatchingError` unless the demand is met to 1e-9 (for "ridge": the ratios).

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        If an argument is out of range, or a moment of an activation does not exist.
    MatchingError
        If ``strict`` and the demand is not met.

    Notes
    -----
    A layer acts through r₁ = τ²d1²/v, r₂ = τ⁴d2²/2v, g = τ²(σ²)''/2v alone, so the staircases are
    fitted on ξ ~ N(0, 1) and scaled back. Deterministic. Derivations: the book's part on matching.
    """
    acts, tau0 = _layers(activations), positive("tau0", tau0)
    _one_of("objective", objective, ("exact", "ridge"))
    _one_of("grid", grid, ("free", "uniform"))
    original = propagate(acts, tau0)
    moments = _moments(acts, original)
    shares = np.stack([demanded_shares(g) for g in moments])
    reason, demand = "", str(objective)
    if isinstance(levels, str):
        _one_of("levels", levels, ("paper",))
        if (objective, grid) != ("exact", "free"):
            raise ValueError('levels="paper" fixes objective and grid; leave them out')
        demand = "paper"
        counts = [2] * (len(acts) - 1) + [3]
        proof = certify(shares, counts)
        found, reason = published(acts, moments)
    else:
        counts = _counts(levels, len(acts), grid)
        proof = certify(shares, counts)
        uniform, ridge = grid == "uniform", objective == "ridge"
        found = matched(acts, moments, counts, uniform, ridge, hopeless=proof is not None)
    compressed = propagate(found, tau0)
    error = _relative_error(original[-1], compressed[-1])
    proof_all = proof or (certify_all(shares, counts) if max(error.values()) > EXACT else None)
    out = Matching(
        activations=tuple(found),
        tau0=tau0,
        objective=demand,
        original=original,
        compressed=compressed,
        relative_error=error,
        shares=_share_table(moments),
        compressed_shares=_share_table(_moments(found, compressed)),
        proof=proof,
        proof_all=proof_all,
        reason=reason,
    )
    if strict and not _met(out):
        raise MatchingError(out.certificate)
    return out


def _layers(activations: Sequence[AnyActivation]) -> list[AnyActivation]:
    acts = list(activations) if isinstance(activations, Sequence) else None
    if not acts or not all(isinstance(a, Activation | Quantized) for a in acts):
        raise ValueError("activations must be a sequence of at least one Activation or Quantized")
    return acts


def _one_of(argument: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"{argument} must be one of {known}, got {value!r}")


def _counts(levels: int | Sequence[int], depth: int, grid: str) -> list[int]:
    counts = list(levels) if isinstance(levels, Sequence | np.ndarray) else [levels] * depth
    if len(counts) != depth:
        raise ValueError(f"levels must be one count or {depth}, one per layer; got {len(counts)}")
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 2:
            raise ValueError(f"levels must be whole numbers of at least 2, got {count!r}")
        if grid == "uniform" and count > CODES:
            raise ValueError(f"levels on a uniform grid must be at most {CODES}, got {count}")
    return [int(count) for count in counts]


def _moments(
    activations: Sequence[AnyActivation], layers: Sequence[LayerCoefficients]
) -> list[GaussianMoments]:
    scales = [layers[0].tau0, *(layer.tau for layer in layers[:-1])]
    return [gaussian_moments(a, t) for a, t in zip(activations, scales, strict=True)]


def _share_table(moments: Sequence[GaussianMoments]) -> FloatArray:
    return np.array([[g.linear_share, g.quadratic_share, g.norm_gain] for g in moments])


def _relative_error(old: LayerCoefficients, new: LayerCoefficients) -> dict[str, float]:
    size = old.tau**2 / old.tau0 ** np.array([2, 4, 4, 2, 2, 4, 4])
    before = np.concatenate([old.alpha, old.beta])
    error = np.abs(np.concatenate([new.alpha, new.beta]) - before)
    error /= np.where(np.abs(before) < ZERO * size, size, np.abs(before))
    names = [f"alpha{i}" for i in range(1, 5)] + [f"beta{i}" for i in range(1, 4)]
    out = dict(zip(names, error.tolist(), strict=True))
    return out | {"tau": abs(new.tau / old.tau - 1)}


def _met(matching: Matching) -> bool:
    if matching.objective == "exact":
        return matching.exact
    errors = [matching.relative_error[f"alpha{i}"] for i in (1, 2, 3)]
    return max(errors) < EXACT and not matching.reason
