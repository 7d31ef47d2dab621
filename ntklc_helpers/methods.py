"""The published comparison: random networks of three ReLU layers, compressed in several ways.

Nothing but a ridge readout is trained. Every method is a network of the same widths, with the
kernel of the dense one in the limit; what differs is how many bytes it takes and how accurate it is
at finite width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from .activations import activation
from .compress import compress
from .compressed import CompressedNetwork
from .matching import Matching, match
from .networks import RandomMLP
from .pruned import MagnitudePrunedMLP, PrunedMLP
from .readout import Readout, fit_readout
from .ternary import TernaryMatrix, pack_ternary, pruned_bytes
from .ternary_network import ternary_features, ternary_layers
from .validation import class_labels, sample_matrix

DEPTH = 3
DENSE, PUBLISHED = "dense", "published"
FLOAT_METHODS = (DENSE, "random pruning", "magnitude pruning", "ternary, ReLU")
"""Methods that keep ReLU, with weights of 32 bits, all of them or those kept, or ternary ones."""

# Rows on which a network checks the scale of its data.
_PROBE = 2000
_BATCH = 4096


@dataclass(frozen=True, eq=False)
class Task:
    """Rows to train and to test on, brought to mean 0 and mean squared norm 1 (``normalize``).

    Attributes
    ----------
    X, X_test : (n, p) and (m, p) arrays
    y, y_test : (n,) and (m,) whole numbers 0 … K − 1

    Raises
    ------
    ValueError
        If the shapes or labels do not fit.
    """

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    X_test: NDArray[np.float64]
    y_test: NDArray[np.int64]

    def __post_init__(self) -> None:
        X, X_test = sample_matrix("X", self.X), sample_matrix("X_test", self.X_test)
        if X.shape[1] != X_test.shape[1]:
            raise ValueError(f"X_test must have {X.shape[1]} columns, got {X_test.shape[1]}")
        class_labels("y", self.y, len(X))
        if np.shape(self.y_test) != (len(X_test),):
            raise ValueError(f"y_test must have shape ({len(X_test)},), got {self.y_test.shape}")


@dataclass(frozen=True)
class Case:
    """One network of the comparison.

    Attributes
    ----------
    method : str
        One of ``FLOAT_METHODS``, ``"published"`` (σ_T, σ_T, σ_Q), or ``"m levels"`` with a
        number m: matched staircases on a uniform grid.
    width : int
        Neurons of each of the three layers.
    zeros : float
        Share of the weights that are zero; 0 for the dense network.
    seed : int
        Of the weights.
    """

    method: str
    width: int
    zeros: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a :class:`Case`.

    Attributes
    ----------
    method, width, zeros, seed
        The case.
    accuracy : float
        In percent of the test rows.
    bytes : int
        Of hidden weights and readout: of the file, for networks that run on integers.
    """

    method: str
    width: int
    zeros: float
    seed: int
    accuracy: float
    bytes: int

    @property
    def case(self) -> Case:
        return Case(self.method, self.width, self.zeros, self.seed)


def levels_method(levels: int | Literal["paper"]) -> str:
    """The method's name: ``"published"`` for ``"paper"``, else ``"m levels"``."""
    return PUBLISHED if levels == "paper" else f"{levels} levels"


def cases(
    widths: Sequence[int],
    levels: Sequence[int],
    sparsity: float,
    seeds: Sequence[int],
    sparsities: Sequence[float] = (),
    sparsity_width: int | None = None,
) -> tuple[Case, ...]:
    """All methods at all widths; some of them also at several shares of zeros.

    Parameters
    ----------
    widths : sequence of int
    levels : sequence of int
        m of each ``"m levels"``.
    sparsity : float
        Share of zeros where all methods are compared.
    seeds : sequence of int
    sparsities : sequence of float
        Shares of zeros at which pruning, ternary weights and the most levels are compared, at one
        width.
    sparsity_width : int, optional
        That width; needed if there are ``sparsities``.

    Returns
    -------
    tuple of Case
        Each case once.

    Raises
    ------
    ValueError
        If there are sparsities and no width for them.
    """
    if len(sparsities) and sparsity_width is None:
        raise ValueError("sparsity_width must be given where there are sparsities")
    names = [levels_method(m) for m in levels]
    found = []
    for width in widths:
        for seed in seeds:
            found.append(Case(DENSE, width, 0.0, seed))
            methods = [*FLOAT_METHODS[1:], PUBLISHED, *names]
            found += [Case(method, width, sparsity, seed) for method in methods]
    if sparsity_width is not None and len(sparsities):
        methods = [*FLOAT_METHODS[1:], *(levels_method(m) for m in sorted(levels)[-1:])]
        for zeros in sparsities:
            for seed in seeds:
                found += [Case(method, sparsity_width, zeros, seed) for method in methods]
        found += [Case(DENSE, sparsity_width, 0.0, seed) for seed in seeds]
    return tuple(dict.fromkeys(found))


