"""Limiting spectrum of ZZᵀ for rows z_i ~ N(0, C_a/p), by its resolvent Q = (ZZᵀ − z)⁻¹.

With r_a = n_a/p, δ(z) solves δ_a = tr(C_a Q̃)/p, Q̃(z) = (Σ_b r_b C_b/(1 + δ_b) − zI)⁻¹, and the
resolvent's diagonal is g_a = −1/(z(1 + δ_a)) in class a.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from scipy.fft import dct

from ..data.mixture import GaussianMixture

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[Any]  # complex, and real where z is

_CONVERGED = 1e-12
_ABOVE_AXIS = 1e-9
# A class whose covariance is this much smaller than another's counts as constant rows: its interval
# would fall between the nodes of the grid.
_NEGLIGIBLE = 5e-5


@frozen(eq=False, slots=False)
class Commuting:
    """Covariances that share eigenvectors: ``values`` (K, p), and ``directions`` L (p, r) there."""

    values: FloatArray
    directions: FloatArray

    nodes = 128

    @cached_property
    def norms(self) -> FloatArray:
        return self.values.max(axis=1)

    def traces(self, x: ComplexArray, z: complex) -> tuple[ComplexArray, ComplexArray]:
        """tr(C_a Q̃)/p (K,) and tr(C_a Q̃ D_b Q̃)/p (K, K + 1), for D = C_1 … C_K, I.

        Q̃ = (Σ_b x_b C_b − zI)⁻¹.
        """
        p = self.values.shape[1]
        weighted = self.values / (x @ self.values - z)
        others = np.vstack([weighted, 1 / (x @ self.values - z)])
        return weighted.sum(axis=1) / p, weighted @ others.T / p

    def forms(
        self, x: ComplexArray, z: complex, y: ComplexArray
    ) -> tuple[ComplexArray, ComplexArray]:
        """LᵀQ̃L and LᵀQ̃(I − Σ_b y_b C_b)Q̃L for the given directions L (p, r)."""
        q = 1 / (x @ self.values - z)
        L = self.directions
        return (L.T * q) @ L, (L.T * (q * q * (1 - y @ self.values))) @ L


@frozen(eq=False, slots=False)
class General:
    """As :class:`Commuting`, for any ``matrices`` (K, p, p): each evaluation inverts one."""

    matrices: FloatArray
    directions: FloatArray

    nodes = 40

    @cached_property
    def norms(self) -> FloatArray:
        return np.array([np.linalg.eigvalsh(C)[-1] for C in self.matrices])

    def _resolvent(self, x: ComplexArray, z: complex) -> ComplexArray:
        total = np.tensordot(x, self.matrices, 1)
        total[np.diag_indices_from(total)] -= z
        return np.linalg.inv(total)

    def traces(self, x: ComplexArray, z: complex) -> tuple[ComplexArray, ComplexArray]:
        Q = self._resolvent(x, z)
        p = len(Q)
        # Two real products are half the work of a complex one by a real matrix.
        real = np.isrealobj(Q)
        times = [C @ Q if real else C @ Q.real + 1j * (C @ Q.imag) for C in self.matrices]
        products = [*times, Q]
        first = np.array([np.trace(product) for product in products[:-1]]) / p
        second = [[np.sum(a * b.T) for b in products] for a in products[:-1]]
        return first, np.array(second) / p

    def forms(
        self, x: ComplexArray, z: complex, y: ComplexArray
    ) -> tuple[ComplexArray, ComplexArray]:
        QL = self._resolvent(x, z) @ self.directions
        middle = QL - np.tensordot(y, self.matrices, 1) @ QL
        return self.directions.T @ QL, QL.T @ middle


def covariances(mixture: GaussianMixture, directions: FloatArray) -> Commuting | General:
    """The mixture's covariances, by their common eigenvectors where they have them."""
    C = mixture.covariances
    sizes = np.linalg.norm(C, axis=(1, 2))
    C = np.where((sizes > _NEGLIGIBLE * sizes.max())[:, None, None], C, 0.0)
    # A combination without coincidences has no eigenvectors but the common ones.
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(C))
    _, basis = np.linalg.eigh(np.tensordot(weights, C, 1))
    rotated = basis.T @ C @ basis
    values = np.diagonal(rotated, axis1=1, axis2=2)
    rest = rotated - values[..., None] * np.eye(C.shape[1])
    if (np.linalg.norm(rest, axis=(1, 2)) <= 1e-10 * sizes).all():
        return Commuting(values.clip(0), basis.T @ directions)
    return General(C, directions)


