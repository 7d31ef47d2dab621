"""Error and accuracy of a ridge readout on a random network, known before the network is drawn.

Given the training data, a network's features F have random rows; of (F Fᵀ + δ)⁻¹ only the mean and
the fluctuations matter, and both follow from the kernels of the infinitely wide network.
Leave-one-out then says how the readout does on samples that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack, solve_triangular
from scipy.stats import qmc

from .._checks import FloatArray, array, labels, number, positive, same_length, samples, whole
from .activations import AnyActivation, activation_list
from .duals import TINY
from .few_inputs import FewInputs, KernelShift, kernel_shifts
from .infinite import layer_kernels
from .weights import Law, law_of

# Neurons of the infinite network whose fourth moments stand for all of a layer's: twice as many
# move no accuracy by more than 0.1 points.
_PROBES = 400
# Directions in which outputs fluctuate, a power of 2; and subsets to train on, at most.
_DIRECTIONS, _SUBSETS = 256, 2
# Added to a kernel, relative to its mean diagonal, before it is factorised: far below any of its
# parts that are seen in an output. Samples and neurons that are worked on at once.
_JITTER, _BLOCK, _CHUNK = 1e-9, 1024, 40
# A pivot below this part of the largest is rounding: the kernel is singular.
_SINGULAR = 1e-7
# Up to so many samples the equations of finite width are solved from scratch; steps, and where
# they end.
_COARSE, _STEPS, _SOLVED = 400, 100, 1e-8
# Widths without a bound.
INFINITE = float("inf")


@frozen
class Forecast:
    """What a ridge readout on random features will do on samples that it was not trained on.

    Attributes
    ----------
    accuracy : float or None
        Expected share of samples whose class is found, over networks; None for regression.
    error : float
        Expected squared error of a sample's outputs, summed over classes or outputs.
    accuracy_uncertainty, error_uncertainty : float
        Standard errors: what is left open by the finite number of samples, and of subsets to
        train on. The spread of single networks about the mean is not in them.
    shrinkage : tuple of float
        s_1 … s_L: what finite width leaves of the kernel that a layer hands on; 1 if infinite.
    implicit_ridge : float
        The ridge that the data's own Gram matrix XXᵀ would feel beside it, relative to its trace:
        δ, finite width, and all of the activations that is not linear, on one axis with ``ridge``.

    Examples
    --------
    >>> X, y = np.eye(6)[[0, 0, 0, 1, 1, 1]], [0, 0, 0, 1, 1, 1]
    >>> nh.forecast(X, y, ["erf"], ridge=1e-3).accuracy
    1.0
    """

    accuracy: float | None
    error: float
    accuracy_uncertainty: float | None
    error_uncertainty: float
    shrinkage: tuple[float, ...]
    implicit_ridge: float


def forecast(
    X: ArrayLike,
    y: ArrayLike,
    activations: Sequence[AnyActivation | str],
    widths: Sequence[float] | None = None,
    ridge: float = 1e-3,
    n_train: int | None = None,
    sparsity: float = 0.0,
    *,
    weights: str | Law | None = None,
    tau0: float | None = None,
    seed: int = 0,
) -> Forecast:
    """Forecast error and accuracy of a ridge readout on a random network, without drawing it.

    The readout minimises ‖F W − T‖² + δ‖W‖², F (n, d_L) the features of a
    :class:`~ntklc_helpers.theory.networks.RandomMLP`, T the targets less their means and
    δ = ridge · tr K, K the limit of F Fᵀ.

    Parameters
    ----------
    X : (N, p) array
        Samples to train on; no others are needed.
    y : (N,) or (N, k) array
        Classes, if whole numbers or text, one-hot encoded; numbers to regress on otherwise.
    activations : sequence of Activation, Quantized or names
        σ_1 … σ_L.
    widths : sequence of numbers, optional
        d_1 … d_L; ``np.inf``, the default for all, is the limit: kernel ridge regression.
    ridge : float
        Relative to the trace of the training kernel; not negative.
    n_train : int, optional
        How many samples are trained on, by default all. If fewer, up to two subsets of X are
        trained on in turn, and those left out are tested on as well.
    weights, sparsity
        Law of the weights as for RandomMLP; a sparsity alone means ternary weights. It enters
        through what single neurons of the first layer do, and where hidden neurons have few
        inputs; other kernels are those of Gaussian weights.
    tau0 : float, optional
        Of the network; by default the root mean square of the rows' norms.
    seed : int
        Of the subsets, and of the neurons whose fourth moments stand for a layer's.

    Returns
    -------
    Forecast

    Raises
    ------
    ValueError
        If an argument is not as stated, there are fewer samples to train on than classes, or the
        ridge is zero where features or kernel are singular.

    Notes
    -----
    O(L n² N) time and O(L n N) memory for n of N samples to train on. Derivation: the
    book's chapter 'Accuracy before training'.

    Examples
    --------
    >>> data = nh.load_digits(classes=(3, 8), n=200, seed=0)
    >>> known = nh.forecast(nh.normalize(data.X), data.labels, ["relu"], widths=[100])
    >>> 0.9 < known.accuracy < 1, known.shrinkage[0] < 1
    (True, True)
    """
    prepared = Forecaster.of(
        X, y, activations, n_train, sparsity, weights=weights, tau0=tau0, seed=seed
    )
    return prepared(widths, ridge)


@frozen(eq=False)
class _Layer:
    """One layer of the network: all that its width is not needed for.

    Between N samples and the m that are trained on in any subset, ``part`` (N, m) is what the
    layer adds to K_L beyond the linear image of the layer before, and ``own`` (N,) that of each
    sample with itself; ``slope`` (N, m) is what a change of the layer's kernel is multiplied by in
    K_L, and ``gain`` (N,) its features by what is linear of the layers after; ``neurons`` (N, J)
    is what some of its neurons, in the infinite network, say to the samples.
    """

    part: FloatArray
    own: FloatArray
    slope: FloatArray
    gain: FloatArray
    neurons: FloatArray


@frozen(eq=False)
class Forecaster:
    """Forecasts for many widths and ridges on one data set: the kernels are made once.

    Made by :meth:`of`, with arguments as for :func:`forecast`; called with widths and a ridge.

    Examples
    --------
    >>> data = nh.load_digits(classes=(3, 8), n=200, seed=0)
    >>> prepared = nh.theory.Forecaster.of(nh.normalize(data.X), data.labels, ["relu"])
    >>> narrow, wide = (prepared([width], ridge=1e-3) for width in (20, 500))
    >>> narrow.error > wide.error
    True
    """

    targets: FloatArray
    classes: NDArray[np.int64] | None
    layers: tuple[_Layer, ...]
    linear: FloatArray
    variance: FloatArray
    lengths: FloatArray
    angles: FloatArray
    subsets: tuple[NDArray[np.intp], ...]
    columns: NDArray[np.intp]
    shifts: Callable[[tuple[float, ...]], Sequence[FewInputs | None]]

    @classmethod
    def of(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        activations: Sequence[AnyActivation | str],
        n_train: int | None = None,
        sparsity: float = 0.0,
        *,
        weights: str | Law | None = None,
        tau0: float | None = None,
        seed: int = 0,
    ) -> Forecaster:
        """Make the kernels. Errors as for :func:`forecast`."""
        X, sigma = samples("X", X), activation_list("activations", activations)
        targets, classes = _targets(y, len(X))
        n = len(X) if n_train is None else whole("n_train", n_train, 2, len(X))
        if classes is not None and n < targets.shape[1]:
            raise ValueError(f"n_train must be at least the {targets.shape[1]} classes, got {n}")
        law = law_of(weights or ("ternary" if sparsity else "gaussian"), sparsity)
        squares = np.einsum("ij,ij->i", X, X)
        tau0 = positive("tau0", float(np.sqrt(squares.mean())) if tau0 is None else tau0)
        rng = np.random.default_rng(whole("seed", seed, 0))
        split = np.array_split(rng.permutation(len(X)), min(len(X) // n, _SUBSETS))
        subsets = tuple(np.sort(part[:n]) for part in split)
        columns = np.sort(np.concatenate(subsets))
        laws = law.layers(len(sigma))[:-1]
        layers, gain, variance = _layers(X, sigma, laws[0], tau0, columns, rng)
        lengths = np.sqrt(squares)
        angles = _angles(X, lengths, columns)
        shifts = _shifts(sigma, laws, lengths, tau0, seed)
        return cls(
            targets, classes, layers, gain * squares, variance, lengths, angles, subsets, columns,
            shifts,
        )  # fmt: skip

    def __call__(
        self,
        widths: Sequence[float] | None = None,
        ridge: float = 1e-3,
        inputs: Sequence[float] | None = None,
    ) -> Forecast:
        """The forecast for these widths and this ridge; ``inputs``, where they are others, are the
        widths by which hidden neurons have few inputs or many, as for a small copy of a wide
        network. Errors as for :func:`forecast`.
        """
        d = self._widths("widths", widths)
        seen = d if inputs is None else self._widths("inputs", inputs)
        ridge = number("ridge", ridge, "a number of at least 0")
        n = len(self.subsets[0])
        if ridge < 0 or (ridge == 0 and d[-1] <= n):
            raise ValueError(
                f"ridge must be at least 0, and positive where the last width, {d[-1]:g}, is not "
                f"above the {n} samples to train on; got {ridge:g}"
            )
        shifts = self.shifts(tuple(seen))
        found = [_readout(self, which, d, ridge, shifts) for which in range(len(self.subsets))]
        errors = np.array([one.errors(self.targets) for one in found])
        error, error_off = _mean(errors)
        accuracy = accuracy_off = None
        if self.classes is not None:
            accuracy, accuracy_off = _mean(np.array([one.hits(self.classes) for one in found]))
        shrinkage = np.mean([one.shrinkage for one in found], axis=0)
        ridges = [one.implicit_ridge for one in found]
        return Forecast(
            accuracy,
            error,
            accuracy_off,
            error_off,
            tuple(shrinkage.tolist()),
            float(np.mean(ridges)),
        )

    def _widths(self, argument: str, widths: Sequence[float] | None) -> FloatArray:
        given: Any = [INFINITE] * len(self.layers) if widths is None else widths
        given = [given] if np.ndim(given) == 0 else [*given]
        same_length(argument, given, "activations", len(self.layers))
        return np.array([d if d == INFINITE else whole(argument, d) for d in given], float)


def _targets(y: ArrayLike, n: int) -> tuple[FloatArray, NDArray[np.int64] | None]:
    """Targets (n, k), and the classes (n,) as 0 … k − 1 where y names classes."""
    found = np.asarray(y)
    if found.dtype.kind == "f" and not np.array_equal(found, np.round(found)):
        values = array("y", y, found.ndim if found.ndim == 2 else 1)
        if len(values) != n:
            raise ValueError(f"y must have {n} rows, one per row of X, got shape {values.shape}")
        return values.reshape(n, -1), None
    names, classes = np.unique(labels("y", y, n), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"y must name at least two classes, got {names.tolist()}")
    return np.eye(len(names))[classes], classes


def _angles(X: FloatArray, lengths: FloatArray, columns: NDArray[np.intp]) -> FloatArray:
    """Between all samples and those of the columns (N, m)."""
    unit = X / np.maximum(lengths, TINY)[:, None]
    angles = np.arccos(np.clip(unit @ unit[columns].T, -1, 1))
    angles[columns, np.arange(len(columns))] = 0
    return np.asarray(angles)


def _shifts(
    activations: Sequence[AnyActivation],
    laws: Sequence[Law],
    lengths: FloatArray,
    tau0: float,
    seed: int,
) -> Callable[[tuple[float, ...]], Sequence[FewInputs | None]]:
    """By widths, what few inputs do; made once for all ridges."""

    def limit(X: FloatArray, columns: NDArray[np.intp]) -> Iterable[Any]:
        return layer_kernels(X, activations, tau0, columns)

    @lru_cache(maxsize=1)
    def shifts(widths: tuple[float, ...]) -> Sequence[FewInputs | None]:
        return kernel_shifts(activations, widths, laws, lengths, limit, seed)

    return shifts


def _layers(
    X: FloatArray,
    activations: Sequence[AnyActivation],
    law: Law,
    tau0: float,
    columns: NDArray[np.intp],
    rng: np.random.Generator,
) -> tuple[tuple[_Layer, ...], FloatArray, FloatArray]:
    """The layers, the gain (N,) of the network's linear part, and the diagonal of K_L."""
    if law.variance != 1:
        raise ValueError(f"weights must have variance 1, got {law!r}")
    layers: list[_Layer] = []
    total, kernel, variance = np.ones(len(X)), np.empty(0), np.empty(0)
    inputs = X @ law.draw((_PROBES, X.shape[1]), int(rng.integers(2**31)), 1).T
    some = None if len(columns) == len(X) else columns
    for sigma, found in zip(activations, layer_kernels(X, activations, tau0, some), strict=True):
        linear, gain = np.outer(found.gain, found.gain[columns]), found.gain
        part, own = found.kernel.copy(), found.variance.copy()
        if layers:
            part -= linear * kernel
            own -= gain**2 * variance
            inputs = _gaussian(kernel, variance, columns, rng)
        layers = [
            evolve(
                b, part=linear * b.part, own=gain**2 * b.own, slope=found.slope * b.slope,
                gain=gain * b.gain,
            )
            for b in layers
        ]  # fmt: skip
        ones = np.ones(len(X)), np.broadcast_to(1.0, part.shape)
        layers.append(_Layer(part, own, ones[1], ones[0], sigma(inputs) - found.centre))
        total, kernel, variance = total * gain**2, found.kernel, found.variance
    return tuple(layers), total, variance