def compare(
    task: Task,
    cases: Sequence[Case],
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Iterator[Outcome]:
    """Measure one case after the other; each outcome is handed out as soon as it is known.

    Parameters
    ----------
    task : Task
    cases : sequence of Case
        From :func:`cases`; to go on after an interruption, those that are left.
    device : torch.device or str, optional
        CUDA where there is one, by default.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If a case is not as :class:`Case` says.
    """
    matchings: dict[str, Matching] = {}
    # Without progress; with it, what the environment says of bars holds.
    quiet = {} if progress else {"disable": True}
    bar = tqdm(cases, desc="networks", leave=False, **quiet)
    for case in bar:
        bar.set_postfix_str(f"{case.method}, width {case.width}")
        staircases = case.method not in FLOAT_METHODS
        if staircases and case.method not in matchings:
            matchings[case.method] = matching(case.method)
        yield measure(task, case, matchings.get(case.method), device)


def matching(method: str) -> Matching:
    """The staircases of ``"published"`` or ``"m levels"``, for three ReLU layers at τ₀ = 1.

    Raises
    ------
    ValueError
        For another method.
    """
    relus, levels = [activation("relu")] * DEPTH, re.fullmatch(r"(\d+) levels", method)
    if method == PUBLISHED:
        return match(relus, 1.0, "paper")
    if levels is None:
        known = ", ".join((*FLOAT_METHODS, PUBLISHED))
        raise ValueError(f"method must be one of {known} or 'm levels', got {method!r}")
    return match(relus, 1.0, int(levels[1]), grid="uniform")


def measure(
    task: Task,
    case: Case,
    staircases: Matching | None = None,
    device: torch.device | str | None = None,
) -> Outcome:
    """Fit a readout on a network's features of the training rows; classify the test rows.

    Parameters and errors as for :func:`compare`; ``staircases`` is the method's
    :func:`matching`, if it is known already.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if case.method in FLOAT_METHODS:
        features, size = _float_network(task.X.shape[1], case, place)
    else:
        staircases = staircases or matching(case.method)
        features, size = _staircase_network(task.X, case, staircases, place)
    solver = None if place.type == "cpu" else place
    fitted = fit_readout(features(task.X), task.y, device=solver)
    accuracy = 100 * np.mean(fitted.predict(features(task.X_test)) == task.y_test)
    return Outcome(
        case.method, case.width, case.zeros, case.seed, float(accuracy), int(size(fitted))
    )


Features = Callable[[ArrayLike], NDArray]
Size = Callable[[Readout], int]


def _dense(p: int, case: Case, device: torch.device) -> dict[str, Any]:
    """What makes the dense network of the case's widths and seed."""
    relus = [activation("relu")] * DEPTH
    widths = [case.width] * DEPTH
    return {"p": p, "widths": widths, "activations": relus, "seed": case.seed, "device": device}


def _float_network(p: int, case: Case, device: torch.device) -> tuple[Features, Size]:
    """Features of a network with ReLU, and its bytes when it has a readout."""
    dense = _dense(p, case, device)
    net = {
        DENSE: lambda: RandomMLP(**dense),
        "random pruning": lambda: PrunedMLP(**dense, keep=1 - case.zeros),
        "magnitude pruning": lambda: MagnitudePrunedMLP(**dense, keep=1 - case.zeros),
        "ternary, ReLU": lambda: RandomMLP(**dense, weights="ternary", sparsity=case.zeros),
    }[case.method]()
    matrices = (W.cpu().numpy() for W in net.matrices)
    if case.method == "ternary, ReLU":
        # Signs and places, without levels: activations stay in floats.
        packed = (pack_ternary(TernaryMatrix.from_dense(np.sign(W))) for W in matrices)
        hidden = sum(one.nbytes for one in packed)
    else:
        hidden = sum(pruned_bytes(W) for W in matrices)
    return lambda X: net.features(X).cpu().numpy(), lambda fitted: hidden + fitted.nbytes


def _staircase_network(
    X: NDArray, case: Case, staircases: Matching, device: torch.device
) -> tuple[Features, Size]:
    """Features of a ternary network with staircases, and the bytes of its file with a readout."""
    dense = RandomMLP(**_dense(X.shape[1], case, device))
    probe = X[:: max(1, len(X) // _PROBE)]
    small = compress(dense, probe, levels=staircases, sparsity=case.zeros, seed=case.seed)

    def size(fitted: Readout) -> int:
        small.readout = fitted
        return len(small.to_bytes("packed"))

    features = small.features if device.type == "cpu" else torch_features(small, case, device)
    return features, size


def torch_features(small: CompressedNetwork, case: Case, device: torch.device) -> Features:
    """The features of ``small`` by torch: exact sums of small numbers from the second layer on."""
    assert small.matching is not None
    net = RandomMLP(
        small.p, small.widths, small.matching.activations,
        weights="ternary", sparsity=case.zeros, seed=case.seed, device=device,
    )  # fmt: skip
    layers, centre, root = ternary_layers(net), net.centres[-1], net.widths[-1] ** 0.5

    def features(X: ArrayLike) -> NDArray:
        parts = [(ternary_features(layers, x) - centre) / root for x in net.inputs(X).split(_BATCH)]
        return torch.cat([part.cpu() for part in parts]).numpy()

    return features
