"""Exact kernels of convolutional networks with infinitely many channels.

As for fully connected networks, entry by entry; but an entry is between a position of one image and
a position of another, and a convolution takes the mean over the positions that its filter sees.
Positions are the leading axes of every array, so that what is summed lies far apart and what is
worked on at once lies together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import ArrayLike
from tqdm import tqdm

from .._checks import image_array, positive
from .activations import AnyActivation
from .conv_layers import AveragePool, Conv, Normalize, Plan, plan
from .duals import TINY, FloatArray, Pair
from .hermite import HermiteSeries
from .infinite import result_arrays
from .moments import gaussian_moments

# Entries worked on at once, as many as a cache holds; and arrays of that size in use.
_ENTRIES, _ARRAYS = 2**16, 8
# What is known of every position of so many at a time.
_SCALES = 2**15
# Patches whose product is that much of either's square are the same: of a jump the derivative is
# then infinite.
_ROUNDING = 1e-14


@frozen(eq=False)
class _Layer:
    """An activation: its ``pair``, and of every position (h, w, N) the variance of what comes in,
    and E σ² and E σ'² of it. ``series`` is None for a closed form.
    """

    activation: AnyActivation
    series: HermiteSeries | None
    variance: FloatArray
    square: FloatArray
    slope_square: FloatArray
    centre: float

    @property
    def pair(self) -> Callable[..., Pair]:
        """E[σ(u)σ(v)] and E[σ'(u)σ'(v)], given covariances and what is known of u and v."""
        form = self.activation.dual if self.series is None else self.series
        assert form is not None
        return form.pair

    def inputs(self, images: slice) -> FloatArray:
        """What ``pair`` needs to know of the positions of some images, (…, h, w, images)."""
        variance = self.variance[..., images]
        if self.series is None:
            return variance
        found, _, _ = self.series.at(np.sqrt(variance.ravel()))
        return found.reshape(-1, *variance.shape)

    def mean(self, inputs: FloatArray) -> FloatArray:
        """E σ of the positions whose ``inputs`` these are."""
        form = self.activation.dual
        return inputs[0] if form is None else form.mean(inputs)


@frozen(eq=False)
class _Network:
    """A plan with what is known of each activation, for all images (h, w, N, c) at hand, and the
    root of the variance (h, w, N) that each normalisation divides by.
    """

    plan: Plan
    images: FloatArray
    layers: list[_Layer] = field(factory=list)
    sizes: list[FloatArray] = field(factory=list)

    def pairs(self, step: int) -> bool:
        """Whether entries before a step are between any two positions, not the same alone."""
        pooled = (isinstance(one, AveragePool) for one in self.plan.steps[step:])
        return self.plan.averaged or any(pooled)

    def through(
        self, parts: tuple[slice, ...], ntk: bool, end: int | None = None
    ) -> list[FloatArray]:
        """K and, with ``ntk``, N (…, m, k) between some images and others, after ``end`` steps;
        (…, m) of images each with itself, if ``parts`` is one slice.
        """
        c = self._products(parts, self.pairs(0))
        kernels = [c, c.copy()] if ntk else [c]
        known, sizes = iter(self.layers), iter(self.sizes)
        for i, step in enumerate(self.plan.steps[:end]):
            both = self.pairs(i)
            if isinstance(step, Conv):
                kernels = [_patch_means(step, kernel, both) for kernel in kernels]
            elif isinstance(step, AveragePool):
                kept = self.pairs(i + 1) if end is None else i + 1 < end
                kernels = [_pooled(step, kernel, kept) for kernel in kernels]
            elif isinstance(step, Normalize):
                size = next(sizes)
                ends = size[..., parts[0]], size[..., parts[-1]]
                for one in _facing(*ends, len(parts), both):
                    for kernel in kernels:
                        kernel /= one
            else:
                kernels = self._activated(next(known), kernels, parts, both)
        return kernels

    def _products(self, parts: tuple[slice, ...], both: bool) -> FloatArray:
        """K₀: means over channels, between positions."""
        X = self.images
        left, right = X[:, :, parts[0]], X[:, :, parts[-1]]
        if len(parts) == 1:
            found = np.einsum("abnc,ABnc->abABn", left, right)
        elif both:
            found = np.einsum("abmc,ABkc->abABmk", left, right, optimize=True)
        else:
            found = left @ right.transpose(0, 1, 3, 2)
        return found / X.shape[-1]

    def _activated(
        self, layer: _Layer, kernels: list[FloatArray], parts: tuple[slice, ...], both: bool
    ) -> list[FloatArray]:
        c, *tangent = kernels
        ends = parts[0], parts[-1]
        left, right = (layer.inputs(part) for part in ends)
        means = [layer.mean(inputs) for inputs in (left, right)] if layer.centre else []
        same = _with_themselves(c.shape, parts, both)
        if same is not None:
            # What is known; at correlation 1 a series would not converge.
            c[same] = 0
        views = _facing(left, right, len(parts), both)
        alike = None
        if layer.activation.has_jump:
            before, behind = (layer.variance[..., part] for part in ends)
            A, B = _facing(before, behind, len(parts), both)
            alike = c >= (1 - _ROUNDING) * np.maximum(A, B)
        workspace = np.empty_like(c), np.empty_like(c), np.empty_like(c)
        value, slope = layer.pair(c, *views, workspace)
        if layer.centre:
            A, B = _facing(means[0], means[1], len(parts), both)
            value -= layer.centre * (A + B - layer.centre)
        if same is not None:
            value[same] = layer.square[..., parts[0]]
            slope[same] = layer.slope_square[..., parts[0]]
        if alike is not None:
            # Not from a correlation, of which rounding has left half the digits.
            known, _ = _facing(layer.square[..., ends[0]], right, len(parts), both)
            value[alike], slope[alike] = np.broadcast_to(known, value.shape)[alike], np.inf
        for n in tangent:
            # Where nothing comes in nothing changes, however steep a jump is.
            slope[n == 0] = 0
            n *= slope
            n += value
        return [value, *tangent]


def conv_limit_kernels(
    images: ArrayLike,
    layers: Sequence[Any],
    *,
    Z: ArrayLike | None = None,
    center: bool = False,
    ntk: bool = True,
    memory: float = 2**30,
    progress: bool = False,
    out: Any = None,
) -> tuple[FloatArray, FloatArray | None]:
    """Conjugate kernel K and neural tangent kernel N of a convolutional network of infinite width.

    Parameters
    ----------
    images : (n, h, w, c) array
    layers : sequence
        ``nh.Conv(…)``, each with ``nh.theory.Normalize()`` after it or not and an activation or
        not, ``nh.AveragePool(…)``, and at the end a readout, ``nh.Flatten()`` or
        ``nh.GlobalAveragePool()``. Activations as for
        :func:`~ntklc_helpers.theory.infinite.limit_kernels`, staircases included.
    Z : (m, h, w, c) array, optional
        The kernels between the images and these, instead of those among the images.
    center : bool
        Subtract from each layer the constant E σ_ℓ(τ_ℓ ξ), where τ_ℓ² is the mean variance of what
        comes in, over ``images`` and positions.
    ntk : bool
        Whether N is wanted.
    memory : float
        Bytes to work with at most, besides results and what is known of single positions.
    progress : bool
    out : array or pair of arrays, optional
        As for :func:`~ntklc_helpers.theory.infinite.limit_kernels`.

    Returns
    -------
    K, N : (n, n) or (n, m) float64 arrays, or those of ``out``
        N is None if ``ntk`` is false. Once an activation has a jump, N is infinite of an image with
        itself, as it is of two images with a patch in common.

    Raises
    ------
    ValueError
        If an argument is not as stated, layers are out of order or do not fit the images, which
        the error names, or a pair of images takes more than ``memory``.

    Notes
    -----
    Without biases; weights of mean 0 and variance 1, in NTK parametrisation: K₀ is the mean over
    channels of products of pixels, of positions s of x and s' of x'; a convolution takes the mean
    over the filter's offsets Δ of K(s + Δ, s' + Δ), zero outside the image; then activations as in
    :func:`~ntklc_helpers.theory.infinite.limit_kernels`. A readout by ``Flatten`` is the mean of
    K(s, s) and needs these alone, n² h w numbers; one by ``GlobalAveragePool``, and every layer
    before an ``AveragePool``, needs all pairs of positions, n² (h w)². Garriga-Alonso, Rasmussen
    and Aitchison (2019), Novak et al. (2019), Arora et al. (2019).

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((4, 8, 8, 3))
    >>> layers = [nh.Conv(3), "relu", nh.Conv(3), "relu", nh.Flatten()]
    >>> K, N = nh.conv_limit_kernels(images, layers)
    >>> K.shape, bool(np.linalg.eigvalsh(N)[0] > 0)
    ((4, 4), True)
    """
    X = image_array("images", images)
    others = None if Z is None else image_array("Z", Z, X.shape[1:])
    n, shape = len(X), (len(X), len(X if others is None else others))
    K, N = result_arrays(out, shape, ntk)
    both = X if others is None else np.concatenate([X, others])
    memory = positive("memory", memory)
    network = _network(both, plan(layers, X.shape[1:3]), center, n, memory)
    side = _side(network, memory)
    down = [slice(at, min(at + side, n)) for at in range(0, n, side)]
    across = (
        down
        if Z is None
        else [slice(at, min(at + side, len(both))) for at in range(n, len(both), side)]
    )
    tiles = [(i, j) for i, j in product(down, across) if Z is not None or i.start <= j.start]
    axes = (0, 1, 2, 3) if network.plan.averaged else (0, 1)

    def fill(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        found = network.through(tile, ntk)
        at = columns if Z is None else slice(columns.start - n, columns.stop - n)
        for result, block in zip((K, N), found, strict=False):
            mean = block.mean(axis=axes)
            if Z is None and rows == columns:
                # Symmetric to the last digit.
                mean = (mean + mean.T) / 2
            result[rows, at] = mean
            if Z is None:
                result[at, rows] = mean.T

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in tqdm(pool.map(fill, tiles), total=len(tiles), leave=False, disable=not progress):
            pass
    return K, N


def conv_scales(
    images: ArrayLike, layers: Sequence[Any], *, center: bool = False, memory: float = 2**30
) -> tuple[float, ...]:
    """τ_ℓ of each activation: the root mean variance of what comes in, over images and positions.

    Arguments and errors as for :func:`conv_limit_kernels`.

    Examples
    --------
    >>> layers = [nh.Conv(1), "relu", nh.Conv(1), "relu", nh.Flatten()]
    >>> np.round(nh.theory.conv_scales(np.ones((1, 4, 4, 1)), layers), 4).tolist()
    [1.0, 0.7071]
    """
    X = image_array("images", images)
    network = _network(X, plan(layers, X.shape[1:3]), center, len(X), positive("memory", memory))
    return tuple(float(np.sqrt(layer.variance.mean())) for layer in network.layers)


def _network(X: FloatArray, plan: Plan, center: bool, n: int, memory: float) -> _Network:
    """The network with what is known of each activation, from images of which n are the user's."""
    network = _Network(plan, np.ascontiguousarray(X.transpose(1, 2, 0, 3)))
    _prepare(network, center, n, memory)
    return network


