"""From weights and activations to codes and staircases, one operation after another.

The original and what it becomes are run side by side on samples. What has been rounded before
enters: each layer is to give what the original gives on the *original's* inputs, from the inputs
that it has now. With Σ the moments of the centred inputs a now, and u the original's centred
pre-activations, the weights ``(E[u aᵀ] + λ W)(Σ + λ)⁻¹`` come nearest, λ keeping them to the
original W where samples say little; these are rounded (:mod:`rounding`), and the bias then gives
each neuron its mean. What was pruned, so that W is 0 there, stays pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import numpy as np
import torch
from attrs import evolve, frozen
from numpy.typing import NDArray

from .._checks import FloatArray, same_length, whole
from ..matching.bounds import binned, optimal_partitions
from ..theory.activations import Quantized
from .operations import Affine, Applied, LayerReport, Step, in_halves, staircase_bytes
from .rounding import Bits, second_order

# λ as a part of the inputs' mean power; what part of the samples is held out, and of the weights a
# layer has that takes 8 bits for nothing.
_DAMPING, _HELD, _FEW = 0.01, 0.1, 0.01
# Inputs that moments are taken of, and pre-activations whose quantiles stand for all.
_PATCHES, _PER_COLUMN, _VALUES, _QUANTILES = 8192, 2, 2**20, 4096
_BATCH = 256
# Inputs in float32 that vary by less than this part of their power are constant.
_ROUNDING = 1e-13
MOST_LEVELS = 256


@frozen(eq=False)
class Calibrated:
    """The new steps, a report of each that changed, and outputs on the samples held out."""

    steps: list[Step]
    report: tuple[LayerReport, ...]
    before: torch.Tensor
    after: torch.Tensor


def calibrate(
    steps: Sequence[Step],
    X: torch.Tensor,
    levels: int | Sequence[int],
    bits: Bits | Sequence[Bits],
    seed: int,
) -> Calibrated:
    """Round all weights of the steps, and put staircases in place of activations.

    What is on codes and levels already stays. ValueError if levels or bits are out of range or of
    another number of layers, or X does not vary in a layer.
    """
    widths, counts = iter(bits_of_layers(steps, bits)), iter(_levels(steps, levels))
    X, fit, held, rng = split(X, seed)
    old, new = {0: X}, {0: X}
    done: list[Step] = []
    report: list[LayerReport] = []
    for i, step in enumerate(steps):
        before, after = ([values[k] for k in step.inputs] for values in (old, new))
        operation: Any = step.operation
        changes = to_be_replaced(operation)
        if changes:
            choice: Any = next(widths if isinstance(operation, Affine) else counts)
            operation = replaced(operation, before[0][fit], after[0][fit], choice, rng)
        elif isinstance(operation, Affine):
            operation = _in_few_digits(operation)
        old[i + 1], new[i + 1] = run_step(step.operation, before), run_step(operation, after)
        done.append(evolve(step, operation=operation))
        if changes:
            error = relative_error(old[i + 1][held], new[i + 1][held])
            report.append(_entry(done[-1], error))
        for values in (old, new):
            let_go(values, steps, i)
    return Calibrated(done, tuple(report), old[len(steps)][held], new[len(steps)][held])


def split(X: torch.Tensor, seed: int) -> tuple[torch.Tensor, slice, slice, np.random.Generator]:
    """X shuffled, where the samples to fit on are and where those held out, and what is random."""
    rng = np.random.default_rng(seed)
    X = X[torch.from_numpy(rng.permutation(len(X)))]
    fit = slice(len(X) - int(_HELD * len(X)))
    return X, fit, slice(fit.stop if fit.stop < len(X) else 0, None), rng


def to_be_replaced(operation: Any) -> bool:
    """Whether it is not on codes or levels yet."""
    rounded = isinstance(operation, Affine) and operation.bits is None
    return rounded or isinstance(operation, Applied)


def replaced(
    operation: Any,
    before: torch.Tensor,
    after: torch.Tensor,
    choice: Any,
    rng: np.random.Generator,
) -> Affine | Quantized:
    """On so many bits a layer of weights, on so many levels an activation.

    ``before`` are the original's inputs, ``after`` those that it has now.
    """
    if isinstance(operation, Applied):
        return staircase(operation, after, choice, rng)
    return _in_few_digits(_rounded(operation, before, after, choice, rng))


def _in_few_digits(layer: Affine) -> Affine:
    scale, bias = (in_halves(row)[2] for row in (layer.scale, layer.bias))
    return evolve(layer, scale=scale, bias=bias)


def let_go(values: dict[int, torch.Tensor], steps: Sequence[Step], i: int) -> None:
    """Forget what no step after the i-th takes."""
    later = {k for step in steps[i + 1 :] for k in step.inputs} | {i + 1}
    for k in set(values) - later:
        del values[k]


def bits_of_layers(steps: Sequence[Step], bits: Any) -> list[Bits]:
    """Of each layer that is not on codes yet.

    One for all leaves 8 to the last layer, and to those that have few weights. ValueError if one is
    unknown, or they are of another number of layers.
    """
    layers = [step.operation for step in steps if isinstance(step.operation, Affine)]
    layers = [layer for layer in layers if layer.bits is None]
    if isinstance(bits, str | int):
        few = _FEW * sum(layer.codes.size for layer in layers)
        last = steps[-1].operation
        wide = [layer is last or layer.codes.size < few for layer in layers]
        bits = [8 if w else bits for w in wide] if bits in get_args(Bits) else [bits]
    elif not isinstance(bits, Sequence):
        bits = [bits]
    known = get_args(Bits)
    if wrong := [b for b in bits if isinstance(b, bool) or b not in known]:
        raise ValueError(f"bits must be one of {', '.join(map(repr, known))}, got {wrong[0]!r}")
    same_length("bits", bits, "layers of weights", len(layers))
    return list(bits)


def _levels(steps: Sequence[Step], levels: Any) -> list[int]:
    count = sum(isinstance(step.operation, Applied) for step in steps)
    several = isinstance(levels, Sequence) and not isinstance(levels, str)
    counts = list(levels) if several else [levels] * count
    same_length("levels", counts, "activations", count)
    return [whole("levels", m, 2, MOST_LEVELS) for m in counts]


def run_step(
    operation: Callable[..., torch.Tensor], values: Sequence[torch.Tensor]
) -> torch.Tensor:
    """What an operation makes of values, batch by batch."""
    batches = zip(*(value.split(_BATCH) for value in values), strict=True)
    return torch.cat([operation(*batch) for batch in batches])


def relative_error(before: torch.Tensor, after: torch.Tensor) -> float:
    """Σ (after − before)² over Σ (before − its mean)², the mean over samples."""
    off = float((after - before).double().square().sum())
    spread = float((before - before.mean(0)).double().square().sum())
    return off / spread if spread else float(off > 0)


def _entry(step: Step, error: float) -> LayerReport:
    if isinstance(step.operation, Affine):
        layer = step.operation
        return LayerReport(step.path, layer.bits, None, layer.nbytes, error)
    steps = cast(Quantized, step.operation)
    return LayerReport(step.path, None, len(set(steps.levels)), staircase_bytes(steps), error)


def _sampled(
    layer: Affine, before: torch.Tensor, after: torch.Tensor, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """(n, k, groups, columns) of the same k places in both: what the layer's rows meet."""
    columns = layer.matrix.shape[1]
    wanted = -(-max(_PATCHES, _PER_COLUMN * columns) // len(before))
    found: list[list[NDArray]] = [[], []]
    for some in zip(before.split(_BATCH), after.split(_BATCH), strict=True):
        places = None
        for part, x in zip(found, some, strict=True):
            patches = layer.patches(x)
            if places is None:
                places = rng.permutation(patches.shape[2])[:wanted]
            part.append(patches[:, :, places].transpose(1, 2).double().numpy())
    one, two = (np.concatenate(parts) for parts in found)
    return one, two


def _rounded(
    layer: Affine,
    before: torch.Tensor,
    after: torch.Tensor,
    bits: Bits,
    rng: np.random.Generator,
) -> Affine:
    old, new = _sampled(layer, before, after, rng)
    groups = old.shape[2]
    codes, scale, bias = (np.zeros_like(a) for a in (layer.matrix, layer.scale, layer.bias))
    for g, rows in enumerate(np.split(np.arange(len(codes)), groups)):
        W = layer.matrix[rows].astype(np.float64)
        a, b = old[:, :, g].reshape(-1, W.shape[1]), new[:, :, g].reshape(-1, W.shape[1])
        wanted, mean = a.mean(0) @ W.T + layer.bias[rows], b.mean(0)
        a, b = a - a.mean(0), b - mean
        moments = b.T @ b / len(b)
        damping = _DAMPING * np.trace(moments) / len(moments)
        if not damping > _ROUNDING * np.mean(mean**2):
            raise ValueError("X must hold samples that differ, in every layer of the network")
        moments += damping * np.eye(len(moments))
        towards = W @ (a.T @ b / len(b)) + damping * W
        best = np.linalg.solve(moments, towards.T).T
        found = second_order(best, moments, bits, W != 0)
        codes[rows], scale[rows] = found.codes, found.scale
        bias[rows] = wanted - (scale[rows, None] * found.codes) @ mean
    codes = codes.astype(np.int8).reshape(layer.codes.shape)
    return Affine(codes, scale, bias, bits, layer.window)


def staircase(
    activation: Callable[[torch.Tensor], torch.Tensor],
    u: torch.Tensor,
    m: int,
    rng: np.random.Generator,
) -> Quantized:
    """The m levels of least mean squared error from an activation of such u, by Lloyd and Max.

    The law of u is that of the samples: its mean and scale enter, and its shape. The best partition
    is found by dynamic programming, so that it is no local one. ValueError if the activation has
    one value there.
    """
    flat = u.reshape(-1)
    if len(flat) > _VALUES:
        flat = flat[torch.from_numpy(rng.integers(len(flat), size=_VALUES))]
    at = np.quantile(flat.numpy(), (np.arange(_QUANTILES) + 0.5) / _QUANTILES).astype(np.float32)
    value = activation(torch.from_numpy(at)).double().numpy()
    if not np.isfinite(value).all() or np.ptp(value) == 0:
        raise ValueError("X must hold samples that differ, in every layer of the network")
    rows = binned(value[:, None], np.full((len(value), 1), 1 / len(value)))
    _, levels = optimal_partitions(rows, min(m, rows.shape[1]))
    code = np.searchsorted((levels[1:] + levels[:-1]) / 2, value)
    ends = np.flatnonzero(np.diff(code))
    thresholds = ((at[ends] + at[ends + 1]) / 2).astype(np.float32)
    kept = np.diff(thresholds, prepend=-np.inf) > 0
    pieces = np.append(code[ends], code[-1])[np.append(kept, True)]
    return Quantized(thresholds[kept], levels[pieces].astype(np.float32))
