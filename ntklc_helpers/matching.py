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
from .certificates import Certificate, certify
from .equivalents import LayerCoefficients, propagate
from .fitting import (
    fit_layer,
    fit_network,
    fit_network_up_to_scale,
    network_shares,
    network_starts,
)
from .moments import GaussianMoments, gaussian_moments
from .published import sigma_q_solution, sigma_t_solutions
from .quantizers import SOLVED, Staircase, demanded_shares
from .validation import positive

FloatArray = NDArray[np.float64]

EXACT = 1e-9
# Coefficients smaller than this part of their natural scale count as 0.
_ZERO = 1e-6
_CODES = 256
# Of (α̂₁, α̂₂, α̂₃, α̂₄, β̂₂, β̂₃): all; what enters a kernel; what enters the conjugate kernel.
_DEMANDS = ([0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2])


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
        lead = next((i for i in (0, 1) if old.alpha[i] > _ZERO * natural[i]), None)
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
        """In words, why the match is not exact; empty if it is."""
        if self.exact:
            return ""
        name, worst = max(self.relative_error.items(), key=lambda item: item[1])
        found = f"best found: {name} off by {worst:.3g}"
        if self.proof is not None:
            return f"impossible: {self.proof.text}; {found}"
        return f"not found, and not proved impossible; {self.reason or found}"


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
    reason = ""
    if isinstance(levels, str):
        _one_of("levels", levels, ("paper",))
        if (objective, grid) != ("exact", "free"):
            raise ValueError('levels="paper" fixes objective and grid; leave them out')
        objective = "paper"
        proof = certify(shares, [2] * (len(acts) - 1) + [3])
        found, reason = _published(acts, moments)
    else:
        counts = _counts(levels, len(acts), grid)
        proof = certify(shares, counts)
        uniform, ridge = grid == "uniform", objective == "ridge"
        found = _fitted(acts, moments, counts, uniform, ridge, hopeless=proof is not None)
    compressed = propagate(found, tau0)
    out = Matching(
        activations=tuple(found),
        tau0=tau0,
        objective=objective,
        original=original,
        compressed=compressed,
        relative_error=_relative_error(original[-1], compressed[-1]),
        shares=_share_table(moments),
        compressed_shares=_share_table(_moments(found, compressed)),
        proof=proof,
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
        if grid == "uniform" and count > _CODES:
            raise ValueError(f"levels on a uniform grid must be at most {_CODES}, got {count}")
    return [int(count) for count in counts]


def _moments(
    activations: Sequence[AnyActivation], layers: Sequence[LayerCoefficients]
) -> list[GaussianMoments]:
    scales = [layers[0].tau0, *(layer.tau for layer in layers[:-1])]
    return [gaussian_moments(a, t) for a, t in zip(activations, scales, strict=True)]


def _share_table(moments: Sequence[GaussianMoments]) -> FloatArray:
    return np.array([[g.linear_share, g.quadratic_share, g.norm_gain] for g in moments])


def _fitted(
    acts: Sequence[AnyActivation],
    moments: Sequence[GaussianMoments],
    counts: Sequence[int],
    uniform: bool,
    ridge: bool,
    hopeless: bool,
) -> list[Quantized]:
    """Layer by layer if that is exact, else all layers together."""
    fits = [fit_layer(a, g, m, uniform) for a, g, m in zip(acts, moments, counts, strict=True)]
    stairs, part = [stair for stair, _ in fits], 1.0
    if max(residual for _, residual in fits) > SOLVED:
        others = [] if hopeless else network_starts(acts, moments, counts, uniform)
        stairs, part = _fitted_together([stairs, *others], moments, ridge, hopeless)
    return _scaled(stairs, moments, part)


def _fitted_together(
    candidates: list[list[Staircase]],
    moments: Sequence[GaussianMoments],
    ridge: bool,
    hopeless: bool,
) -> tuple[list[Staircase], float]:
    """Layers that make up for each other; and the part of α̂₁, α̂₂, α̂₃ that is kept."""
    target = network_shares([demanded_shares(g) for g in moments])
    scale = np.where(np.abs(target) < _ZERO, 1.0, np.abs(target))
    tried = []
    for stairs in candidates:
        for rows in _DEMANDS[:1] if hopeless else _DEMANDS:
            stairs, residual = fit_network(stairs, target, scale, rows)
            if residual < SOLVED:
                return stairs, 1.0
            if rows == _DEMANDS[0]:
                tried.append((residual, stairs))
    nearest = min(tried, key=lambda pair: pair[0])[1]
    if not ridge:
        return nearest, 1.0
    chain = _sigma_t_stairs(moments)
    starts = [stairs for _, stairs in tried] + ([] if chain is None else [chain])
    parts = [fit_network_up_to_scale(start, target, scale, _DEMANDS[1]) for start in starts]
    solved = [(part, stairs) for stairs, part, residual in parts if residual < SOLVED]
    if not solved:
        return nearest, 1.0
    part, stairs = max(solved, key=lambda pair: pair[0])
    return stairs, part


def _sigma_t_stairs(moments: Sequence[GaussianMoments]) -> list[Staircase] | None:
    """The chain of σ_T: it keeps the ratios whenever it exists, though at a large Δρ."""
    stairs = []
    tau = moments[0].tau
    for g in moments:
        solution = next(iter(sigma_t_solutions(g, tau)), None)
        if solution is None:
            return None
        x = np.array(solution.thresholds) / tau
        stairs.append(Staircase(x, np.array([1, 0, 1]), np.array([0.0, solution.levels[0]])))
        tau = float(np.sqrt(gaussian_moments(solution, tau).variance))
    return stairs


def _scaled(
    stairs: Sequence[Staircase], moments: Sequence[GaussianMoments], part: float
) -> list[Quantized]:
    """As activations with the original's means and variances; the last variance over ``part``."""
    variances = [g.variance for g in moments]
    variances[-1] /= part
    return [
        stair.activation(g.tau, g.mean, v)
        for stair, g, v in zip(stairs, moments, variances, strict=True)
    ]


def _published(
    acts: Sequence[AnyActivation], moments: Sequence[GaussianMoments]
) -> tuple[list[Quantized], str]:
    """σ_T, …, σ_T, σ_Q, each at the scale the layers before it leave; and what is missing."""
    found: list[Quantized] = []
    missing: list[str] = []
    tau = moments[0].tau
    for layer, (activation, g) in enumerate(zip(acts, moments, strict=True), start=1):
        if layer < len(acts):
            name, m, step = "sigma_t", 2, next(iter(sigma_t_solutions(g, tau)), None)
        else:
            name, m, step = "sigma_q", 3, sigma_q_solution(activation, g, tau)
        if step is None:
            missing.append(f"no {name} with the d1², d2² and (σ²)'' of layer {layer}")
            step = fit_layer(activation, g, m, False)[0].activation(tau, g.mean, g.variance)
        found.append(step)
        tau = float(np.sqrt(gaussian_moments(step, tau).variance))
    return found, "; ".join(missing)


def _relative_error(old: LayerCoefficients, new: LayerCoefficients) -> dict[str, float]:
    size = old.tau**2 / old.tau0 ** np.array([2, 4, 4, 2, 2, 4, 4])
    before = np.concatenate([old.alpha, old.beta])
    error = np.abs(np.concatenate([new.alpha, new.beta]) - before)
    error /= np.where(np.abs(before) < _ZERO * size, size, np.abs(before))
    names = [f"alpha{i}" for i in range(1, 5)] + [f"beta{i}" for i in range(1, 4)]
    out = dict(zip(names, error.tolist(), strict=True))
    return out | {"tau": abs(new.tau / old.tau - 1)}


def _met(matching: Matching) -> bool:
    if matching.objective == "exact":
        return matching.exact
    errors = [matching.relative_error[f"alpha{i}"] for i in (1, 2, 3)]
    return max(errors) < EXACT and not matching.reason