def _gaussian(
    K: FloatArray, variance: FloatArray, columns: NDArray[np.intp], rng: np.random.Generator
) -> FloatArray:
    """Gaussian fields (N, J) of covariance K (N, m) at the columns' samples jointly; at any other
    given these, independently: together with them is all that an output of it is asked for.
    """
    among = K[columns]
    jitter = _JITTER * np.trace(among) / len(among) + TINY
    root = np.linalg.cholesky(among + jitter * np.eye(len(among)))
    drawn = rng.standard_normal((len(among), _PROBES))
    fields = np.empty((len(K), _PROBES))
    fields[columns] = root @ drawn
    others = np.setdiff1d(np.arange(len(K)), columns)
    weights = solve_triangular(root, K[others].T, lower=True).T
    left = variance[others] - np.einsum("ij,ij->i", weights, weights)
    noise = rng.standard_normal((len(others), _PROBES))
    fields[others] = weights @ drawn + np.sqrt(np.maximum(left, 0))[:, None] * noise
    return fields


@frozen(eq=False)
class _Outputs:
    """Outputs of a readout on samples it was not trained on: mean (N, k), covariance (N, k, k)."""

    mean: FloatArray
    covariance: FloatArray
    shrinkage: FloatArray
    implicit_ridge: float

    def errors(self, targets: FloatArray) -> FloatArray:
        """Expected squared error (N,)."""
        spread = np.trace(self.covariance, axis1=1, axis2=2)
        return np.sum((self.mean - targets) ** 2, axis=1) + spread

    def hits(self, classes: NDArray[np.int64]) -> FloatArray:
        """Probability (N,) that the right class has the largest output, these being Gaussian."""
        size, axes = np.linalg.eigh(self.covariance)
        root = axes * np.sqrt(np.maximum(size, 0))[:, None, :]
        normal = qmc.MultivariateNormalQMC(np.zeros(self.mean.shape[1]), rng=0)
        directions = normal.random(_DIRECTIONS if root.any() else 1).T
        found = np.empty(len(classes))
        for start in range(0, len(classes), _BLOCK):
            rows = slice(start, start + _BLOCK)
            drawn = self.mean[rows, :, None] + root[rows] @ directions
            found[rows] = np.mean(drawn.argmax(axis=1) == classes[rows, None], axis=1)
        return found


