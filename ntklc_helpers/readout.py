"""The trained last layer on fixed features: ridge or logistic regression, in few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .validation import nonnegative_integer

FloatArray = NDArray[np.float64]

READOUT_ARRAYS = ("weights", "scale", "bias", "classes")
READOUT_DTYPES = ("float32", "float16", "int8")
_CHUNK = 4096
# Ridge penalties tried, as parts of the mean eigenvalue of the centred Gram matrix.
RIDGE_GRID = tuple(10.0**k for k in np.arange(-4, 2, 0.5))
# Inverse penalties tried by logistic regression on standardised features.
LOGISTIC_GRID = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class Readout:
    """Scores ``features @ (weights * scale) + bias``; the class with the highest is predicted.

    Attributes
    ----------
    weights : (d, K) array of float32, float16 or int8
    scale : (K,) float32 array
        One step a class for int8, else ones.
    bias : (K,) float32 array
    classes : (K,) int64 array
        The labels, increasing.
    penalty : float
        What was chosen on held-out samples: λ over the mean eigenvalue for ridge, C for logistic;
        NaN for weights from elsewhere.
    """

    weights: NDArray
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    classes: NDArray[np.int64]
    penalty: float = float("nan")

    @classmethod
    def from_weights(
        cls, weights: ArrayLike, bias: ArrayLike, classes: ArrayLike, penalty: float = float("nan")
    ) -> Readout:
        """A float32 readout from weights (d, K) and bias (K,)."""
        bias = np.asarray(bias, np.float32)
        ones = np.ones(len(bias), np.float32)
        weights, classes = np.asarray(weights, np.float32), np.asarray(classes, np.int64)
        return cls(weights, ones, bias, classes, penalty)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Readout:
        """From the arrays named in ``READOUT_ARRAYS``.

        Raises
        ------
        KeyError, ValueError
            If one is missing, or they do not fit each other.
        """
        weights, scale, bias, classes = (arrays[name] for name in READOUT_ARRAYS)
        check_readout_dtype(str(weights.dtype))
        kinds = (scale.dtype, bias.dtype, classes.dtype)
        wanted = (np.dtype(np.float32), np.dtype(np.float32), np.dtype(np.int64))
        if weights.ndim != 2 or kinds != wanted:
            raise ValueError(f"a readout is not made of {weights.shape} weights and {kinds}")
        if not scale.shape == bias.shape == classes.shape == weights.shape[1:]:
            raise ValueError("a readout's scale, bias and classes must have one entry a class")
        if not all(np.isfinite(array).all() for array in (weights, scale, bias)):
            raise ValueError("a readout must be finite")
        return cls(weights, scale, bias, classes)

    @property
    def dtype(self) -> str:
        """In what the weights are held."""
        return str(self.weights.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(a.nbytes for a in (self.weights, self.scale, self.bias, self.classes))

    def rounded(self, dtype: str) -> Readout:
        """The same in float32, float16 or int8 (127 steps a class to its largest weight).

        Raises
        ------
        ValueError
            For another dtype.
        """
        check_readout_dtype(dtype)
        weights = self.weights * self.scale
        scale = np.ones_like(self.scale)
        if dtype == "int8":
            scale = np.abs(weights).max(axis=0) / np.float32(127)
            scale[scale == 0] = 1
            weights = np.rint(weights / scale)
        return replace(self, weights=weights.astype(dtype), scale=scale)

    def scores(self, features: ArrayLike) -> NDArray[np.float32]:
        """(n, K) scores of features (n, d)."""
        # By torch: numpy's threads would spin on beside those that made the features.
        weights = torch.from_numpy(self.weights * self.scale)
        return (torch.from_numpy(np.asarray(features, np.float32)) @ weights).numpy() + self.bias

    def predict(self, features: ArrayLike) -> NDArray[np.int64]:
        """(n,) predicted labels."""
        return self.classes[self.scores(features).argmax(axis=1)]


def check_readout_dtype(dtype: str) -> None:
    """Raise ValueError unless the dtype is one that a readout can be held in."""
    if dtype not in READOUT_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(READOUT_DTYPES)}, got {dtype!r}")


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
    y : (n,) whole numbers
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
    """
    check_readout_dtype(dtype)
    features, y = np.asarray(features), np.asarray(y)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must be a matrix that is not empty, got {features.shape}")
    labels(y, len(features))
    if kind not in ("ridge", "logistic"):
        raise ValueError(f"kind must be 'ridge' or 'logistic', got {kind!r}")
    if not 0 < holdout < 1:
        raise ValueError(f"holdout must be in (0, 1), got {holdout!r}")
    held = max(1, round(holdout * len(y)))
    order = np.random.default_rng(nonnegative_integer("seed", seed)).permutation(len(y))
    out, kept = np.sort(order[:held]), np.sort(order[held:])
    if len(kept) == 0 or len(np.unique(y[kept])) < 2:
        raise ValueError(f"y must leave two classes to fit on; {held} of {len(y)} are held out")
    if kind == "ridge":
        return _ridge(features, y, kept, out, device).rounded(dtype)
    return _logistic(features, y, kept, out).rounded(dtype)