def _prepare(network: _Network, center: bool, n: int, memory: float) -> None:
    """Find what is known of each activation, in turn, for it depends on those before."""
    X, grids = network.images, network.plan.grids
    variance = np.einsum("abnc,abnc->abn", X, X) / X.shape[-1]
    for i, step in enumerate(network.plan.steps):
        if isinstance(step, Conv):
            variance = _patch_means(step, variance, False)
        elif isinstance(step, AveragePool):
            # Of a mean it is the mean of the kernel of the image with itself.
            most = max(1, int(memory / (8 * _ARRAYS * max(h * w for h, w in grids) ** 2)))
            parts = (slice(at, at + most) for at in range(0, X.shape[2], most))
            found = [network.through((part,), False, i + 1)[0] for part in parts]
            variance = np.concatenate(found, axis=-1)
        elif isinstance(step, Normalize):
            size = np.sqrt(np.maximum(variance, TINY))
            network.sizes.append(size)
            variance = (variance / size) / size
        else:
            layer = _layer(step, variance, center, n)
            network.layers.append(layer)
            variance = layer.square


def _layer(activation: AnyActivation, variance: FloatArray, center: bool, n: int) -> _Layer:
    variance, centre, series = np.maximum(variance, TINY), 0.0, None
    if center:
        tau = positive("images", float(np.sqrt(variance[..., :n].mean())))
        centre = gaussian_moments(activation, tau).mean
    if activation.dual is not None:
        square, slope_square = activation.dual.power(variance)
        mean = activation.dual.mean(variance)
    else:
        scale = np.sqrt(variance.ravel())
        series = HermiteSeries.over(activation, scale)
        square, slope_square, mean = np.empty((3, len(scale)))
        for start in range(0, len(scale), _SCALES):
            part = slice(start, start + _SCALES)
            inputs, square[part], slope_square[part] = series.at(scale[part])
            mean[part] = inputs[0]
    mean, square = mean.reshape(variance.shape), square.reshape(variance.shape)
    square = np.maximum(square - centre * (2 * mean - centre), 0)
    if not np.isfinite(square).all():
        raise ValueError(
            f"activation {activation.name!r} grows too large on images: scale images down"
        )
    slope_square = slope_square.reshape(variance.shape)
    return _Layer(activation, series, variance, square, slope_square, centre)


