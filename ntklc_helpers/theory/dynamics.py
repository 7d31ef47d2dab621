"""How a linearised network trains: predictions and losses over time, in closed form.

A wide network follows its tangent kernel. On the squared loss its outputs then obey a linear
equation, which the kernel's eigenvalues and eigenvectors solve, for gradient flow and for gradient
descent alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eig, eigh, solve

from .._checks import SAME, FloatArray, array, positive, samples
from .operators import KernelEquivalent

# Where eigenvectors lie closer together than that, they say nothing any more.
_WORST_CONDITION = 1e8
# Asymmetry, relative to the kernel, that is rounding.
_SYMMETRIC = 1e-12
# Beyond that a mode has grown out of hand.
_LARGEST = 1e100


@frozen
class TrainingCurve:
    """What a linearised network does over time.

    Attributes
    ----------
    times : (T,) array
        Learning rate × steps.
    loss : (T,) array
        Mean over samples of ‖f(x_i) − y_i‖².
    predictions : (T, n) or (T, n, K) array
        f on what is trained on.
    test_loss, test_predictions
        The same on other samples; None without them.
    rates : (n,) array
        Eigenvalues of the kernel, ascending in their real parts: each mode of the error decays at
        its own.

    Examples
    --------
    >>> nh.training_curve(np.diag([1.0, 2.0]), [1, 1], [0.0, 1.0]).loss.round(4)
    array([1.    , 0.0768])
    """

    times: FloatArray = field(eq=SAME)
    loss: FloatArray = field(eq=SAME)
    predictions: FloatArray = field(eq=SAME)
    test_loss: FloatArray | None = field(eq=SAME)
    test_predictions: FloatArray | None = field(eq=SAME)
    rates: NDArray[Any] = field(eq=SAME)

    def time_to(self, loss: float) -> float:
        """The first time at which the loss is that low, by its logarithm between the given ones.

        Infinite if it is not until the last of them.

        Examples
        --------
        >>> curve = nh.training_curve(np.eye(2), [1, -1], np.linspace(0, 3, 31))
        >>> round(curve.time_to(np.exp(-4)), 6)
        2.0
        """
        aim = positive("loss", loss)
        low = np.flatnonzero(self.loss <= aim)
        if not len(low):
            return float("inf")
        last = int(low[0])
        if last == 0:
            return float(self.times[0])
        before, after = np.log(self.loss[last - 1 : last + 1])
        share = (before - np.log(aim)) / (before - after)
        return float(self.times[last - 1] + share * (self.times[last] - self.times[last - 1]))


def training_curve(
    N: ArrayLike | KernelEquivalent,
    y: ArrayLike,
    times: ArrayLike,
    *,
    cross_kernel: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    learning_rate: float | None = None,
) -> TrainingCurve:
    """Training of a linearised network on ½ Σ_i ‖f(x_i) − y_i‖², from f = 0.

    Parameters
    ----------
    N : (n, n) array or KernelEquivalent
        Tangent kernel of what is trained on, exact or a finite network's, or its equivalent:
        :func:`~ntklc_helpers.theory.infinite.limit_kernels` and
        :func:`~ntklc_helpers.theory.surrogates.surrogate_ntk` make such. Of a kernel that is not
        symmetric, row i says how f at i moves with the errors at all j.
    y : (n,) or (n, K) array
        What f is to become: values, or a column for each class. Of a network that does not start
        at 0, y less what it starts at.
    times : (T,) array
        Not negative. Learning rate × steps; for a loss that is the mean over n samples and K
        outputs, as ``torch.nn.MSELoss``, the rate counts 2/(nK) times.
    cross_kernel : (m, n) array, optional
        The kernel between other samples and those trained on.
    targets : (m,) or (m, K) array, optional
        What f is to be on those, for ``test_loss``; needs ``cross_kernel``.
    learning_rate : float, optional
        Of gradient descent, whose steps are then taken one by one: every time must be a multiple
        of it. By default gradient flow, which steps tend to as they get small.

    Returns
    -------
    TrainingCurve

    Raises
    ------
    ValueError
        If an argument is not as stated, the eigenvectors of N nearly coincide, or the learning rate
        is beyond stability, which the message names. An N with infinities is that of a network with
        a jump: it trains by its :func:`~ntklc_helpers.theory.surrogates.surrogate_ntk`.

    Notes
    -----
    With N = V Λ V⁻¹, f_t = V (1 − e^(−Λt)) V⁻¹ y, and between other samples and these
    M N⁻¹ (1 − e^(−Nt)) y = M V (1 − e^(−Λt))/Λ V⁻¹ y. Gradient descent has (1 − ηλ)^k, k = t/η, in
    the place of e^(−λt). See Jacot, Gabriel and Hongler (2018); Lee et al. (2019), eqs. 8 and 9.

    Examples
    --------
    >>> K, N = nh.limit_kernels(np.eye(3), ["relu"])
    >>> nh.training_curve(N, [1.0, 0.0, -1.0], [0.0, 1.0, 10.0]).loss.round(4).tolist()
    [0.6667, 0.124, 0.0]
    """
    N = _kernel(N)
    Y, times = columns_of("y", y, len(N)), training_times(times)
    if targets is not None and cross_kernel is None:
        raise ValueError(
            "targets must come with cross_kernel, the kernel between them and the others"
        )
    values, V, parts = _modes(N, Y)
    with np.errstate(over="ignore", invalid="ignore"):
        left = _left_over(values, times, learning_rate)
    if not (np.abs(left) < _LARGEST).all():
        raise ValueError(
            f"N must have no eigenvalue so far below 0 as {values.real.min():.3g}: until the last "
            "of times its mode grows beyond all numbers"
        )
    done = _done(values, times, left)
    # Of a symmetric kernel all is real, else what is not cancels.
    errors = np.real(np.einsum("nk,tk,kc->tnc", V, left, parts, optimize=True))
    predictions, shape = Y - errors, (len(times), -1) if np.ndim(y) == 1 else (len(times), *Y.shape)
    loss = np.mean(np.sum(errors**2, axis=2), axis=1)
    test = test_loss = None
    if cross_kernel is not None:
        M = samples("cross_kernel", cross_kernel, len(N))
        test = np.real(np.einsum("mk,tk,kc->tmc", M @ V, done, parts, optimize=True))
        if targets is not None:
            aims = columns_of("targets", targets, len(M), Y.shape[1])
            test_loss = np.mean(np.sum((test - aims) ** 2, axis=2), axis=1)
        test = test.reshape(len(times), -1) if np.ndim(y) == 1 else test
    return TrainingCurve(times, loss, predictions.reshape(shape), test_loss, test, values)


def largest_rate(N: ArrayLike | KernelEquivalent) -> float:
    """The learning rate below which gradient descent on ½ Σ_i (f(x_i) − y_i)² converges: 2/λ_max.

    Of a kernel (n, n) that is not symmetric, the least 2 Re λ over ``|λ|²`` of its eigenvalues; 0
    if one has no positive real part, for then no rate makes it converge. Raises ValueError as
    :func:`training_curve`.

    Examples
    --------
    >>> nh.theory.largest_rate(np.diag([4.0, 1.0]))
    0.5
    """
    N = _kernel(N)
    return _stable(np.linalg.eigvalsh(N) if _symmetric(N) else np.linalg.eigvals(N))


def training_times(values: ArrayLike) -> FloatArray:
    """``values`` as times (T,), none negative.

    >>> from ntklc_helpers.theory.dynamics import training_times
    >>> training_times([1, 2])
    array([1., 2.])
    """
    found = array("times", values, 1)
    if not len(found) or found.min() < 0:
        raise ValueError("times must be at least one, and none negative")
    return found


def columns_of(argument: str, values: ArrayLike, n: int, columns: int | None = None) -> FloatArray:
    """``values`` as (n, K), if they are that, or (n,) for one column.

    >>> from ntklc_helpers.theory.dynamics import columns_of
    >>> columns_of("y", [1, 2], 2).shape
    (2, 1)
    """
    found = (
        array(argument, values, 1)[:, None] if np.ndim(values) == 1 else samples(argument, values)
    )
    if len(found) != n or columns not in (None, found.shape[1]):
        wanted = f"{n} rows" if columns is None else f"{n} rows of {columns}"
        raise ValueError(f"{argument} must have {wanted}, got shape {np.shape(values)}")
    return found


def _kernel(values: ArrayLike | KernelEquivalent) -> FloatArray:
    dense = values.to_dense() if isinstance(values, KernelEquivalent) else values
    found = samples("N", dense)
    if found.shape[0] != found.shape[1]:
        raise ValueError(f"N must be square, n × n, got shape {found.shape}")
    return found


def _symmetric(N: FloatArray) -> bool:
    return bool(np.abs(N - N.T).max() <= _SYMMETRIC * np.abs(N).max())


def _modes(N: FloatArray, Y: FloatArray) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Eigenvalues (n,) and eigenvectors V (n, n) of a kernel, and V⁻¹ Y."""
    if _symmetric(N):
        values, V = eigh(N)
        return values, V, V.T @ Y
    values, V = eig(N)
    order = np.argsort(values.real)
    values, V = values[order], V[:, order]
    if not (condition := np.linalg.cond(V)) <= _WORST_CONDITION:
        raise ValueError(
            "N must have eigenvectors that differ, or be symmetric: theirs nearly coincide, with a "
            f"condition number of {condition:.2g}"
        )
    return values, V, solve(V, Y.astype(complex))


