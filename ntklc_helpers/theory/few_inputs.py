"""Kernels of hidden layers whose neurons have few inputs, as those of narrow, sparse networks.

A sum of a dozen terms is not Gaussian. The mean kernel of a layer is then another function of the
angle between two samples and of their lengths than in the infinite network. The difference is
measured on neurons of its own, for samples on three circles.

Part of it is what single neurons of the layer before hand on. For weights w of excess kurtosis κ
and d inputs f_k, √d E_w w_k σ(Σ_j w_j f_j/√d) is E σ^(1) f_k + κ/(6d) E σ^(3) f_k³ + …, not only
linear in f_k. Where a readout is short of those neurons, that part shrinks as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from .._checks import FloatArray
from .activations import AnyActivation
from .hermite import coefficients
from .weights import Law

# Fourth moment of a weight per input from which on a sum counts as one of few terms.
_FEW = 0.03
# Angles on a circle, even; neurons drawn; and how many of these are worked on at once.
_ANGLES, _NEURONS, _CHUNK = 32, 20_000, 250
# Lengths that differ by less are one.
_ALIKE = 1.02
# Points of the table that is read at an entry's angle.
_FINE = 1025


@frozen(eq=False)
class KernelShift:
    """A function of the angle between two samples, and of their lengths.

    ``table`` (R, R, 1025) has it for samples of lengths ``lengths`` (R,), at angles from 0 to π.
    """

    lengths: FloatArray
    table: FloatArray

    def between(self, left: FloatArray, right: FloatArray, angle: FloatArray) -> FloatArray:
        """For samples of lengths left (n,) and right (m,) at angles (n, m), none with itself."""
        at = np.rint(angle * ((_FINE - 1) / np.pi)).astype(np.int32)
        total = np.zeros(angle.shape)
        for row, before in zip(self.table, self._shares(left), strict=True):
            for values, behind in zip(row, self._shares(right), strict=True):
                total += np.outer(before, behind) * values[at]
        return total

    def itself(self, lengths: FloatArray) -> FloatArray:
        """For a sample of each of these lengths (n,) with itself."""
        # At angle 0 a kernel may have a cusp where lengths are equal: those alone are looked at.
        return np.asarray(np.einsum("an,aa->n", self._shares(lengths), self.table[:, :, 0]))

    def _shares(self, lengths: FloatArray) -> FloatArray:
        """Lagrange's polynomials in the logarithm, no further than the outermost lengths."""
        nodes = np.log(self.lengths)
        at = np.log(np.clip(lengths, self.lengths[0], self.lengths[-1]))
        found = np.ones((len(nodes), len(at)))
        for one, row in zip(nodes, found, strict=True):
            for other in nodes[nodes != one]:
                row *= (at - other) / (one - other)
        return found


@frozen(eq=False)
class FewInputs:
    """What few inputs add to a layer's kernel, beyond what is linear in the layer before.

    ``single`` is what single neurons of the layer before hand on, as they do what is linear;
    ``rest`` is all other.
    """

    single: KernelShift
    rest: KernelShift


def kernel_shifts(
    activations: Sequence[AnyActivation],
    widths: Sequence[float],
    laws: Sequence[Law],
    lengths: FloatArray,
    limit: Callable[[FloatArray, NDArray[np.intp]], Iterable[Any]],
    seed: int = 0,
) -> list[FewInputs | None]:
    """The shifts of each layer; None for the first, and for layers whose inputs are not few.

    Inputs are few where a weight's fourth moment is at least 0.03 of their number: fewer than 100
    of Gaussian weights, fewer than 33 that are not 0 of ternary ones.

    Parameters
    ----------
    activations : sequence of Activation or Quantized
        σ_1 … σ_L.
    widths : sequence of numbers
        d_1 … d_L, of which the last does not matter.
    laws : sequence of Law
        Of W_1 … W_L, of variance 1. The first layer's neurons are taken to be Gaussian.
    lengths : (n,) array
        Norms of samples, which the result will be asked for.
    limit : callable
        Of samples (n, p) and of the rows to be columns: the layers of the infinite network on them,
        as :func:`~ntklc_helpers.theory.infinite.layer_kernels` makes them.
    seed : int
        Of the neurons.

    Notes
    -----
    Neurons of layer ℓ sum d_{ℓ−1} of a population of neurons of the layer before. 20,000 of them,
    averaged around the circle and with the mean of u_i u_j, which is known, as a control variate,
    give an entry to half a percent of the diagonal, and in a proportion that is nearly the same for
    all. The population is that of networks averaged over, so that what the neurons of one network
    share is in it as well.

    Examples
    --------
    >>> from ntklc_helpers.theory.few_inputs import kernel_shifts
    >>> from ntklc_helpers.theory.infinite import layer_kernels
    >>> relu, laws = [nh.activation("relu")] * 2, [nh.theory.Ternary(0.9)] * 2
    >>> limit = lambda X, columns: layer_kernels(X, relu, 1.0, columns)
    >>> first, second = kernel_shifts(relu, [50, 50], laws, np.ones(3), limit)
    >>> first is None, bool(second.rest.itself(np.ones(1))[0] > 0)
    (True, True)
    """
    inputs_of = list(zip(laws[1:], widths, strict=False))
    fourth = [_fourth(law, d, seed) for law, d in inputs_of]
    few = [moment >= _FEW * d for moment, (_, d) in zip(fourth, inputs_of, strict=True)]
    found: list[FewInputs | None] = [None] * len(activations)
    if not any(few):
        return found
    nodes = _nodes(lengths)
    turn = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    rings = np.concatenate([length * circle for length in nodes])
    columns = np.arange(len(nodes)) * _ANGLES
    rng = np.random.default_rng(seed)
    neurons, root = np.empty(0), rings.T
    known, apart = np.empty(0), np.empty(0)
    for i, layer in enumerate(limit(rings, columns)):
        infinite = layer.kernel.reshape(len(nodes), _ANGLES, -1).transpose(0, 2, 1)
        gain = layer.gain[columns]
        linear = np.multiply.outer(gain, gain)[..., None]
        if i and few[i - 1]:
            width = int(widths[i - 1])
            inputs = _sums(neurons, laws[i], width, seed + i, rng)
            bend = (fourth[i - 1] - 3) / (6 * width)
            single = _single(activations[i], neurons, bend, known, gain)
            neurons = activations[i](inputs) - layer.centre
            known = _mean_kernel(neurons, inputs, known, len(nodes))
            rest = known - infinite - linear * apart - single
            found[i] = FewInputs(*(KernelShift(nodes, _fine(one)) for one in (single, rest)))
            apart = known - infinite
        else:
            inputs = rng.standard_normal((_NEURONS, len(root))) @ root
            neurons = activations[i](inputs) - layer.centre
            # What is apart before passes through the linear part.
            apart = linear * apart if i else np.zeros_like(infinite)
            known = infinite + apart
        root = _root(neurons)
    return found


