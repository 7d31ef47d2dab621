"""Finite networks trained on all samples at once, beside what their tangent kernel predicts.

Dense networks follow gradient flow, by a method whose steps are as many times longer than those of
gradient descent as it takes gradients for each; networks of steps take the steps of gradient
descent. Outputs are taken relative to those of the network as it was drawn.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import attrs
import numpy as np
import torch
from attrs import field, frozen

from .._checks import FloatArray, checked, each, inside, positive, whole
from ..data.images import balanced_rows, normalize
from ..data.mixture import GaussianMixture
from ..matching.match import Objective, match
from ..theory.activations import AnyActivation, Quantized, activation
from ..theory.dynamics import largest_rate, training_curve
from ..theory.networks import RandomMLP
from ..theory.surrogates import surrogate_ntk
from ..theory.weights import Gaussian, Ternary
from .images import Images
from .records import Record
from .runs import Run, Study, begin

__all__ = ["DENSE", "PRESETS", "SCHEMES", "FullBatch", "Task", "TrainingCurves", "scheme_layers"]

log = logging.getLogger(__name__)

DENSE = "dense"
_STEP, _IDENTITY = Quantized([0.0], [0.0, 1.0]), Quantized([0.0], [1.0, 1.0])
# The objective of the staircases, if there are any, and their surrogate if that is not matched too.
_SCHEMES: dict[str, tuple[Objective | None, Quantized | None]] = {
    DENSE: (None, None),
    "matched in the NTK": ("ntk", None),
    "matched in the CK, ReLU's derivative": ("exact", _STEP),
    "Lloyd–Max, ReLU's derivative": ("lloyd-max", _STEP),
    "matched in the CK, straight-through": ("exact", _IDENTITY),
}
SCHEMES = tuple(_SCHEMES)
"""What is trained: ReLU with its derivative, or staircases on ternary weights with a surrogate."""
# Beyond the largest eigenvalue in the limit, that of a finite network.
_MARGIN = 1.3
# By how much rounding may raise a loss that falls, of itself and of what a sample's target is.
_SLACK, _FLOOR = 1.0001, 1e-6
# Observations in each decade of time.
_PER_DECADE = 8
Weights = list[torch.Tensor]
Layers = tuple[tuple[AnyActivation, ...], tuple[Quantized | None, ...]]


@cache
def scheme_layers(scheme: str, depth: int, levels: int) -> Layers:
    """Activations and surrogates of a scheme for so many layers of ReLU, seen at τ₀ = 1.

    Examples
    --------
    >>> scheme_layers("dense", 2, 16)[1]
    (None, None)
    """
    relu, (objective, surrogate) = (activation("relu"),) * depth, _SCHEMES[scheme]
    if objective is None:
        return relu, (None,) * depth
    found = match(relu, 1.0, levels, objective)
    return found.activations, found.surrogates or (surrogate,) * depth


@frozen(eq=False)
class Task:
    """Samples (n, p) of mean square norm 1 and targets (n, K) to train on, and others to test on.

    Examples
    --------
    >>> Task.of_mixture("mixed", p=50, n=100, seed=0).Y.mean(axis=0).round(9)
    array([0., 0.])
    """

    X: FloatArray
    Y: FloatArray
    X_test: FloatArray
    Y_test: FloatArray

    @property
    def arrays(self) -> tuple[FloatArray, ...]:
        """X, Y, X_test and Y_test."""
        return self.X, self.Y, self.X_test, self.Y_test

    @classmethod
    def of_labels(cls, X: Any, labels: Any, X_test: Any, labels_test: Any) -> Task:
        """A column for each class, 1 or 0, less its mean; samples normalised by the first."""
        identity = np.eye(int(labels.max()) + 1)
        mean = identity[labels].mean(axis=0)
        targets = identity[labels] - mean, identity[labels_test] - mean
        return cls(normalize(X), targets[0], normalize(X_test, reference=X), targets[1])

    @classmethod
    def of_mixture(cls, name: str, p: int, n: int, seed: int) -> Task:
        """Of a mixture of two classes: n samples to train on, as many to test on."""
        mixture = GaussianMixture.preset(name, p=p, n_classes=2)
        rng = np.random.default_rng(seed)
        one, other = (mixture.sample(n, rng) for _ in range(2))
        return cls.of_labels(one.X, one.labels, other.X, other.labels)

    def first(self, n: int) -> Task:
        """The same with only so many samples to train on."""
        return Task(self.X[:n], self.Y[:n], self.X_test, self.Y_test)

    def kernels(
        self, layers: Layers, rates: Sequence[float] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Limits of the tangent kernels among what is trained on, and between the test and that."""
        # Not as rows beside others: a sample with itself is known exactly.
        among = surrogate_ntk(self.X, *layers, tau0=1.0, rates=rates)
        return among, surrogate_ntk(self.X_test, *layers, Z=self.X, tau0=1.0, rates=rates)


