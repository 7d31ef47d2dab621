"""Compressed random networks as estimators of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .._checks import FloatArray, plain, positive, same_length, samples
from ..theory.activations import AnyActivation, activation_list
from ..theory.networks import RandomMLP
from .convert import Levels, compress
from .network import CompressedNetwork
from .readout import counts, fit_ridge, two_classes
from .scaling import Scaling


class _Estimator(BaseEstimator):
    """What the two share: parameters, and how a network comes about."""

    def __init__(
        self,
        widths: int | Sequence[int] = (500, 500),
        *,
        activation: str | AnyActivation | Sequence[str | AnyActivation] = "relu",
        levels: Levels = 16,
        sparsity: float = 0.9,
        ridge: float | None = None,
        standardize: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.widths = widths
        self.activation = activation
        self.levels = levels
        self.sparsity = sparsity
        self.ridge = ridge
        self.standardize = standardize
        self.random_state = random_state

    def _fit(
        self, X: FloatArray, targets: FloatArray, classes: NDArray | None, weight: ArrayLike | None
    ) -> None:
        """The network, with a readout of the targets (n, K)."""
        X = samples("X", X)
        ridge = None if self.ridge is None else positive("ridge", self.ridge)
        w = counts(weight, len(X))
        used = w > 0
        X, targets, w = X[used], targets[used], w[used]
        scaling = _scaling(X, w, self.standardize)
        network = self._drawn(np.sqrt(w / w.mean())[:, None] * scaling(X))
        network.scaling = scaling
        network.readout = fit_ridge(network.features(X), targets, classes, w, ridge)
        self.network_ = network

    def _drawn(self, rows: FloatArray) -> CompressedNetwork:
        """The network without a readout, for rows of mean squared norm one."""
        widths = np.atleast_1d(self.widths)
        each = isinstance(self.activation, Sequence) and not isinstance(self.activation, str)
        listed = self.activation if each else [self.activation] * max(1, len(widths))
        activations = activation_list("activation", listed)
        if each:
            same_length("activation", activations, "widths", len(widths))
        net = RandomMLP(rows.shape[1], self.widths, activations, tau0=1.0, device="cpu")
        return compress(net, rows, self.levels, self.sparsity, _seed(self.random_state))

    def _outputs(self, X: ArrayLike) -> NDArray[np.floating]:
        """Scores or values, (n, K)."""
        check_is_fitted(self)
        rows = validate_data(self, _numpy("X", X), reset=False, dtype=np.float64)
        return self.network_.outputs(rows)


class NTKLCClassifier(ClassifierMixin, _Estimator):
    """A classifier of scikit-learn: a compressed random network with a ridge readout.

    Hidden weights are ternary and drawn, activations are staircases, and only the readout is
    fitted: on targets ±1, a column a class. Scores are no probabilities, so there is no
    ``predict_proba``; scikit-learn's ``CalibratedClassifierCV`` makes some.

    Parameters
    ----------
    widths : int or sequence of int
        Neurons of the hidden layers. One layer alone, and sparse, has neurons that see few columns
        of X at once: where there are ten or fewer, two layers tell products of columns better.
    activation : Activation or name, or a sequence of them
        One for all layers, or each layer's own.
    levels : int, sequence of int, "paper", "script" or Matching
        Of the staircases, as for :func:`~ntklc_helpers.compression.convert.compress`. A Matching,
        for τ₀ = 1, is not made anew in each fit.
    sparsity : float
        Share of zeros among the hidden weights, in [0, 1).
    ridge : float, optional
        Penalty of the readout, positive, over the mean eigenvalue of its features' centred Gram
        matrix; by default what generalised cross-validation chooses
        (:func:`~ntklc_helpers.compression.readout.fit_ridge`).
    standardize : bool
        Whether columns of X are divided by their standard deviations, one each. Columns of several
        kinds need it; images, whose pixels are of one kind, may do a little better without. In
        either case columns are centred, and all divided by one number, so that rows have mean
        squared norm one (τ₀ = 1), the scale for which the network is made.
    random_state : int, RandomState or None
        Of the hidden weights.

    Attributes
    ----------
    classes_ : (K,) array
        The labels, sorted.
    network_ : CompressedNetwork
        The whole of the prediction, with the scaling of X. ``network_.save`` writes a file, nothing
        of which can be run, and what :func:`~ntklc_helpers.compression.loading.load` makes of it
        predicts the same classes; truth values become whole numbers there.
    n_features_in_, feature_names_in_
        Number of columns of X, and their names where all are text.

    Examples
    --------
    >>> train, test = nh.load_digits("train"), nh.load_digits("test")
    >>> clf = nh.NTKLCClassifier(widths=500, levels=16, sparsity=0.9, random_state=0)
    >>> clf.fit(train.X, train.labels).score(test.X, test.labels) > 0.9
    True
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     size = clf.network_.save(file.name)
    ...     np.array_equal(nh.load(file.name).predict(test.X), clf.predict(test.X))
    True
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Draw the network and fit its readout.

        Parameters
        ----------
        X : (n, p) array
        y : (n,) labels
            Of two classes at least.
        sample_weight : (n,) array, optional
            Numbers of at least 0; a whole number is as good as the sample so many times.

        Returns
        -------
        NTKLCClassifier
            Itself. ValueError if an argument is not as stated, or all rows of X are the same;
            TypeError if X is sparse.
        """
        given = _numpy("X", X), _numpy("y", y)
        rows, labels = validate_data(self, *given, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(labels)
        classes, found = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got one class: {classes[0]!r}")
        names = two_classes("y", classes, len(classes))
        if not np.array_equal(names, classes):
            raise ValueError(f"y must be labels that int64 holds, got {classes.dtype}")
        targets = np.where(found[:, None] == np.arange(len(classes)), 1.0, -1.0)
        self._fit(rows, targets, names, sample_weight)
        self.classes_ = classes
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Scores of the classes, (n, K); of two classes (n,), positive for the second.

        ValueError if X does not fit; NotFittedError before :meth:`fit`.
        """
        scores = self._outputs(X)
        return scores if scores.shape[1] > 2 else (scores[:, 1] - scores[:, 0]) / 2

    def predict(self, X: ArrayLike) -> NDArray:
        """(n,) labels, each of the class with the highest score; errors as for its scores."""
        scores = self._outputs(X)
        return self.classes_[scores.argmax(axis=1)]