@frozen(eq=False, slots=False)
class Bulk:
    """The limiting law of ZZᵀ; ``ratios`` (K,) are the n_a/p."""

    covariances: Commuting | General
    ratios: FloatArray

    @property
    def norm(self) -> float:
        return float(self.covariances.norms.max())

    @property
    def random(self) -> NDArray[np.bool_]:
        """Whose covariance is not zero; the others have δ_a = 0 everywhere."""
        return self.covariances.norms > 0

    @cached_property
    def top(self) -> float:
        """An upper bound of the support."""
        return self.norm * (1 + float(np.sqrt(self.ratios.sum()))) ** 2

    def linearise(
        self, delta: ComplexArray, z: complex
    ) -> tuple[ComplexArray, ComplexArray, ComplexArray]:
        """The map δ → tr(C_a Q̃)/p at δ, its Jacobian Ψ in δ, and its derivative in z."""
        first, second = self.covariances.traces(self.ratios / (1 + delta), z)
        return first, second[:, :-1] * (self.ratios / (1 + delta) ** 2), second[:, -1]

    def _newton(
        self, delta: ComplexArray, z: complex
    ) -> tuple[ComplexArray, ComplexArray, ComplexArray]:
        """Newton's next point towards δ(z), and the map's value and Jacobian at ``delta``."""
        image, psi, _ = self.linearise(delta, z)
        return delta - np.linalg.solve(np.eye(len(delta)) - psi, delta - image), image, psi

    def above(self, z: complex, delta: ComplexArray) -> ComplexArray:
        """δ(z) for Im z > 0, by Newton's method from a nearby solution ``delta``.

        Where Newton's step would leave the upper half-plane, in which the solution is unique, a
        damped step of the fixed-point iteration is taken, which cannot.
        """
        for _ in range(1000):
            new, image, _ = self._newton(delta, z)
            if not (new.imag[self.random] > 0).all():
                new = (delta + image) / 2
            if (np.abs(new - delta) <= _CONVERGED * (1 + np.abs(new))).all():
                return new
            delta = new
        raise RuntimeError(f"the limiting resolvent did not converge at z={z}")

    def descend(self, x: float) -> ComplexArray:
        """δ just above the real point x, followed down from far above."""
        delta = np.full(len(self.ratios), 1j * self.norm / self.top)
        for height in self.top * 10.0 ** -np.arange(0, 10):
            delta = self.above(x + 1j * height, delta)
        return delta

    def outside(self, z: float, delta: FloatArray) -> tuple[FloatArray, float] | None:
        """δ(z) for z real and outside the support, from a nearby ``delta``; None if inside.

        Also the spectral radius of Ψ there. A real solution is the right one if and only if that
        is below 1; it is 1 at an edge of the support.
        """
        for _ in range(15):
            new, _, psi = self._newton(delta, z)
            if not np.isfinite(new).all():
                return None
            if (np.abs(new - delta) <= _CONVERGED * (1 + np.abs(new))).all():
                radius = float(np.abs(np.linalg.eigvals(psi)).max())
                return (new, radius) if radius < 1 else None
            delta = new
        return None

    def support(self) -> list[tuple[float, float]]:
        """Intervals of the continuous part, ascending.

        Gaps are looked for on a grid, finer towards 0, and their ends then found exactly.
        """
        nodes = self.covariances.nodes
        even, small = np.linspace(0, 1.02, 2 * nodes)[1:] ** 2, np.logspace(-8, 0, nodes // 2)
        grid = self.top * np.union1d(even, small)[::-1]
        delta, found = self.descend(grid[0]), []
        for x in grid:
            delta = self.above(x * (1 + 1e-3j), delta)
            # Outside, Im δ is of the order of the height above the axis, or its root at an edge.
            near_real = (delta.imag <= 0.2 * np.abs(delta)).all()
            found.append((x, self.outside(x, delta.real) if near_real else None))
        edges = [
            self._edge(a, real, b) if real else self._edge(b, next_real, a)
            for (a, real), (b, next_real) in pairwise(found)
            if (real is None) != (next_real is None)
        ]
        if len(edges) % 2:
            edges.append(0.0)
        return [(edges[i + 1], edges[i]) for i in range(0, len(edges), 2)][::-1]

    def _edge(self, a: float, start: Any, b: float) -> float:
        """The edge between ``a`` outside the support, its solution known, and ``b`` inside.

        There (1 − radius of Ψ)² vanishes to first order, which a secant from outside finds.
        """
        (delta, radius), edge = start, (a + b) / 2
        gap = (1 - radius) ** 2
        for _ in range(200):
            aim = a + 0.9 * (edge - a)
            there = self.outside(aim, delta)
            if there is None:
                b, edge = aim, (a + aim) / 2
                continue
            (delta, radius), before, gap_before = there, a, gap
            a, gap = aim, (1 - radius) ** 2
            if gap != gap_before:
                edge = a - gap * (a - before) / (gap - gap_before)
            if gap < 1e-6 or abs(edge - a) < 1e-12 * self.top:
                return float(edge)
            if not min(a, b) < edge < max(a, b):
                edge = (a + b) / 2
        raise RuntimeError(f"the edge of the support near {a} was not found")

    def mass(self, left: float, right: float) -> FloatArray:
        """Density on an interval of the support, times dx/dθ, for x = middle − half-width · cos θ.

        As coefficients of a cosine series in θ: a square-root edge, or the inverse square root of
        a hard edge at 0, is smooth in θ.
        """
        nodes = self.covariances.nodes
        middle, half = (left + right) / 2, (right - left) / 2
        theta = (np.arange(nodes) + 0.5) * np.pi / nodes
        x, sine = middle - half * np.cos(theta), np.sin(theta)
        density, start = np.empty(nodes), self.descend(x[nodes // 2])
        for order in (range(nodes // 2, nodes), range(nodes // 2 - 1, -1, -1)):
            delta = start
            for i in order:
                z = x[i] + 1j * _ABOVE_AXIS * self.top
                delta = self.above(z, delta)
                g = -1 / (z * (1 + delta))
                density[i] = (self.ratios @ g).imag / self.ratios.sum() / np.pi
        series = dct(density * half * sine, type=2) / nodes
        series[0] /= 2
        return series

    def mass_below(self) -> float:
        """∫ z/(x + z) dF(x) at a z near 0: the mass at 0, and hardly more."""
        before = delta = self.descend(-self.top).real
        for z in -self.top * 10.0 ** -np.arange(0.0, 8.0):
            # δ grows as a power of 1/z, or not at all.
            there = self.outside(z, delta * (delta / np.where(self.random, before, 1)))
            if there is None:
                raise RuntimeError(f"the limiting resolvent did not converge at z={z}")
            before, delta = delta, there[0]
        return float(self.ratios @ (1 / (1 + delta)) / self.ratios.sum())