def _fourth(law: Law, d: float, seed: int) -> float:
    """Fourth moment of a weight."""
    return float(np.mean(law.draw((200, int(min(d, 1000))), seed, 2) ** 4.0))


def _nodes(lengths: FloatArray) -> FloatArray:
    """One length, or three, between which those of nearly all samples lie."""
    positive = lengths[lengths > 0]
    low, high = np.quantile(positive, [0.02, 0.98]) if len(positive) else (1.0, 1.0)
    if high < _ALIKE * low:
        return np.array([np.sqrt(low * high)])
    return np.geomspace(low, high, 3)


def _sums(
    population: FloatArray, law: Law, d: int, seed: int, rng: np.random.Generator
) -> FloatArray:
    """Inputs of as many neurons, each of d of the population by weights of its own."""
    found = np.empty_like(population)
    for start in range(0, len(found), _CHUNK):
        weights = law.draw((_CHUNK, d), seed, start + 2)
        # Of a neuron without inputs the sum would be that of its neighbour.
        weights[~weights.any(axis=1), 0] = np.finfo(np.float32).tiny
        of, where = np.nonzero(weights)
        chosen = population[rng.integers(0, len(population), len(of))]
        chosen *= weights[of, where, None] / np.sqrt(d)
        first = np.searchsorted(of, np.arange(_CHUNK))
        found[start : start + _CHUNK] = np.add.reduceat(chosen, first, axis=0)
    return found


def _root(neurons: FloatArray) -> FloatArray:
    """What standard normal numbers are multiplied by for the neurons' covariance."""
    size, axes = np.linalg.eigh(neurons.T @ neurons / len(neurons))
    return np.asarray((axes * np.sqrt(np.maximum(size, 0))).T)


def _single(
    activation: AnyActivation, neurons: FloatArray, bend: float, known: FloatArray, gain: FloatArray
) -> FloatArray:
    """Mean (R, R, A) of what single neurons, of kernel ``known``, hand on beyond ``gain`` (R,)."""
    scale = np.sqrt(known[..., 0].diagonal())
    c, _, _ = coefficients(activation, scale, 3)
    f = neurons.reshape(len(neurons), len(gain), _ANGLES)
    slope, third = c[1] / scale, bend * 6**0.5 * c[3] / scale**3
    handed = slope[:, None] * f + third[:, None] * f**3
    single = np.empty_like(known)
    for a, b in combinations_with_replacement(range(len(gain)), 2):
        off = _around(handed[:, a], handed[:, b]) - gain[a] * gain[b] * _around(f[:, a], f[:, b])
        single[a, b] = single[b, a] = off.mean(axis=0)
    return _both_ways(single)


def _mean_kernel(
    neurons: FloatArray, inputs: FloatArray, known: FloatArray, rings: int
) -> FloatArray:
    """Mean (R, R, A) of the neurons' products, given that of their inputs' is ``known``; the same
    in both directions.
    """
    after, before = (values.reshape(len(values), rings, _ANGLES) for values in (neurons, inputs))
    mean = np.empty_like(known)
    for a, b in combinations_with_replacement(range(rings), 2):
        y, x = _around(after[:, a], after[:, b]), _around(before[:, a], before[:, b])
        off = x - x.mean(axis=0)
        slope = np.einsum("ij,ij->j", off, y) / np.einsum("ij,ij->j", off, off)
        mean[a, b] = mean[b, a] = y.mean(axis=0) - slope * (x.mean(axis=0) - known[a, b])
    return _both_ways(mean)


def _around(left: FloatArray, right: FloatArray) -> FloatArray:
    """Products (J, A) of values (J, A) around two circles, by angle, averaged around them."""
    product = np.fft.rfft(left, axis=1) * np.fft.rfft(right, axis=1).conj()
    return np.asarray(np.fft.irfft(product, n=_ANGLES, axis=1)) / _ANGLES


def _both_ways(values: FloatArray) -> FloatArray:
    return (values + values[..., -np.arange(_ANGLES)]) / 2


def _fine(values: FloatArray) -> FloatArray:
    """From the whole circle to a fine table from 0 to π."""
    half = _ANGLES // 2 + 1
    spline = CubicSpline(np.linspace(0, np.pi, half), values[..., :half], axis=-1)
    return np.asarray(spline(np.linspace(0, np.pi, _FINE)))