@frozen(eq=False, slots=False)
class FullBatch:
    """A random network with K outputs, each weight of which is trained, on all samples at once.

    Gradients are those in the weights of the NTK's parametrisation, of variance 1. With rates
    d_0 = p, d_1 … d_L it is the usual one, whose weights are these over √d_{ℓ−1}.

    Attributes
    ----------
    net : RandomMLP
    outputs : int
    surrogates : sequence of Quantized or None
        In the place of derivatives.
    rates : sequence of float
        Factors of the learning rates of W_1 … W_L and of the readout.

    Examples
    --------
    >>> net = FullBatch(nh.RandomMLP(2, [500], ["erf"]), 1, [None], [1.0, 1.0])
    >>> X, y = torch.eye(2), torch.tensor([[1.0], [-1.0]])
    >>> (_, f), = net.descend(X, y, [10.0], learning_rate=0.5)
    >>> bool((f[X[:, 0] == 1] > 0.9).all())
    True
    """

    net: RandomMLP
    outputs: int
    surrogates: Sequence[Quantized | None]
    rates: Sequence[float]
    start: Weights = field(init=False)

    @start.default
    def _start(self) -> Weights:
        generator = torch.Generator().manual_seed(self.net.seed)
        shape = self.outputs, self.net.widths[-1]
        readout = torch.randn(shape, generator=generator).to(self.net.device, self.net.dtype)
        return [*self.net.matrices, readout]

    def layers(self, weights: Weights, X: torch.Tensor) -> tuple[Weights, Weights]:
        """Pre-activations of each layer, and what each hands on, X first."""
        u, h = zip(*self.net.layers(X, weights[:-1]), strict=True)
        return list(u), [X, *h]

    def __call__(self, weights: Weights, X: torch.Tensor) -> torch.Tensor:
        """Outputs (n, K)."""
        return self.layers(weights, X)[1][-1] @ weights[-1].T

    def direction(self, weights: Weights, X: torch.Tensor, Y: torch.Tensor) -> Weights:
        """How descent on ½ Σ ‖f(x_i) − y_i‖² moves each weight, for a learning rate of 1."""
        u, h = self.layers(weights, X)
        error = Y - h[-1] @ weights[-1].T
        moves, back = [self.rates[-1] * (error.T @ h[-1])], error @ weights[-1]
        for i in reversed(range(len(u))):
            surrogate = self.surrogates[i]
            slope = self.net.activations[i].derivative if surrogate is None else surrogate
            b = back * slope(u[i]) / len(weights[i]) ** 0.5
            moves.append(self.rates[i] * (b.T @ h[i]))
            if i:
                back = b @ weights[i]
        return moves[::-1]

    def descend(
        self, X: torch.Tensor, Y: torch.Tensor, times: Sequence[float], learning_rate: float
    ) -> Iterator[tuple[Weights, torch.Tensor]]:
        """Weights and outputs on X less those at the start, at each time, by gradient descent.

        Times are multiples of the learning rate, ascending.
        """
        weights, first, done = [W.clone() for W in self.start], self(self.start, X), 0
        for time in times:
            steps = round(time / learning_rate)
            for _ in range(steps - done):
                moves = self.direction(weights, X, Y + first)
                for W, move in zip(weights, moves, strict=True):
                    W.add_(move, alpha=learning_rate)
            done = steps
            yield weights, self(weights, X) - first

    def flow(
        self, X: torch.Tensor, Y: torch.Tensor, times: Sequence[float], fastest: float
    ) -> Iterator[tuple[Weights, torch.Tensor]]:
        """As :meth:`descend`, by gradient flow: with s gradients, a step 2s²/3 times as long.

        ``fastest`` bounds the eigenvalues of the tangent kernel, and is raised where it did not.
        The Runge–Kutta–Chebyshev method of second order: Sommeijer, Shampine and Verwer, J. Comput.
        Appl. Math. 88 (1998). One step from each time to the next: with eight times a decade the
        loss is off by half a percent.
        """
        weights, first, now = list(self.start), self(self.start, X), 0.0
        loss = float((Y**2).sum())
        for time in times:
            while True:
                new = self._chebyshev_step(weights, X, Y + first, time - now, fastest)
                f = self(new, X) - first
                # Flow lowers the loss at all times: a step that does not has left stability.
                if (after := float(((f - Y) ** 2).sum())) <= loss * _SLACK + _FLOOR * len(X):
                    break
                fastest *= 1.5
            weights, now, loss = new, time, after
            yield weights, f

    def _chebyshev_step(
        self, weights: Weights, X: torch.Tensor, Y: torch.Tensor, step: float, fastest: float
    ) -> Weights:
        """The weights after one step of the method."""
        # Stable on 2(s² − 1)/3, of which a twentieth is kept as a margin.
        initial, rest = _chebyshev(max(2, int(np.ceil(np.sqrt(1 + 1.6 * step * fastest)))))
        moved, before = self.direction(weights, X, Y), weights
        last, weights = (
            weights,
            [W + initial * step * m for W, m in zip(weights, moved, strict=True)],
        )
        for mu, nu, forward, again in rest:
            moves = self.direction(weights, X, Y)
            parts = zip(before, weights, last, moves, moved, strict=True)
            new = [
                (1 - mu - nu) * W0 + mu * W1 + nu * W2 + step * (forward * m1 + again * m0)
                for W0, W1, W2, m1, m0 in parts
            ]
            last, weights = weights, new
        return weights