def _stable(values: NDArray[Any]) -> float:
    real = values.real
    if real.min() < -_SYMMETRIC * np.abs(values).max():
        return 0.0
    moved = np.abs(values) > _SYMMETRIC * np.abs(values).max()
    return float((2 * real[moved] / np.abs(values[moved]) ** 2).min()) if moved.any() else np.inf


def _left_over(values: NDArray[Any], times: FloatArray, learning_rate: Any) -> NDArray[Any]:
    """What is left of each mode's error (T, n)."""
    if learning_rate is None:
        return np.exp(-np.outer(times, values))
    rate = positive("learning_rate", learning_rate)
    if rate >= (limit := _stable(values)):
        raise ValueError(
            f"learning_rate must be below {limit:.6g} (largest_rate): from there on gradient "
            f"descent on this kernel diverges, got {rate:g}"
        )
    steps = np.rint(times / rate)
    if not np.allclose(steps * rate, times, rtol=1e-9, atol=1e-9 * rate):
        raise ValueError(f"times must be multiples of learning_rate={rate:g}")
    return (1 - rate * values) ** steps[:, None]


def _done(values: NDArray[Any], times: FloatArray, left: NDArray[Any]) -> NDArray[Any]:
    """(1 − left)/λ of each mode (T, n), which is the time where λ vanishes."""
    small = np.abs(values) * max(times.max(), 1e-300) < 1e-8
    return np.where(small, times[:, None], (1 - left) / np.where(small, 1.0, values))