def _side(network: _Network, memory: float) -> int:
    """Images on each side of a tile."""
    sizes = [h * w for h, w in network.plan.grids]
    entries = max(size**2 if network.pairs(i) else size for i, size in enumerate(sizes))
    terms = max((len(one.series.log_tail) for one in network.layers if one.series), default=1)
    side = max(1, int((_ENTRIES / entries) ** 0.5))
    threads = torch.get_num_threads()

    def needed(side: int) -> int:
        return 8 * threads * (_ARRAYS * entries * side**2 + 2 * terms * max(sizes) * side)

    while side > 1 and needed(side) > memory:
        side //= 2
    if needed(side) > memory:
        raise ValueError(f"memory must be at least {needed(1):,} bytes for a pair of these images")
    return side


def _patch_means(conv: Conv, values: FloatArray, both: bool) -> FloatArray:
    """Means over the filter's offsets: of a position, or of two that move together."""
    for axes in ((0, 2), (1, 3)) if both else ((0,), (1,)):
        values = _sums(conv, values, axes)
    values /= conv.size**2
    return values


def _sums(conv: Conv, values: FloatArray, axes: tuple[int, ...]) -> FloatArray:
    length, stride = values.shape[axes[0]], conv.stride
    side, (before, _) = conv.output(length), conv.zeros(length)
    total = np.zeros([side if axis in axes else size for axis, size in enumerate(values.shape)])
    into, of = ([slice(None)] * values.ndim for _ in range(2))
    for offset in range(-before, conv.size - before):
        # Outputs from and to which the offset stays inside the image.
        first = max(0, -(offset // stride))
        last = min(side - 1, (length - 1 - offset) // stride)
        if first > last:
            continue
        for axis in axes:
            into[axis] = slice(first, last + 1)
            of[axis] = slice(first * stride + offset, last * stride + offset + 1, stride)
        total[tuple(into)] += values[tuple(of)]
    return total


def _pooled(pool: AveragePool, values: FloatArray, kept: bool) -> FloatArray:
    """Means over patches, of positions of one image and another; ``kept``, or of the same alone."""
    k, (h, w) = pool.size, values.shape[:2]
    split = values.reshape(*(h // k, k, w // k, k) * 2, *values.shape[4:])
    if kept:
        return np.asarray(split.mean(axis=(1, 3, 5, 7)))
    return np.asarray(np.einsum("aibjaIbJ...->ab...", split)) / k**4


def _with_themselves(shape: tuple[int, ...], parts: tuple[slice, ...], both: bool) -> Any:
    """Where positions meet themselves, (h, w, m), in an array of this shape; None if nowhere."""
    if parts[0] != parts[-1]:
        return None
    y, x, i = np.ogrid[: shape[0], : shape[1], : shape[-1]]
    return (*(y, x) * (1 + both), *(i,) * len(parts))


def _facing(left: FloatArray, right: FloatArray, parts: int, both: bool) -> tuple[Any, Any]:
    """Views of values (…, h, w, m) and (…, h, w, k) that broadcast to those between all pairs; to
    those of images each with itself, if ``parts`` is 1.
    """
    all_, new = slice(None), None
    images = ((all_, new), (new, all_)) if parts == 2 else ((all_,), (all_,))
    places = ((all_, all_, new, new), (new, new, all_, all_)) if both else ((all_, all_),) * 2
    return left[(..., *places[0], *images[0])], right[(..., *places[1], *images[1])]