class NTKLCRegressor(MultiOutputMixin, RegressorMixin, _Estimator):
    """A regressor of scikit-learn: a compressed random network with a ridge readout.

    Parameters and attributes as for :class:`NTKLCClassifier`, but ``classes_``. Several outputs
    have one penalty, in whose choice each counts in units of its spread. What is loaded from the
    file that ``network_.save`` writes predicts the same values, (n,) where there is one output.

    Examples
    --------
    >>> X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    >>> y = X[:, 0] * X[:, 1]
    >>> regressor = nh.NTKLCRegressor(widths=(200, 200), random_state=0).fit(X[:200], y[:200])
    >>> regressor.score(X[200:], y[200:]) > 0.9
    True
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Draw the network and fit its readout.

        Parameters
        ----------
        X : (n, p) array
        y : (n,) or (n, K) array
            Values.
        sample_weight : (n,) array, optional
            Numbers of at least 0; a whole number is as good as the sample so many times.

        Returns
        -------
        NTKLCRegressor
            Itself. ValueError if an argument is not as stated, or all rows of X are the same;
            TypeError if X is sparse.
        """
        how = {"multi_output": True, "y_numeric": True, "ensure_min_samples": 2}
        given = _numpy("X", X), _numpy("y", y)
        rows, values = validate_data(self, *given, dtype=np.float64, **how)
        targets = samples("y", values.reshape(len(values), -1))
        self._fit(rows, targets, None, sample_weight)
        self._output = values.shape[1:]
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.floating]:
        """Values for X (n, p), of the shape that y had.

        ValueError if X does not fit; NotFittedError before :meth:`fit`.
        """
        found = self._outputs(X)
        return found.reshape(len(found), *self._output)


def _scaling(X: FloatArray, w: FloatArray, standardize: Any) -> Scaling:
    """To centred rows of mean squared norm one, if wanted with columns of variance one before."""
    if not isinstance(standardize, bool | np.bool_):
        raise ValueError(f"standardize must be True or False, got {standardize!r}")
    found = StandardScaler().fit(X, sample_weight=w)
    scale = found.scale_ if standardize else np.ones(X.shape[1])
    size = np.sqrt(np.sum(found.var_ / scale**2))
    if not (np.ptp(X, axis=0).any() and size > 0):
        raise ValueError("X must hold rows that differ: its scale is zero")
    return Scaling(found.mean_, size * scale)


def _numpy(argument: str, values: Any) -> Any:
    """What scikit-learn, which checks the rest, would not take or not see: tensors and masks."""
    kinds = torch.Tensor | np.ma.MaskedArray
    return plain(argument, values) if isinstance(values, kinds) else values


def _seed(random_state: Any) -> int:
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError as error:
        raise ValueError(f"random_state must be as scikit-learn has it: {error}") from error
