"""Laws of the random weights: to add one, write a class with ``draw``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from attrs import Attribute, evolve, field, frozen
from attrs.validators import gt
from numpy.typing import NDArray
from torch.nn.utils import prune

from .._checks import checked, number, one_of, share, whole

Shape = tuple[int, int]
Weights = NDArray[np.floating]

_BITS = 31


class Law(ABC):
    """How weights are drawn; the seed and the layer fix a draw, and layer L + 1 is the readout."""

    # Of the weights of a layer; and what its kept weights are multiplied by, gradients too.
    variance = 1.0
    gain = 1.0

    def layers(self, n_layers: int) -> tuple[Law, ...]:
        """The laws of W_1 … W_L and of the readout."""
        return (self,) * (n_layers + 1)

    @abstractmethod
    def draw(self, shape: Shape, seed: int, layer: int) -> Weights:
        """The weights W_ℓ of a hidden layer, of mean 0."""

    def draw_readout(self, width: int, seed: int, layer: int) -> Weights:
        """The weights (width,) of the scalar output: standard Gaussian."""
        return np.random.default_rng([seed, layer]).standard_normal(width)

    def mask(self, shape: Shape, seed: int, layer: int) -> NDArray[np.bool_] | None:
        """Where weights are kept and trained; None if everywhere."""
        return None


@frozen
class Gaussian(Law):
    """Standard Gaussian weights.

    Examples
    --------
    >>> nh.theory.Gaussian().draw((2, 3), seed=0, layer=1).shape
    (2, 3)
    """

    excess_kurtosis = 0.0

    def draw(self, shape: Shape, seed: int, layer: int) -> Weights:
        return np.random.default_rng([seed, layer]).standard_normal(shape, dtype=np.float32)


@frozen
class StudentT(Law):
    """Student's t, scaled to variance 1. Raises ValueError unless it has one.

    Examples
    --------
    >>> nh.theory.StudentT(degrees_of_freedom=10).excess_kurtosis
    1.0
    """

    degrees_of_freedom: float = checked(number, 5.0, validator=gt(2))

    @property
    def excess_kurtosis(self) -> float:
        """E w⁴ − 3, infinite up to 4 degrees of freedom."""
        return 6 / (self.degrees_of_freedom - 4) if self.degrees_of_freedom > 4 else np.inf

    def draw(self, shape: Shape, seed: int, layer: int) -> Weights:
        df = self.degrees_of_freedom
        return np.random.default_rng([seed, layer]).standard_t(df, shape) * np.sqrt((df - 2) / df)


@frozen
class Ternary(Law):
    """0 with probability ε = ``sparsity``, else ±(1 − ε)^(−½); drawn by :func:`draw_ternary`.

    Examples
    --------
    >>> np.unique(nh.theory.Ternary(0.75).draw((20, 30), seed=0, layer=1)).tolist()
    [-2.0, 0.0, 2.0]
    """

    sparsity: float = checked(share)

    @property
    def excess_kurtosis(self) -> float:
        """E w⁴ − 3."""
        return 1 / (1 - self.sparsity) - 3

    def draw(self, shape: Shape, seed: int, layer: int) -> Weights:
        signs = draw_ternary(shape, self.sparsity, seed, layer)
        return signs * np.float64((1 - self.sparsity) ** -0.5)


@frozen
class Rademacher(Ternary):
    """±1 with equal probability: :class:`Ternary` without zeros.

    Examples
    --------
    >>> nh.theory.Rademacher() == nh.RandomMLP(3, [5], ["relu"], weights="rademacher").law
    True
    """

    sparsity: float = field(default=0.0, init=False)


def _shares(value: Any) -> float | tuple[float, ...]:
    if np.ndim(value):
        return tuple(share("sparsity", one) for one in value)
    return share("sparsity", value)


def _dense(pruned: Law, attribute: Attribute, law: Law) -> None:
    if not isinstance(law, Law) or isinstance(law, Pruned | MagnitudePruned):
        raise ValueError(f"law must be one of a dense network, got {law!r}")


@frozen
class Pruned(Law):
    """Weights of another law, each kept with probability χ, and else zero and not trained.

    ``sparsity`` is 1 − χ in [0, 1), one number, or L + 1 of which the last is the readout's. With
    ``rescale`` the network uses χ^(−½) m∘W in place of m∘W: of variance 1 again, and of a fourth
    moment χ⁻¹ times the dense one. The same seed gives the same weights before pruning, and what
    is kept at some sparsity is kept at every lower one. Raises ValueError if an argument is wrong.

    Examples
    --------
    >>> law = nh.theory.Pruned(0.75, nh.theory.Rademacher())
    >>> np.unique(law.draw((20, 30), seed=0, layer=1)).tolist()
    [-2.0, 0.0, 2.0]
    """

    sparsity: float | tuple[float, ...] = field(converter=_shares)
    law: Law = field(factory=Gaussian, validator=_dense)
    rescale: bool = True

    def layers(self, n_layers: int) -> tuple[Law, ...]:
        if not isinstance(self.sparsity, tuple):
            return super().layers(n_layers)
        if len(self.sparsity) != n_layers + 1:
            raise ValueError(
                "sparsity must be one number, or one for each hidden layer and one for the "
                f"readout, {n_layers + 1} in all; got {len(self.sparsity)}"
            )
        return tuple(evolve(self, sparsity=one) for one in self.sparsity)

    @property
    def kept(self) -> float:
        """χ of a layer, as one would write it: at sparsity 0.9 it is 0.1, not its neighbour."""
        sparsity = share("sparsity", self.sparsity)
        return round(1 - sparsity, 15) or 1 - sparsity

    @property
    def variance(self) -> float:  # type: ignore[override]  # a constant elsewhere
        return 1.0 if self.rescale else self.kept

    @property
    def gain(self) -> float:  # type: ignore[override]  # a constant elsewhere
        return self.kept**-0.5 if self.rescale else 1.0

    def mask(self, shape: Shape, seed: int, layer: int) -> NDArray[np.bool_] | None:
        if self.kept == 1:
            return None
        return np.random.default_rng([seed, layer, 1]).random(shape, np.float32) < self.kept

    def draw(self, shape: Shape, seed: int, layer: int) -> Weights:
        dense, mask = self.law.draw(shape, seed, layer), self.mask(shape, seed, layer)
        return dense if mask is None else dense * mask * dense.dtype.type(self.gain)

    def draw_readout(self, width: int, seed: int, layer: int) -> Weights:
        dense, mask = super().draw_readout(width, seed, layer), self.mask((1, width), seed, layer)
        return dense if mask is None else dense * mask[0] * self.gain


@frozen
class MagnitudePruned(Law):
    """The largest weights of each hidden layer of another law, brought to variance 1.

    Raises ValueError if ``sparsity`` is out of [0, 1), or leaves no weight of a layer drawn.

    Examples
    --------
    >>> int((nh.theory.MagnitudePruned(0.5).draw((20, 30), seed=0, layer=1) == 0).sum())
    300
    """

    sparsity: float = checked(share)
    law: Law = field(factory=Gaussian, validator=_dense)

    def draw(self, shape: Shape, seed: int, layer: int) -> Weights:
        dense = torch.from_numpy(self.law.draw(shape, seed, layer))
        cut = prune.L1Unstructured(amount=round(self.sparsity * dense.numel()))
        kept = dense * cut.compute_mask(dense, torch.ones_like(dense))
        if not kept.any():
            raise ValueError(f"sparsity={self.sparsity:g} leaves no weight of shape {shape}")
        return (kept / kept.square().mean().sqrt()).numpy()


def _laws(values: Iterable[Any]) -> tuple[Law, ...]:
    laws = tuple(values)
    if not laws or not all(isinstance(law, Law) for law in laws):
        raise ValueError(f"laws must be at least one law, such as nh.theory.Gaussian(), got {laws}")
    return laws


@frozen
class Layered(Law):
    """A law for each hidden layer; the readout's weights are Gaussian.

    Raises ValueError if they are no laws, or a network has another number of hidden layers.

    Examples
    --------
    >>> law = nh.theory.Layered([nh.theory.Gaussian(), nh.theory.Ternary(0.75)])
    >>> np.unique(law.draw((20, 30), seed=0, layer=2)).tolist()
    [-2.0, 0.0, 2.0]
    """

    laws: tuple[Law, ...] = field(converter=_laws)

    def layers(self, n_layers: int) -> tuple[Law, ...]:
        if len(self.laws) != n_layers:
            raise ValueError(f"laws must be one for each of {n_layers} layers, got {self.laws}")
        return (*self.laws, Gaussian())

    def draw(self, shape: Shape, seed: int, layer: int) -> Weights:
        return self.laws[layer - 1].draw(shape, seed, layer)


def law_of(weights: Any, sparsity: float) -> Law:
    """The law itself, or the one that ``"gaussian"``, ``"student_t"`` … names."""
    sparsity = share("sparsity", sparsity)
    if sparsity and weights != "ternary":
        raise ValueError(f"sparsity belongs to weights='ternary', got weights={weights!r}")
    if isinstance(weights, Law):
        return weights
    named = {"gaussian": Gaussian(), "student_t": StudentT(), "rademacher": Rademacher()}
    named["ternary"] = Ternary(sparsity)
    return named[one_of("weights", weights, named)]


def draw_ternary(shape: Shape, sparsity: float, seed: int, stream: int = 0) -> NDArray[np.int8]:
    """A matrix of i.i.d. entries: 0 with probability ε, else −1 or +1 with equal probability.

    The same on every platform and with every version of numpy: only the raw output of PCG64 and
    its seeding are used, both of which numpy keeps. Each entry takes 32 bits: the lowest is the
    sign, and the others, as a number v, make it 0 where v < ε 2³¹. Each pair of a seed and a
    stream, from 0, gives a matrix of its own. Arguments and errors otherwise as :class:`Ternary`.

    Examples
    --------
    >>> nh.theory.draw_ternary((2, 5), sparsity=0.5, seed=0).tolist()
    [[1, 1, 1, 0, 0], [0, 0, 0, 0, -1]]
    """
    rows, columns = (whole("shape", size) for size in shape)
    sparsity = share("sparsity", sparsity)
    seeds = [whole("seed", seed, 0), whole("stream", stream, 0)]
    count = rows * columns
    raw = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw((count + 1) // 2)
    halves = raw.astype("<u8").view("<u4")[:count]
    signs = (2 * (halves & 1)).astype(np.int8) - np.int8(1)
    signs[(halves >> 1) < round(sparsity * 2**_BITS)] = 0
    return signs.reshape(rows, columns)
