"""The trained last layer on fixed features: ridge or logistic regression, in few bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from attrs import evolve, field, frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import (
    SAME,
    FloatArray,
    array,
    inside,
    labels,
    one_of,
    positive,
    samples,
    torch_device,
    whole,
)
from . import kernels
from .threads import alone, compiled, threads_of_torch

READOUT_DTYPES = ("float32", "float16", "int8")
_CHUNK = 4096
# Ridge penalties tried, as parts of the mean eigenvalue of the centred Gram matrix.
RIDGE_GRID = tuple(10.0**k for k in np.arange(-4, 2, 0.5))
# Values may hold nothing that features tell: then the more the better.
GCV_GRID = tuple(10.0**k for k in np.arange(-4, 4, 0.5))
# Inverse penalties tried by logistic regression on standardised features.
LOGISTIC_GRID = (1e-3, 1e-2, 1e-1, 1.0)
_score = compiled(kernels.score, fastmath={"reassoc", "contract"})


@frozen(slots=False)
class Readout:
    """Outputs ``features @ (weights * scale) + bias``: values, or scores of classes.

    Of scores, the class with the highest is predicted.

    Attributes
    ----------
    weights : (d, K) array of float32, float16 or int8
    scale : (K,) float32 or float64 array
        One step a class for int8, a power of two for float16 where weights leave its range; of
        values their spread; or 1. Outputs are computed in its precision.
    bias : (K,) array, float32 or float64 as ``scale`` is
    classes : (K,) array of int64 or text, or None
        The labels, increasing; None if outputs are values.
    penalty : float
        What was chosen, or given: λ over the mean eigenvalue for ridge, C for logistic; NaN for
        weights from elsewhere.

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or are not finite.

    Examples
    --------
    >>> readout = nh.compression.Readout.from_weights(np.eye(2), np.zeros(2), ["cat", "dog"])
    >>> readout.predict([[0.2, 0.8]]).tolist()
    ['dog']
    """

    # In one order, whoever made them: sums depend on it in their last digit.
    weights: NDArray = field(converter=np.ascontiguousarray, eq=SAME)
    scale: NDArray[np.floating] = field(eq=SAME)
    bias: NDArray[np.floating] = field(eq=SAME)
    classes: NDArray | None = field(eq=SAME)
    penalty: float = field(default=float("nan"), eq=False)

    def __attrs_post_init__(self) -> None:
        one_of("dtype", self.dtype, READOUT_DTYPES)
        parts = [part for part in (self.scale, self.bias, self.classes) if part is not None]
        kinds = [part.dtype.str[1:] for part in parts]
        wrong = kinds[0] != kinds[1] or kinds[0] not in ("f4", "f8")
        if wrong or any(kind != "i8" and kind[0] != "U" for kind in kinds[2:]):
            raise ValueError(f"scale, bias and classes of a readout cannot be of {kinds}")
        one_each = {part.shape for part in parts} == {self.weights.shape[1:]}
        if self.weights.ndim != 2 or not one_each or not self.weights.size:
            raise ValueError("a readout's scale, bias and classes must have one entry an output")
        with np.errstate(all="ignore"):
            used = self.weights * self.scale
        if not (np.isfinite(used).all() and np.isfinite(self.bias).all()):
            raise ValueError(f"a readout must be finite in {self.bias.dtype}: scale the features")

    @classmethod
    def from_weights(
        cls, weights: ArrayLike, bias: ArrayLike, classes: ArrayLike, penalty: float = float("nan")
    ) -> Readout:
        """A float32 readout from weights (d, K), bias (K,) and labels (K,)."""
        names = two_classes("classes", classes, np.size(bias))
        with np.errstate(over="ignore"):
            weights, bias = np.asarray(weights, np.float32), np.asarray(bias, np.float32)
        return cls(weights, np.ones(len(bias), np.float32), bias, names, penalty)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Readout:
        """From :attr:`arrays`; KeyError or ValueError if one is missing or does not fit."""
        classes: NDArray | None = arrays["classes"]
        if classes is None or not classes.size:
            classes = None
        elif classes.dtype == np.uint32 and classes.ndim == 2 and classes.max() < 0x110000:
            classes = np.ascontiguousarray(classes).view(f"U{classes.shape[-1]}").ravel()
        return cls(arrays["weights"], arrays["scale"], arrays["bias"], classes)

    @property
    def arrays(self) -> dict[str, NDArray]:
        """Weights, scale, bias and classes as arrays of numbers, text by its code points (K, …).

        Of values there are no classes: (0,).
        """
        classes = np.empty(0, np.int64) if self.classes is None else self.classes
        if classes.dtype.kind == "U":
            classes = classes[:, None].view(np.uint32)
        return {"weights": self.weights, "scale": self.scale, "bias": self.bias, "classes": classes}

    @property
    def dtype(self) -> str:
        """In what the weights are held."""
        return str(self.weights.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(array.nbytes for array in self.arrays.values())

    def rounded(self, dtype: str) -> Readout:
        """The same in float32, float16 or int8 (127 steps a class to its largest weight)."""
        one_of("dtype", dtype, READOUT_DTYPES)
        # Values keep their scale, which may be any.
        unit = np.ones_like(self.scale) if self.classes is not None else self.scale
        weights = self.weights * (self.scale / unit)
        largest, scale = np.abs(weights).max(axis=0), np.ones_like(self.scale)
        if dtype == "int8":
            scale = (largest / np.float32(127)).astype(scale.dtype)
            scale[scale == 0] = 1
            weights = np.rint(weights / scale)
        elif dtype == "float16":
            limits = np.finfo(np.float16)
            outside = (largest > limits.max) | ((largest > 0) & (largest < limits.tiny))
            scale[outside] = np.exp2(np.floor(np.log2(largest[outside])))
            weights = weights / scale
        return evolve(self, weights=weights.astype(dtype), scale=scale * unit)

    @cached_property
    def _by_output(self) -> NDArray[np.floating]:
        """(K, d) what features are multiplied by."""
        return np.ascontiguousarray((self.weights * self.scale).T)

    def scores(self, features: ArrayLike) -> NDArray[np.floating]:
        """(n, K) scores of the classes, or values, of features (n, d)."""
        return self.scores_of(_matrix(features, len(self.weights)))

    def scores_of(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        """The same for rows that a network made, which are not looked at.

        Each sample's sums are in one order, whatever stands beside it. They are taken on the
        threads that ran the layers: torch's own would wait beside those for more to do.
        """
        weights = self._by_output
        out = np.empty((len(rows), len(weights)), weights.dtype)
        with threads_of_torch():
            rows = np.ascontiguousarray(rows, weights.dtype)
            _score[alone()](rows, weights, self.bias, out)
        return out

    def predict(self, features: ArrayLike) -> NDArray:
        """(n,) predicted labels; or values, (n,) where there is one output, else (n, K)."""
        return self.labels_of(self.scores(features))

    def labels_of(self, found: NDArray[np.floating]) -> NDArray:
        """What :meth:`predict` gives, from scores (n, K)."""
        if self.classes is None:
            return found[:, 0] if found.shape[1] == 1 else found
        return self.classes[found.argmax(axis=1)]

    def score(self, features: ArrayLike, y: ArrayLike) -> float:
        """Share of the rows whose label is predicted.

        ValueError if y has other labels, or outputs are values.
        """
        if self.classes is None:
            raise ValueError("the readout's outputs are values and no scores of classes: predict")
        return share_right(self.predict(features), y)


def share_right(found: NDArray, y: ArrayLike) -> float:
    """Share of labels found that are those in y; ValueError if those are none, or of other kind."""
    y = labels("y", y, len(found))
    if (y.dtype.kind == "U") != (found.dtype.kind == "U"):
        raise ValueError(f"y must be labels like {found[0]!r}, got {y[0]!r}")
    return float(np.mean(found == y))


def two_classes(argument: str, y: ArrayLike, n: int) -> NDArray:
    """``y`` as n labels of two classes at least, int64 or text."""
    found = labels(argument, y, n)
    if len(np.unique(found)) < 2:
        raise ValueError(f"{argument} must hold at least two classes, got {found[:1].tolist()}")
    return found if found.dtype.kind == "U" else found.astype(np.int64)


def fit_readout(
    features: ArrayLike,
    y: ArrayLike,
    kind: Literal["ridge", "logistic"] = "ridge",
    dtype: str = "float32",
    holdout: float = 0.1,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Readout:
    """Fit the last layer, its penalty chosen by the accuracy on held-out samples, then on all.

    Parameters
    ----------
    features : (n, d) array
    y : (n,) whole numbers or text
        Labels of at least two classes.
    kind : "ridge" or "logistic"
        Ridge: least squares on ±1 targets with an intercept, from one Gram matrix in float64.
        Logistic: softmax regression on standardised features, by scikit-learn.
    dtype : "float32", "float16" or "int8"
        In what the weights are held; prediction uses the rounded ones.
    holdout : float
        Share of the samples held out to choose the penalty, in (0, 1).
    seed : int
        Of that choice of samples.
    device : torch.device or str, optional
        Where ridge takes its products and solves, by torch; by numpy, by default.

    Returns
    -------
    Readout

    Raises
    ------
    ValueError
        If labels do not fit the features, there is one class only, or an argument is out of range.

    Examples
    --------
    >>> readout = nh.fit_readout([[0], [1], [4], [5]] * 5, ["low", "low", "high", "high"] * 5)
    >>> readout.predict([[0.5], [6.0]]).tolist()
    ['low', 'high']
    """
    one_of("dtype", dtype, READOUT_DTYPES)
    one_of("kind", kind, ("ridge", "logistic"))
    device = None if device is None else torch_device(device)
    F = _matrix(features)
    y = two_classes("y", y, len(F))
    held = max(1, round(inside("holdout", holdout) * len(y)))
    order = np.random.default_rng(whole("seed", seed, 0)).permutation(len(y))
    out, kept = np.sort(order[:held]), np.sort(order[held:])
    if len(kept) == 0 or len(np.unique(y[kept])) < 2:
        raise ValueError(f"y must leave two classes to fit on; {held} of {len(y)} are held out")
    fitted = _ridge(F, y, kept, out, device) if kind == "ridge" else _logistic(F, y, kept, out)
    return fitted.rounded(dtype)


def fit_ridge(
    features: ArrayLike,
    targets: ArrayLike,
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    penalty: float | None = None,
) -> Readout:
    """Ridge regression with an intercept, its penalty by generalised cross-validation.

    W and b of least Σ_i w_i ‖t_i − b − Wᵀf_i‖² + λ‖W‖². A weight that is a whole number is as good
    as the sample so many times; weights that add up to less than there are samples with one are
    brought to that sum. Where no penalty is given, λ is of those tried the one of least
    (Σ_i w_i ‖residual_i‖²) / (Σ_i w_i − df)², with df = 1 + Σ_j s_j/(s_j + λ) for the eigenvalues s
    of the features' centred Gram matrix (Golub, Heath and Wahba, Technometrics 1979).

    Parameters
    ----------
    features : (n, d) array
    targets : (n, K) array
        Each column of values counts in units of its spread.
    classes : (K,) labels, optional
        What the columns are scores of; by default they are values.
    sample_weight : (n,) array, optional
        Numbers of at least 0, not all 0; 1 by default.
    penalty : float, optional
        λ, positive, over the mean of all s.

    Returns
    -------
    Readout
        Its scale and bias are float64.

    Raises
    ------
    ValueError
        If sizes do not fit, or an argument is out of range.

    Examples
    --------
    >>> from ntklc_helpers.compression.readout import fit_ridge
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> fit_ridge(x, 1e6 + 3 * x, penalty=1e-9).predict([[0.5], [2.0]]).round(3).tolist()
    [1000001.5, 1000006.0]
    """
    F, T = _matrix(features), samples("targets", targets)
    if len(T) != len(F):
        raise ValueError(f"targets must have {len(F)} rows, as many as features, got {len(T)}")
    w = counts(sample_weight, len(F))
    used = w > 0
    F, T, w = F[used], T[used], w[used] * max(1.0, used.sum() / w.sum())
    centre, scale = np.zeros(T.shape[1]), np.ones(T.shape[1])
    if classes is None:
        centre = np.average(T, axis=0, weights=w)
        scale = _spreads(T - centre, w)
    sums, power = _weighted_sums(F, (T - centre) / scale, w)
    if penalty is None:
        penalty = _by_gcv(sums, power)
    ((weights, bias),) = _solutions(sums, [positive("penalty", penalty)])
    names = None if classes is None else two_classes("classes", classes, len(bias))
    with np.errstate(over="ignore"):
        return Readout(weights.astype(np.float32), scale, centre + scale * bias, names, penalty)


def counts(sample_weight: ArrayLike | None, n: int) -> FloatArray:
    """(n,) weights, of at least 0 and not all 0; ones where none are given.

    Examples
    --------
    >>> from ntklc_helpers.compression.readout import counts
    >>> counts(None, 2)
    array([1., 1.])
    """
    if sample_weight is None:
        return np.ones(n)
    w = array("sample_weight", sample_weight, 1)
    if len(w) != n or w.min() < 0 or not 0 < w.sum() < np.inf:
        raise ValueError(
            f"sample_weight must be {n} numbers, one a sample, of at least 0 and not all zero; "
            f"got {len(w)}" + (f" from {w.min():g} to {w.max():g}" if len(w) else "")
        )
    return w


def _spreads(centred: FloatArray, w: FloatArray) -> FloatArray:
    """Standard deviation of each column, of numbers of any size; 1 for one that is constant."""
    unit = np.abs(centred).max(axis=0)
    unit[unit == 0] = 1
    spread = unit * np.sqrt(np.average((centred / unit) ** 2, axis=0, weights=w))
    return np.where(spread > 0, spread, 1.0)


def _matrix(features: ArrayLike, d: int | None = None) -> NDArray:
    """(n, d) finite numbers; what is float32 stays so, as large features are."""
    if isinstance(features, torch.Tensor) and features.dtype == torch.float32:
        features = features.detach().cpu().numpy()
    if type(features) is np.ndarray and features.dtype == np.float32 and features.ndim == 2:
        fits = features.size and features.shape[1] == (d or features.shape[1])
        if fits and np.isfinite(features.sum(dtype=np.float64)):
            return features
    return samples("features", features, d)


def _sums(
    features: NDArray, targets: FloatArray, rows: NDArray, device: torch.device | None
) -> list[Any]:
    """Number of rows, their sums, FᵀF and FᵀT; those of two sets of rows add up."""
    d, K = features.shape[1], targets.shape[1]
    shapes = (d,), (K,), (d, d), (d, K)
    sums = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]
    for part in np.array_split(rows, max(1, len(rows) // _CHUNK)):
        F, T = features[part].astype(np.float64), targets[part]
        if device is None:
            # numpy knows that FᵀF is symmetric, and takes half the time.
            found = [torch.from_numpy(a) for a in (F.sum(axis=0), T.sum(axis=0), F.T @ F, F.T @ T)]
        else:
            f, t = torch.from_numpy(F).to(device), torch.from_numpy(T).to(device)
            found = [f.sum(0), t.sum(0), f.T @ f, f.T @ t]
        for total, more in zip(sums, found, strict=True):
            total += more
    return [len(rows), *sums]


def _solutions(
    sums: Sequence[Any], penalties: Sequence[float]
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Weights and bias for each penalty."""
    n, x, t, *_ = sums
    gram, products, unit = _centred(sums)
    diagonal = gram.diagonal().clone()
    for penalty in penalties:
        gram.diagonal().copy_(diagonal + penalty * unit)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise ValueError("features must be large beside their rounding errors: centre them")
        weights = torch.cholesky_solve(products, factor).cpu().numpy()
        yield weights, (t.cpu().numpy() - x.cpu().numpy() @ weights) / n