def _mean(values: FloatArray) -> tuple[float, float]:
    """Mean over subsets and samples (m, N), and its standard error."""
    each, of_subsets = values.mean(axis=0), values.mean(axis=1)
    variance = each.var() / len(each)
    if len(of_subsets) > 1:
        variance += of_subsets.var(ddof=1) / len(of_subsets)
    return float(values.mean()), float(np.sqrt(variance))


def _readout(
    data: Forecaster,
    which: int,
    d: FloatArray,
    ridge: float,
    shifts: Sequence[FewInputs | None],
) -> _Outputs:
    """The outputs at all samples of a readout trained on a subset; at these, leave-one-out.

    The mean of (F Fᵀ + δ)⁻¹ is Q = A⁻¹, A = δ + Σ_ℓ c_ℓ B_ℓ with c_ℓ = s_ℓ … s_L. It makes
    log det A + Σ_ℓ d_ℓ (s_ℓ − 1 − log s_ℓ) stationary in the s_ℓ, and the derivatives of that say
    how much the inverse fluctuates: D_ℓ = ∂A/∂s_ℓ, H the Hessian.
    """
    rows = data.subsets[which]
    delta = ridge * data.variance[rows].sum()
    local = np.searchsorted(data.columns, rows)
    added = _added(data.layers, shifts)
    parts = [_part(data, i, local, added[i]) for i in range(len(data.layers))]
    among = [part[rows] for part in parts]
    found = _solve(among, d, delta)
    s, Q, c = found.s, found.Q, _products(found.s)
    T = data.targets[rows] - data.targets[rows].mean(axis=0)
    others = np.setdiff1d(np.arange(len(data.targets)), rows)
    # An output is −(left T) off the samples' own targets: leave-one-out, and new samples alike.
    left = np.empty((len(data.targets), len(rows)))
    left[rows] = Q / Q.diagonal()[:, None]
    left[others] = -_mixture((part[others] for part in parts), c) @ Q
    mean = data.targets[rows].mean(axis=0) - left @ T
    mean[rows] += T
    covariance = np.zeros((*mean.shape, mean.shape[1]))
    if np.isfinite(d).any():
        # Each subset has neurons of its own.
        layers = [
            evolve(
                layer,
                own=layer.own + sum(one.itself(data.lengths) * gain**2 for one, gain in few),
                slope=layer.slope[:, local],
                neurons=layer.neurons[:, which :: len(data.subsets)],
            )
            for layer, few in zip(data.layers, added, strict=True)
        ]
        at = _Expansion.of(layers, parts, rows, others, left, Q @ T, s, d)
        covariance = at.together(found.H) + at.alone()
    linear = c[0] * data.linear[rows].mean()
    identity = delta + sum(c * [np.trace(part) for part in among]) / len(rows) - linear
    with np.errstate(divide="ignore", over="ignore"):
        implicit = np.divide(identity, len(rows) * linear)
    return _Outputs(mean, covariance, s, float(implicit))


