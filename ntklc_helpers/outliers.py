"""Isolated eigenvalues of α₁ZZᵀ + UΛUᵀ + ρI: real roots of a small determinant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import brentq

from .bulk import Bulk

FloatArray = NDArray[np.float64]


class Pencil:
    """The matrix [[Λ/α₁, I], [I, −W(z)]] of the outliers, along the real axis."""

    def __init__(self, bulk: Bulk, couplings: FloatArray, spread: FloatArray) -> None:
        self.bulk, self.couplings, self.spread = bulk, couplings, spread
        # δ at the points visited, to start from at the next.
        self.visited: dict[float, FloatArray] = {}

    def delta(self, z: float) -> FloatArray:
        if z not in self.visited:
            near = min(self.visited, key=lambda other: abs(other - z), default=None)
            there = None if near is None else self.bulk.outside(z, self.visited[near])
            if there is None:
                there = self.bulk.outside(z, self.bulk.descend(z).real)
            if there is None:
                raise RuntimeError(f"no real solution at z={z}, outside the support")
            self.visited[z] = there[0]
        return self.visited[z]

    def limit(self, z: float) -> tuple[FloatArray, FloatArray]:
        """W(z) and W'(z)."""
        bulk, delta = self.bulk, self.delta(z)
        _, psi, forcing = bulk.linearise(delta, z)
        slope = np.linalg.solve(np.eye(len(delta)) - psi, forcing)
        g = -1 / (z * (1 + delta))
        dg = g * (-1 / z - slope / (1 + delta))
        x = bulk.ratios / (1 + delta)
        F, dF = bulk.covariances.forms(x, z, -x * slope / (1 + delta))
        k, r = len(delta), len(F)
        W, dW = np.zeros((2, k + r + 1, k + r + 1))
        W[range(k), range(k)], dW[range(k), range(k)] = bulk.ratios * g, bulk.ratios * dg
        W[k:-1, k:-1], dW[k:-1, k:-1] = np.eye(r) + z * F, F + z * dF
        W[-1, -1], dW[-1, -1] = bulk.ratios * self.spread @ g, bulk.ratios * self.spread @ dg
        return W, dW

    def matrix(self, z: float) -> FloatArray:
        W, _ = self.limit(z)
        identity = np.eye(len(W))
        return np.block([[self.couplings, identity], [identity, -W]])

    def eigenvalues(self, z: float) -> FloatArray:
        return np.asarray(np.linalg.eigvalsh(self.matrix(z)), np.float64)

    def roots(self, left: float, right: float) -> list[tuple[float, FloatArray]]:
        """Roots in an interval outside the support, each with ``|uᵀj_a|²/p``."""
        a, b = self._ends(left, right)
        if a >= b:
            return []
        above, below = self.eigenvalues(a), self.eigenvalues(b)
        places = [
            brentq(lambda z, i=i: self.eigenvalues(z)[i], a, b, xtol=1e-12 * self.bulk.top)
            for i in np.flatnonzero((above > 0) & (below < 0))
        ]
        return [root for place in _groups(places, 1e-9 * self.bulk.top) for root in self._at(place)]

    def _ends(self, left: float, right: float) -> tuple[float, float]:
        """The interval, kept clear of the support and cut where no root can follow."""
        top, k = self.bulk.top, len(self.couplings)
        a, b = left + 1e-6 * top, right - 1e-6 * top
        for sign in (-1, 1):
            if np.isinf((left, right)[sign > 0]):
                end = sign * 2 * top
                # W vanishes at infinity, where as many eigenvalues are positive as negative.
                while (self.eigenvalues(end) > 0).sum() != k:
                    end *= 2
                a, b = (end, b) if sign < 0 else (a, end)
        return a, b

    def _at(self, place: list[float]) -> list[tuple[float, FloatArray]]:
        z, m = float(np.mean(place)), len(place)
        values, vectors = eigh(self.matrix(z))
        x, y = np.split(vectors[:, np.argsort(np.abs(values))[:m]], 2)
        size, basis = eigh(y.T @ self.limit(z)[1] @ y)
        x = x @ basis / np.sqrt(size)
        return [(z, x[: len(self.bulk.ratios), i] ** 2) for i in range(m)]


def _groups(places: list[float], width: float) -> list[list[float]]:
    """Numbers that lie within ``width`` of their neighbour, together."""
    groups: list[list[float]] = []
    for place in sorted(places):
        if groups and place - groups[-1][-1] <= width:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