def labels(y: NDArray, n: int) -> NDArray[np.int64]:
    """The different labels in y, increasing, if y holds n whole numbers of two kinds at least."""
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"y must be {n} whole numbers, one label per row of X; "
            f"got shape {y.shape} and dtype {y.dtype}"
        )
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes, got {classes.tolist()}")
    return classes.astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Count, sums and products of rows; those of two sets of rows add up."""

    n: int
    x: torch.Tensor
    t: torch.Tensor
    xx: torch.Tensor
    xt: torch.Tensor

    @classmethod
    def of(
        cls,
        features: NDArray,
        targets: FloatArray,
        rows: NDArray,
        device: torch.device | str | None,
    ) -> _Sums:
        d, K = features.shape[1], targets.shape[1]
        shapes = (d,), (K,), (d, d), (d, K)
        sums = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]
        for part in np.array_split(rows, max(1, len(rows) // _CHUNK)):
            F, T = features[part].astype(np.float64), targets[part]
            for total, found in zip(sums, _products(F, T, device), strict=True):
                total += found
        return cls(len(rows), *sums)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.n + other.n,
            self.x + other.x,
            self.t + other.t,
            self.xx + other.xx,
            self.xt + other.xt,
        )

    def centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gram matrix and products of what is left when the means are taken off."""
        return (
            self.xx - torch.outer(self.x, self.x) / self.n,
            self.xt - torch.outer(self.x, self.t) / self.n,
        )

    def solutions(self, penalties: tuple[float, ...]) -> list[tuple[FloatArray, FloatArray]]:
        """Weights and bias for each penalty."""
        gram, products = self.centred()
        diagonal = gram.diagonal().clone()
        unit = diagonal.mean().clamp_min(torch.finfo(gram.dtype).tiny)
        found = []
        for penalty in penalties:
            gram.diagonal().copy_(diagonal + penalty * unit)
            factor = torch.linalg.cholesky(gram)
            weights = torch.cholesky_solve(products, factor).cpu().numpy()
            found.append(
                (weights, (self.t.cpu().numpy() - self.x.cpu().numpy() @ weights) / self.n)
            )
        return found


def _products(
    F: FloatArray, T: FloatArray, device: torch.device | str | None
) -> tuple[torch.Tensor, ...]:
    """Sums of the rows of F and T, FᵀF and FᵀT, on the device."""
    if device is None:
        # numpy knows that FᵀF is symmetric, and takes half the time.
        found = F.sum(axis=0), T.sum(axis=0), F.T @ F, F.T @ T
        return tuple(torch.from_numpy(array) for array in found)
    f, t = torch.from_numpy(F).to(device), torch.from_numpy(T).to(device)
    return f.sum(0), t.sum(0), f.T @ f, f.T @ t


def _ridge(
    features: NDArray, y: NDArray, kept: NDArray, out: NDArray, device: torch.device | str | None
) -> Readout:
    classes = np.unique(y)
    targets = np.where(y[:, None] == classes, 1.0, -1.0)
    sums = _Sums.of(features, targets, kept, device)
    held = features[out].astype(np.float64)
    found = [held @ W + b for W, b in sums.solutions(RIDGE_GRID)]
    # By accuracy; of equals, by the squared error.
    merit = [
        (np.mean(classes[scores.argmax(axis=1)] == y[out]), -np.mean((scores - targets[out]) ** 2))
        for scores in found
    ]
    penalty = RIDGE_GRID[merit.index(max(merit))]
    both = sums + _Sums.of(features, targets, out, device)
    ((weights, bias),) = both.solutions((penalty,))
    return Readout.from_weights(weights, bias, classes, penalty)


def _logistic(features: NDArray, y: NDArray, kept: NDArray, out: NDArray) -> Readout:
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    standard = (features - mean) / spread
    models = [LogisticRegression(C=C, max_iter=200) for C in LOGISTIC_GRID]
    hits = [m.fit(standard[kept], y[kept]).score(standard[out], y[out]) for m in models]
    model = models[int(np.argmax(hits))].fit(standard, y)
    W, b = model.coef_, model.intercept_
    if len(W) == 1:
        W, b = np.concatenate([-W, W]) / 2, np.concatenate([-b, b]) / 2
    W = W / spread
    return Readout.from_weights(W.T, b - W @ mean, model.classes_, model.C)