def _added(
    layers: Sequence[_Layer], shifts: Sequence[FewInputs | None]
) -> list[list[tuple[KernelShift, FloatArray]]]:
    """What few inputs add to each layer's part, and the gain (N,) of the layers after.

    What a layer's neurons hand on one by one, few as the inputs of the next are, is of their part.
    """
    added: list[list[tuple[KernelShift, FloatArray]]] = [[] for _ in layers]
    for i, (layer, few) in enumerate(zip(layers, shifts, strict=True)):
        if few is not None:
            added[i - 1].append((few.single, layer.gain))
            added[i].append((few.rest, layer.gain))
    return added


def _part(
    data: Forecaster,
    i: int,
    local: NDArray[np.intp],
    added: Sequence[tuple[KernelShift, FloatArray]],
) -> FloatArray:
    """What layer i adds to the kernel (N, n) of all samples with some, few inputs considered."""
    columns = data.columns[local]
    part = data.layers[i].part[:, local]
    for shift, gain in added:
        values = shift.between(data.lengths, data.lengths[columns], data.angles[:, local])
        values[columns, np.arange(len(columns))] = shift.itself(data.lengths[columns])
        part += values * np.outer(gain, gain[columns])
    if added:
        # What is measured and interpolated need not be the kernel of anything.
        size, axes = np.linalg.eigh(part[columns])
        if size[0] < 0:
            part[columns] = axes * np.maximum(size, 0) @ axes.T
    return part