def _chebyshev(stages: int) -> tuple[float, list[tuple[float, float, float, float]]]:
    """Coefficients of the first stage and of the others, in the notation of the paper."""
    w0 = 1 + 2 / 13 / stages**2
    T, D, S = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, stages + 1):
        T.append(2 * w0 * T[-1] - T[-2])
        D.append(2 * T[j - 1] + 2 * w0 * D[-1] - D[-2])
        S.append(4 * D[j - 1] + 2 * w0 * S[-1] - S[-2])
    w1 = D[-1] / S[-1]
    b = [s / d**2 for s, d in zip(S[2:], D[2:], strict=True)]
    b = [b[0], b[0], *b]
    rest = []
    for j in range(2, stages + 1):
        forward = 2 * b[j] * w1 / b[j - 1]
        again = -(1 - b[j - 1] * T[j - 1]) * forward
        rest.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], forward, again))
    return b[1] * w1, rest


def _some(argument: str, values: Any) -> tuple[int, ...]:
    return each(argument, values, whole)


@frozen
class _Network:
    """One of those that are trained; the limit of those that differ in ``seed`` is the same."""

    data: str
    depth: int
    scheme: str
    parametrisation: str
    width: int
    seed: int
    rate: float

    def limit(self) -> str:
        """A name for what its limit depends on."""
        width = self.width if self.parametrisation == "usual" else "any"
        parts = self.data, self.depth, self.scheme, self.parametrisation, width, self.rate
        return _stage("limit", *parts)

    def factors(self, p: int) -> list[float]:
        """Of the learning rates: of the usual parametrisation d_{ℓ−1}, of which the width is a
        part of the learning rate."""
        usual = self.parametrisation == "usual"
        return [p / self.width if usual else 1.0] + [1.0] * self.depth


def _stage(*parts: Any) -> str:
    return "-".join(str(part) for part in parts).replace(",", "").replace(" ", "-")