def _centred(sums: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gram matrix and products with the targets, both centred; the mean eigenvalue."""
    n, x, t, xx, xt = sums
    gram, products = xx - torch.outer(x, x) / n, xt - torch.outer(x, t) / n
    # What rounding leaves of a constant feature's variance is not to be divided by.
    constant = gram.diagonal() <= n * torch.finfo(gram.dtype).eps * xx.diagonal()
    gram[constant], gram[:, constant], products[constant] = 0, 0, 0
    return gram, products, gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)


def _weighted_sums(
    features: NDArray, targets: FloatArray, w: FloatArray
) -> tuple[list[Any], float]:
    """As :func:`_sums`, of weighted samples; and the sum of the centred targets' squares."""
    d, K = features.shape[1], targets.shape[1]
    products = np.zeros((1 + d + K, 1 + d + K))
    for part in np.array_split(np.arange(len(w)), max(1, len(w) // _CHUNK)):
        root = np.sqrt(w[part])[:, None]
        rows = np.hstack([root, root * features[part], root * targets[part]])
        products += rows.T @ rows
    F, T = slice(1, d + 1), slice(d + 1, None)
    n, power = products[0, 0], np.trace(products[T, T])
    parts = products[0, F], products[0, T], products[F, F], products[F, T]
    sums = [n, *(torch.from_numpy(part.copy()) for part in parts)]
    return sums, float(power - np.sum(products[0, T] ** 2) / n)


def _by_gcv(sums: Sequence[Any], power: float) -> float:
    """The penalty that samples with these sums, and the targets' power, ask for."""
    n = sums[0]
    gram, products, unit = _centred(sums)
    s, V = (part.numpy() for part in torch.linalg.eigh(gram))
    # What rounding leaves of zeros would take up degrees of freedom.
    kept = s > len(s) * np.finfo(float).eps * s.max()
    explained = np.sum((V.T[kept] @ products.numpy()) ** 2, axis=1) / s[kept]
    merit = []
    for penalty in GCV_GRID:
        left = penalty / (s[kept] / float(unit) + penalty)
        residual = power - np.sum(explained * (1 - left**2))
        merit.append(max(residual, 0.0) / (n - 1 - np.sum(1 - left)) ** 2)
    return GCV_GRID[int(np.argmin(merit))]


def _ridge(
    F: NDArray, y: NDArray, kept: NDArray, out: NDArray, device: torch.device | None
) -> Readout:
    classes = np.unique(y)
    targets = np.where(y[:, None] == classes, 1.0, -1.0)
    sums, held = _sums(F, targets, kept, device), F[out].astype(np.float64)
    found = [held @ W + b for W, b in _solutions(sums, RIDGE_GRID)]
    # By accuracy; of equals, by the squared error.
    merit = [
        (np.mean(classes[scores.argmax(axis=1)] == y[out]), -np.mean((scores - targets[out]) ** 2))
        for scores in found
    ]
    penalty = RIDGE_GRID[merit.index(max(merit))]
    more = _sums(F, targets, out, device)
    both = [a + b for a, b in zip(sums, more, strict=True)]
    ((weights, bias),) = _solutions(both, [penalty])
    return Readout.from_weights(weights, bias, classes, penalty)


def _logistic(F: NDArray, y: NDArray, kept: NDArray, out: NDArray) -> Readout:
    from sklearn.linear_model import LogisticRegression

    mean, spread = F.mean(axis=0), F.std(axis=0)
    spread = np.where((spread > 0) & (F.max(axis=0) > F.min(axis=0)), spread, 1)
    standard = (F - mean) / spread
    models = [LogisticRegression(C=C, max_iter=200) for C in LOGISTIC_GRID]
    hits = [m.fit(standard[kept], y[kept]).score(standard[out], y[out]) for m in models]
    model = models[int(np.argmax(hits))].fit(standard, y)
    W, b = model.coef_, model.intercept_
    if len(W) == 1:
        W, b = np.concatenate([-W, W]) / 2, np.concatenate([-b, b]) / 2
    W = W / spread
    return Readout.from_weights(W.T, b - W @ mean, model.classes_, model.C)