def _products(s: FloatArray) -> FloatArray:
    """c_ℓ = s_ℓ … s_L."""
    return np.asarray(np.cumprod(s[::-1])[::-1], np.float64)


def _mixture(parts: Iterable[FloatArray], weights: FloatArray) -> FloatArray:
    """The weighted sum of as many parts as there are weights."""
    pairs = zip(weights, parts, strict=False)
    weight, part = next(pairs)
    total = weight * part
    for weight, part in pairs:
        total += weight * part
    return total


def _inverse(parts: Sequence[FloatArray], c: FloatArray, delta: float) -> FloatArray:
    A = _mixture(parts, c)
    A[np.diag_indices(len(A))] += delta
    factor, failed = lapack.dpotrf(A, lower=1, overwrite_a=1)
    pivots = factor.diagonal()
    if failed or pivots.min() < _SINGULAR * pivots.max():
        raise ValueError("ridge must be larger: the kernel of the samples to train on is singular")
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    return np.tril(inverse) + np.tril(inverse, -1).T


@frozen(eq=False)
class _Mean:
    """The mean Q of (F Fᵀ + δ)⁻¹, the shrinkage s (L,) in it, and the Hessian H there, of the
    layers of finite width: how much the inverse fluctuates.
    """

    s: FloatArray
    Q: FloatArray
    H: FloatArray