@frozen(kw_only=True)
class TrainingCurves(Study):
    """Which networks are trained on what; images are told as to every study.

    Attributes
    ----------
    n_test : int
        Test images, classes balanced.
    n_steps : int
        Of the training images, for networks that take steps.
    p_mixture, n_mixture : int
        Of the mixture ``"mixed"`` of two classes beside the images.
    depths : tuple of int
        Layers of dense networks that follow gradient flow; the last is that of all others.
    widths : tuple of int
        Of those.
    step_widths : tuple of int
        Of networks that take steps, dense and of staircases.
    widest : int
        Of the first two schemes, beside that.
    rate : float
        Their learning rate, in units of the largest at which the limit is stable.
    rates : tuple of float
        Learning rates at which the narrowest of them are trained in both parametrisations.
    levels : int
    sparsity : float
        Of the ternary weights with which networks of staircases begin.
    until : float
        The last time, in units of the inverse of the largest eigenvalue of the ReLU network's
        kernel. Flow is seen from three decades before it.
    n_draws : int

    Examples
    --------
    >>> TrainingCurves(data="digits", n_train=100, widths=[64]).depths
    (2, 3)
    """

    n_test: int = checked(whole, 1000)
    n_steps: int = checked(whole, 500)
    p_mixture: int = checked(whole, 400, 8)
    n_mixture: int = checked(whole, 500, 4)
    depths: Sequence[int] = checked(_some, (2, 3))
    widths: Sequence[int] = checked(_some, (256, 512, 1024, 2048, 4096))
    step_widths: Sequence[int] = checked(_some, (256, 512, 1024))
    widest: int = checked(whole, 2048)
    rate: float = checked(positive, 0.25)
    rates: Sequence[float] = checked(each, (0.5, 0.95, 1.5), positive)
    levels: int = checked(whole, 16, 2, 256)
    sparsity: float = checked(inside, 0.9)
    until: float = checked(positive, 50.0)
    n_draws: int = checked(whole, 3)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        if self.n_steps > len(images.X):
            raise ValueError(f"n_steps must be at most {len(images.X)}, the number of images")

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Train all, or what is left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each network and time: ``accuracy`` in percent on the test samples, ``time``
            in units of the inverse of the largest eigenvalue of the ReLU network's kernel, loss and
            test loss, and both as the limit predicts them (missing beyond the largest stable
            learning rate). A ``rate`` of 0 is gradient flow.
        """
        with begin(self, folder, device) as run:
            tasks, rows, seconds = self._tasks(run), list[dict[str, Any]](), {"limits": 0.0}
            seconds["networks"], limits = 0.0, dict[str, dict[str, Any]]()
            for one in self._networks():
                task, name = tasks[one.data], one.limit()
                task = task if one.rate == 0 else task.first(self.n_steps)
                if name not in limits:
                    limits[name] = run.once(name, partial(self._limit, task, one))
                    seconds["limits"] += limits[name]["seconds"]
                limit = limits[name]
                train = partial(self._trained, task, one, limit, run.device)
                found = run.once(_stage(*attrs.astuple(one)), train)
                seconds["networks"] += found["seconds"]
                rows += _rows(one, limit, found)
                log.info("%s: test loss %.4f", attrs.astuple(one), found["test_loss"][-1])
            return run.record(rows, seconds)

    def _networks(self) -> Iterator[_Network]:
        seeds, depth = range(self.seed, self.seed + self.n_draws), self.depths[-1]
        for data in (self.data, "mixed"):
            for layers, width, seed in product(self.depths, self.widths, seeds):
                yield _Network(data, layers, DENSE, "NTK", width, seed, 0.0)
        for data in (self.data, "mixed"):
            for width, scheme, seed in product(self.step_widths, SCHEMES, seeds):
                yield _Network(data, depth, scheme, "NTK", width, seed, self.rate)
        for scheme, seed in product(SCHEMES[:2], seeds):
            yield _Network(self.data, depth, scheme, "NTK", self.widest, seed, self.rate)
        for how, scheme, rate in product(("NTK", "usual"), SCHEMES[:2], self.rates):
            for width, seed in product(self.step_widths[:3:2], seeds):
                yield _Network(self.data, depth, scheme, how, width, seed, rate)

    def _tasks(self, run: Run) -> dict[str, Task]:
        images = run.images
        some = balanced_rows(images.y_test, min(self.n_test, len(images.y_test)), self.seed)
        # In no order, so that the first of them are of all classes.
        order = np.random.default_rng(self.seed).permutation(len(images.X))
        X, X_test = (part.reshape(len(part), -1) for part in (images.X, images.X_test[some]))
        task = Task.of_labels(X[order], images.y[order], X_test, images.y_test[some])
        mixed = Task.of_mixture("mixed", self.p_mixture, self.n_mixture, self.seed)
        return {self.data: task, "mixed": mixed}

    def _limit(self, task: Task, one: _Network) -> dict[str, Any]:
        """Times in units of 1/λ of the ReLU network, the unit, and what the limit predicts then."""
        dense = task.kernels(scheme_layers(DENSE, one.depth, self.levels))
        layers = scheme_layers(one.scheme, one.depth, self.levels)
        N, cross = task.kernels(layers, one.factors(task.X.shape[1]))
        unit, stable = largest_rate(dense[0]) / 2, largest_rate(N)
        grid = np.geomspace(self.until / 1000, self.until, 3 * _PER_DECADE + 1) * unit
        learning_rate = one.rate * stable or None
        if learning_rate is not None:
            grid = np.unique(np.rint(grid / learning_rate).clip(1)) * learning_rate
        found = {"unit": unit, "fastest": 2 / stable, "times": grid.tolist()}
        found["learning_rate"] = learning_rate or 0.0
        if one.rate >= 1:
            return found | {"loss": None, "test_loss": None}
        curve = training_curve(
            N, task.Y, grid, cross_kernel=cross, targets=task.Y_test, learning_rate=learning_rate
        )
        assert curve.test_loss is not None
        return found | {"loss": curve.loss.tolist(), "test_loss": curve.test_loss.tolist()}

    def _trained(
        self, task: Task, one: _Network, limit: dict[str, Any], device: torch.device
    ) -> dict[str, Any]:
        """Losses and accuracies of a network, each relative to what it was at the start."""
        layers = scheme_layers(one.scheme, one.depth, self.levels)
        law = Gaussian() if one.scheme == DENSE else Ternary(self.sparsity)
        p, widths = task.X.shape[1], [one.width] * one.depth
        net = RandomMLP(p, widths, layers[0], 1.0, law, seed=one.seed, device=device)
        batch = FullBatch(net, task.Y.shape[1], layers[1], one.factors(p))
        X, Y, X_test, Y_test = (
            torch.tensor(part, dtype=net.dtype, device=net.device) for part in task.arrays
        )
        if one.rate == 0:
            steps = batch.flow(X, Y, limit["times"], _MARGIN * limit["fastest"])
        else:
            steps = batch.descend(X, Y, limit["times"], limit["learning_rate"])
        start = batch(batch.start, X_test)
        found: dict[str, Any] = {"loss": [], "test_loss": [], "accuracy": []}
        for weights, f in steps:
            seen = batch(weights, X_test) - start
            found["loss"].append(float(((f - Y) ** 2).sum(dim=1).mean()))
            found["test_loss"].append(float(((seen - Y_test) ** 2).sum(dim=1).mean()))
            right = seen.argmax(dim=1) == Y_test.argmax(dim=1)
            found["accuracy"].append(100 * float(right.double().mean()))
        return found


def _rows(one: _Network, limit: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    times = [time / limit["unit"] for time in limit["times"]]
    nothing = [None] * len(times)
    columns = {
        "accuracy": found["accuracy"],
        "time": times,
        "loss": found["loss"],
        "loss_predicted": limit["loss"] or nothing,
        "test_loss": found["test_loss"],
        "test_loss_predicted": limit["test_loss"] or nothing,
    }
    rows = zip(*columns.values(), strict=True)
    return [attrs.asdict(one) | dict(zip(columns, row, strict=True)) for row in rows]


_SMOKE = TrainingCurves(
    data="digits", n_train=120, n_test=100, n_steps=60, p_mixture=40, n_mixture=60, depths=[2],
    widths=[32, 64], step_widths=[32, 64], widest=128, levels=8, until=5, n_draws=2,
)  # fmt: skip

PRESETS = {
    "training_curves": {
        "paper": TrainingCurves(data="mnist", n_train=1000),
        "cpu": TrainingCurves(
            data="mnist", n_train=300, n_test=500, n_steps=200, p_mixture=150, n_mixture=200,
            depths=[2], widths=[64, 256, 1024], step_widths=[64, 256], widest=512, until=20,
        ),
        "smoke": _SMOKE,
    },
}  # fmt: skip
"""Of each record, the studies by name."""