def _solve(parts: Sequence[FloatArray], d: FloatArray, delta: float) -> _Mean:
    """Solve s_ℓ = 1 − (1/d_ℓ) Σ_{j≤ℓ} c_j tr(B_j Q), for every fourth sample first."""
    finite, s = np.isfinite(d), np.ones(len(d))
    if not finite.any():
        return _Mean(s, _inverse(parts, s, delta), np.empty((0, 0)))

    def missing(logarithms: FloatArray) -> tuple[FloatArray, FloatArray]:
        s[finite] = np.exp(logarithms)
        Q = _inverse(parts, _products(s), delta)
        degrees = np.cumsum(_products(s) * [np.vdot(Q, part) for part in parts])
        return (s - 1 + degrees / d)[finite], Q

    x, slope = np.zeros(int(finite.sum())), np.eye(int(finite.sum()))
    if len(parts[0]) > _COARSE:
        coarse = _solve([part[::4, ::4] for part in parts], d / 4, delta / 4)
        at = coarse.s[finite]
        x, slope = np.log(at), 4 * at[:, None] / d[finite, None] * coarse.H * at
    value, Q = missing(x)
    for _ in range(_STEPS):
        if np.abs(value).max() < _SOLVED:
            break
        step = np.clip(-np.linalg.solve(slope, value), -1, 1)
        x = x + step
        before, (value, Q) = value, missing(x)
        # Broyden's update: the least that explains what the step has changed.
        slope += np.outer(value - before - slope @ step, step) / (step @ step)
    else:
        raise RuntimeError(f"the equations of finite width are off by {np.abs(value).max():.2g}")
    return _Mean(s, Q, _hessian(parts, s, d, Q, delta))


def _hessian(
    parts: Sequence[FloatArray], s: FloatArray, d: FloatArray, Q: FloatArray, delta: float
) -> FloatArray:
    """∂²/∂s_ℓ∂s_m of log det A + Σ d_ℓ (s_ℓ − 1 − log s_ℓ), over layers of finite width."""
    finite, c, last = np.flatnonzero(np.isfinite(d)), _products(s), len(parts) - 1
    traces = np.cumsum(c * [np.vdot(Q, part) for part in parts])
    # Q D_ℓ; all of A but δ is linear in the last s.
    moved = [
        (np.eye(len(Q)) - delta * Q) / s[i] if i == last else Q @ _mixture(parts, c[: i + 1] / s[i])
        for i in finite
    ]
    H = np.empty((len(finite), len(finite)))
    for a, i in enumerate(finite):
        for b, j in enumerate(finite):
            own = d[i] / s[i] ** 2 if i == j else traces[min(i, j)] / (s[i] * s[j])
            H[a, b] = own - np.vdot(moved[a], moved[b].T)
    return H


@frozen(eq=False)
class _Expansion:
    """The first order of the outputs in what the neurons of each layer do, at the mean inverse.

    ``seen`` (L, N) and ``sizes`` (L, k, k) are, for the part B of each layer, the diagonal of
    left B leftᵀ and rightᵀ B right.
    """

    layers: Sequence[_Layer]
    rows: NDArray[np.intp]
    others: NDArray[np.intp]
    left: FloatArray
    right: FloatArray
    s: FloatArray
    d: FloatArray
    seen: FloatArray
    sizes: FloatArray

    @classmethod
    def of(
        cls,
        layers: Sequence[_Layer],
        parts: Sequence[FloatArray],
        rows: NDArray[np.intp],
        others: NDArray[np.intp],
        left: FloatArray,
        right: FloatArray,
        s: FloatArray,
        d: FloatArray,
    ) -> _Expansion:
        seen, sizes = np.empty((len(d), len(left))), []
        for layer, B, found in zip(layers, parts, seen, strict=True):
            np.einsum("ij,ij->i", left @ B[rows], left, out=found)
            # A new sample's own column of ``left``, which is not held, is 1.
            found[others] += 2 * np.einsum("ij,ij->i", left[others], B[others]) + layer.own[others]
            sizes.append(right.T @ B[rows] @ right)
        return cls(layers, rows, others, left, right, s, d, seen, np.array(sizes))

    @property
    def finite(self) -> NDArray[np.intp]:
        return np.flatnonzero(np.isfinite(self.d))

    def together(self, H: FloatArray) -> FloatArray:
        """Covariance (N, k, k) of the outputs if all neurons were Gaussian."""
        weights = _products(self.s)[:, None]
        seen = np.cumsum(weights * self.seen, axis=0) / self.s[:, None]
        sizes = np.cumsum(weights[..., None] * self.sizes, axis=0) / self.s[:, None, None]
        finite = self.finite
        return np.einsum(
            "jn,ji,iab->nab", seen[finite], np.linalg.inv(H), sizes[finite], optimize=True
        )

    def alone(self) -> FloatArray:
        """Covariance (N, k, k) of what neurons do one by one, beyond that of Gaussian ones.

        What is to be had from some of the neurons alone is noisy, chiefly by their second moments,
        and these are known: what is off in them is taken off to first order.
        """
        total = np.zeros((len(self.left), *self.sizes.shape[1:]))
        c, seen, sizes = (
            _products(self.s),
            np.cumsum(self.seen, axis=0),
            np.cumsum(self.sizes, axis=0),
        )
        for i in self.finite:
            probes = self.layers[i].neurons.shape[1]
            chunks = [
                self._effects(int(i), slice(start, start + _CHUNK))
                for start in range(0, probes, _CHUNK)
            ]
            first, second, left_seen, right_seen = (
                sum(part) / probes for part in zip(*chunks, strict=True)
            )
            off = (left_seen - seen[i])[:, None, None] * sizes[i]
            off += seen[i][:, None, None] * (right_seen - sizes[i])
            # Of two different neurons, so that it is right on average.
            means = probes * first[:, :, None] * first[:, None, :] - second
            gaussian = seen[i][:, None, None] * sizes[i] + 2 / (probes - 1) * means
            total += c[i] ** 2 / self.d[i] * (second - off - gaussian)
        return total

    def _effects(self, i: int, chunk: slice) -> tuple[FloatArray, ...]:
        """Sums over some neurons of layer i: of their effects (N, k) on the outputs, of the squares
        (N, k, k) of these, and of the second moments (N,) and (k, k) that are known.
        """
        layer, k = self.layers[i], self.right.shape[1]
        neurons = layer.neurons[:, chunk]
        near = layer.gain[:, None] * neurons
        across, along = self._from(near), near[self.rows].T @ self.right
        if i == len(self.layers) - 1:
            effect = across[:, :, None] * along
        else:
            acting = neurons[self.rows, :, None] * self.right[:, None, :]
            moved = layer.slope @ acting.reshape(len(acting), -1)
            moved = neurons[:, :, None] * moved.reshape(*neurons.shape, k)
            effect = self._from(moved.reshape(len(moved), -1)).reshape(moved.shape)
        # A sample that is left out has no part in the readout that is moved.
        effect[self.rows] -= (across[self.rows] ** 2)[:, :, None] * self.right[:, None, :]
        squares = effect.transpose(0, 2, 1) @ effect
        return effect.sum(axis=1), squares, np.einsum("ij,ij->i", across, across), along.T @ along

    def _from(self, features: FloatArray) -> FloatArray:
        """``left`` times what is at all samples (N, …), the new one's own among it."""
        found = self.left @ features[self.rows]
        found[self.others] += features[self.others]
        return found
