"""Trained networks of torch and scikit-learn as a list of operations.

A module is traced by ``torch.fx``, and each operation read off it is held against what the module
makes of samples: what does anything else than its type says, by a hook or in a subclass, is found.
What is on codes and levels already (:mod:`codes`) is read as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from attrs import evolve, frozen
from torch import fx, nn
from torch.nn import functional as F

from ..theory.activations import Quantized, activation
from .codes import Codes, Staircase
from .operations import Affine, Applied, Operation, Plain, Step, Window, run

_KNOWN = (
    "only Linear, Conv2d, BatchNorm after either, pooling, Flatten, sums and elementwise "
    "activations can stand here; put one of them in its place, or what it computes outside of net"
)
SKLEARN = {"identity": "linear", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
_DROPOUTS = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout
_NOTHING = _DROPOUTS | nn.FeatureAlphaDropout | nn.Identity
_SHOWS = (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, torch.sigmoid, F.sigmoid)
# Rows on which each module is held against what its type says.
PROBE = 256
# Of the outputs' variance, what values that moved by a level may make up.
_LEVELS_MOVED = 1e-3
# Of each pooling: the module, and the options in the order that the function takes them.
_POOLS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "max_pool2d": (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "avg_pool2d": (
        nn.AvgPool2d,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d, ("output_size",)),
}
_USUAL = {
    "padding": 0, "dilation": 1, "ceil_mode": False, "count_include_pad": True,
    "divisor_override": None,
}  # fmt: skip


@frozen(eq=False)
class Original:
    """A trained network: its steps, and what its outputs are.

    ``shows`` is whether it ends by showing scores as probabilities, which is left out of steps;
    ``classes`` are labels that it knows, () for values, None where it cannot say.
    """

    steps: list[Step]
    shows: bool = False
    classes: Any = None

    @property
    def outputs(self) -> int:
        """How many it has."""
        return len(cast(Affine, self.steps[-1].operation).codes)


def read(net: Any, X: torch.Tensor) -> Original:
    """The operations of a torch module, or of scikit-learn's MLPClassifier or MLPRegressor.

    TypeError for what cannot be taken, with its place; ValueError if X (n, …) does not fit.
    """
    if hasattr(net, "out_activation_"):
        return _sklearn(net, X)
    if not isinstance(net, nn.Module):
        raise TypeError(
            "net must be a torch.nn.Module, or a fitted MLPClassifier or MLPRegressor of "
            f"scikit-learn, got {type(net).__name__}"
        )
    try:
        graph = _Tracer().trace(net)
    except Exception as error:
        raise TypeError(
            f"net, a {type(net).__name__}, cannot be traced by torch.fx: {error}; write its "
            "forward without branches on the data"
        ) from error
    X = X.to(next(net.parameters(), X))
    with evaluated(net), torch.no_grad():
        reader = _Reader(net, graph)
        reader.run(X)
        found = run(reader.steps, X)
        made = reader.shows(found) if reader.shows else found
        near = _near if any(isinstance(s.operation, Quantized) for s in reader.steps) else _close
        same = near(net(X), made)
    if not same:
        reason = "it must give one tensor, and do no more than its modules do; take off its hooks"
        raise refusal("net", net, reason)
    if not reader.steps or not isinstance(reader.steps[-1].operation, Affine):
        raise TypeError("net must end with a Linear layer, and a Softmax or Sigmoid at most")
    if found.ndim != 2:
        raise ValueError(f"X must fit net: of {tuple(X.shape)} it makes {tuple(found.shape)}")
    return Original(reader.steps, reader.shows is not None)


def refusal(path: str, module: Any, reason: str) -> TypeError:
    name = type(module).__name__ if isinstance(module, nn.Module) else str(module)
    return TypeError(f"{path}, a {name}, cannot be compressed: {reason}")


def _sklearn(net: Any, X: torch.Tensor) -> Original:
    kinds: dict[str, Any] = {"softmax": getattr(net, "classes_", None), "identity": ()}
    if net.n_outputs_ == 1:
        kinds["logistic"] = kinds["softmax"]
    if net.out_activation_ not in kinds:
        raise TypeError(f"net must tell one label a sample, or values; {net!r} tells several")
    if X.ndim != 2 or X.shape[1] != len(net.coefs_[0]):
        raise ValueError(f"X must have {len(net.coefs_[0])} columns, got shape {tuple(X.shape)}")
    act = activation(SKLEARN[net.activation])
    steps: list[Step] = []
    for i, (W, b) in enumerate(zip(net.coefs_, net.intercepts_, strict=True)):
        if i:
            steps.append(Step(Applied(act), (len(steps),), f"net.activation after coefs_[{i - 1}]"))
        steps.append(Step(_affine(W.T, b), (len(steps),), f"net.coefs_[{i}]"))
    return Original(steps, classes=kinds[net.out_activation_])


def _affine(weight: Any, bias: Any, window: Window | None = None) -> Affine:
    """With weights in place of codes."""
    weight = np.ascontiguousarray(weight, np.float32)
    rows = len(weight)
    bias = np.zeros(rows, np.float32) if bias is None else np.asarray(bias, np.float32)
    return Affine(weight, np.ones(rows, np.float32), bias, None, window)


def _weights(layer: nn.Linear | nn.Conv2d, window: Window | None = None) -> Affine:
    """A layer's, on codes if it is trained on them."""
    found = _affine(plain(layer.weight), plain(layer.bias), window)
    parts: Any = getattr(layer, "parametrizations", {})
    if "weight" not in parts or not isinstance(parts.weight[0], Codes) or len(parts.weight) > 1:
        return found
    codes, scale = parts.weight[0].of(parts.weight.original)
    return evolve(
        found,
        codes=codes.cpu().numpy().astype(np.int8),
        scale=scale.cpu().numpy().astype(np.float32),
        bits=parts.weight[0].bits,
    )


def plain(parameter: torch.Tensor | None) -> Any:
    return None if parameter is None else parameter.detach().cpu().double().numpy()


@contextmanager
def evaluated(net: nn.Module) -> Iterator[None]:
    """All parts in evaluation; afterwards each as it was, whatever was set meanwhile."""
    parts = list(net.modules())
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def _close(a: Any, b: torch.Tensor) -> bool:
    if not isinstance(a, torch.Tensor) or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= torch.finfo(b.dtype).eps ** 0.5 * (1e-3 + b.abs().max()))


def _near(a: Any, b: torch.Tensor) -> bool:
    """Where rounding in float32 may move a value by a level: close on the whole."""
    if not isinstance(a, torch.Tensor) or a.shape != b.shape:
        return False
    return bool((a - b).double().square().mean() <= _LEVELS_MOVED * b.double().var())


def _folded(path: str, norm: Any, last: Any) -> Affine:
    """The layer and the batch norm after it, with its running statistics, as one."""
    if not (isinstance(last, Affine) and norm.track_running_stats):
        reason = "it must follow a Linear or Conv2d at once, and track running statistics"
        raise refusal(path, norm, reason)
    gain = (plain(norm.running_var) + norm.eps) ** -0.5
    gain, shift = (gain * plain(norm.weight), plain(norm.bias)) if norm.affine else (gain, 0)
    bias = gain * (last.bias - plain(norm.running_mean)) + shift
    if last.bits is not None:
        scale = (gain * last.scale).astype(np.float32)
        return evolve(last, scale=scale, bias=bias.astype(np.float32))
    weight = gain.reshape(-1, *[1] * (last.codes.ndim - 1)) * last.codes
    return _affine(weight, bias, last.window)


def _pool(name: str, options: dict[str, Any]) -> Plain:
    """With the options that say something."""
    usual = _USUAL | {"stride": options.get("kernel_size")}
    return Plain(name, {o: v for o, v in options.items() if o not in usual or v != usual[o]})


def _after(second: Applied, first: Applied) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: second(first(x))


class _Tracer(fx.Tracer):
    """Goes into modules that have parts; one that has none may be an activation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Sequential):
            return False
        if isinstance(m, Staircase):
            return True
        return not any(m.children()) or super().is_leaf_module(m, module_qualified_name)


class _Reader(fx.Interpreter):
    """Runs a graph, and writes down each node as a step once it has done the same."""

    def __init__(self, net: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(net, graph))
        self.extra_traceback = False
        self.steps: list[Step] = []
        self.shows: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.net = net
        # Of each node that is a tensor, which value it is; and the values as the steps make them.
        self.number: dict[fx.Node, int] = {}
        self.made: list[torch.Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            found = super().run_node(n)
            if self.number:
                raise TypeError("net must take one argument, the samples")
            self.number[n], self.made = 0, [found]
            return found
        if n.op in ("output", "get_attr"):
            return super().run_node(n)
        path, what = self._place(n)
        taken = [arg for arg in n.all_input_nodes if arg in self.number]
        try:
            found = super().run_node(n)
        except (RuntimeError, ValueError) as error:
            shapes = [tuple(self.made[self.number[arg]].shape) for arg in taken]
            raise ValueError(f"X must fit net: {path} cannot take {shapes}: {error}") from error
        if not isinstance(found, torch.Tensor):
            return found
        self._write(n, path, what, taken, found)
        # What comes next is held against the same input: steps hand on each rounding that differs.
        return self.made[self.number[n]] if self.shows is None else found

    def _place(self, n: fx.Node) -> tuple[str, Any]:
        """Where a node stands in the network, and its module, function or method's name."""
        if n.op == "call_module":
            path = "".join(f"[{p}]" if p.isdigit() else f".{p}" for p in str(n.target).split("."))
            return f"net{path}", self.net.get_submodule(str(n.target))
        owners = list(n.meta.get("nn_module_stack", {"": None}))
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", n.target)
        inside = "".join(f"[{p}]" if p.isdigit() else f".{p}" for p in owners[-1].split(".") if p)
        return f"net{inside}: {name}", n.target

    def _write(self, n: fx.Node, path: str, what: Any, taken: list, found: torch.Tensor) -> None:
        numbers = tuple(self.number[node] for node in taken)
        if len(taken) == 1 and self._kept(n, what, self.made[numbers[0]], found):
            self.number[n] = numbers[0]
            return
        # What nobody else takes can become one operation with this.
        alone = self.steps and numbers == (len(self.steps),) and len(taken[0].users) == 1
        last = self.steps[-1] if alone else None
        if isinstance(what, nn.BatchNorm1d | nn.BatchNorm2d):
            operation: Operation = _folded(path, what, last and last.operation)
        else:
            values = [self.made[k] for k in numbers]
            operation = self._operation(n, path, what, values, found)
            if last and isinstance(last.operation, Applied) and isinstance(operation, Applied):
                operation = Applied(_after(operation, last.operation))
            else:
                last = None
        step = evolve(last, operation=operation) if last else Step(operation, numbers, path)
        mine = operation(*(self.made[k] for k in step.inputs))
        if not _close(found, mine):
            reason = "it computes something else than its type says; take off what changes it"
            raise refusal(path, what, reason)
        kept = len(self.steps) - (last is not None)
        self.steps, self.made = [*self.steps[:kept], step], [*self.made[: kept + 1], mine]
        self.number[n] = len(self.steps)

    def _kept(self, n: fx.Node, what: Any, before: torch.Tensor, found: torch.Tensor) -> bool:
        """Whether a node is left out: it changes nothing when evaluated, or shows probabilities."""
        if isinstance(what, _NOTHING) or what in (F.dropout, F.dropout2d, "contiguous"):
            return _close(found, before)
        if isinstance(what, nn.Flatten) or what in (torch.flatten, "flatten", "view", "reshape"):
            return _close(found, before)
        last = all(user.op == "output" for user in n.users)
        shown = isinstance(what, nn.Softmax | nn.LogSoftmax | nn.Sigmoid) or what in (
            *_SHOWS,
            *("softmax", "log_softmax", "sigmoid"),
        )
        if not (last and shown and found.ndim == 2):
            return False
        one = found.shape[1] == 1
        ways: list[Any] = [torch.sigmoid] if one else [nn.Softmax(1), nn.LogSoftmax(1)]
        self.shows = next((way for way in ways if _close(found, way(before))), None)
        return self.shows is not None

    def _operation(
        self, n: fx.Node, path: str, what: Any, values: list[torch.Tensor], found: torch.Tensor
    ) -> Operation:
        if len(values) == 2 and what in (operator.add, operator.iadd, torch.add, "add", "add_"):
            if values[0].ndim != values[1].ndim:
                raise refusal(path, what, "what it adds must have as many dimensions")
            return Plain("add")
        if len(values) != 1:
            reason = "it must take one value, or be the sum of two; put all that makes an "
            raise refusal(path, what, reason + "activation into one module without parts")
        if isinstance(what, nn.Linear):
            return _weights(what)
        if isinstance(what, nn.Conv2d):
            return self._convolution(path, what)
        if isinstance(what, Staircase):
            return what.quantised()
        for name, (kind, options) in _POOLS.items():
            if values[0].ndim != 4 and (isinstance(what, kind) or what is getattr(F, name)):
                raise refusal(path, what, "it must be given images (n, channels, height, width)")
            if isinstance(what, kind):
                return _pool(name, {o: getattr(what, o) for o in options})
            if what is getattr(F, name):
                given = dict(zip(options, n.args[1:], strict=False)) | n.kwargs
                return _pool(name, {o: given[o] for o in options if o in given})
        if found.shape != values[0].shape:
            if _close(found, values[0].flatten(1)):
                return Plain("flatten")
            if values[0].ndim == 4 and _close(found, values[0].mean((2, 3))):
                return Plain("mean", {"dim": [2, 3]})
            raise refusal(path, what, _KNOWN)
        return self._activation(n, path, what, values[0], found)

    def _convolution(self, path: str, module: nn.Conv2d) -> Affine:
        padding: Any = module.padding
        if isinstance(padding, str):
            around = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            padding = tuple(n // 2 for n in around) if padding == "same" else (0, 0)
            if module.padding == "same" and any(n % 2 for n in around):
                raise refusal(path, module, "its padding must be as much on either side")
        if module.padding_mode != "zeros":
            raise refusal(path, module, "its padding must be of zeros")
        window = Window(module.stride, padding, module.dilation, module.groups)
        return _weights(module, window)

    def _activation(
        self, n: fx.Node, path: str, what: Any, x: torch.Tensor, found: torch.Tensor
    ) -> Applied:
        """Elementwise, or refused."""

        def function(values: torch.Tensor) -> torch.Tensor:
            # In the network's precision; a copy, for it may write into what it is given.
            own = values.to(x, copy=True)
            with torch.no_grad():
                if n.op == "call_module":
                    return what(own).to(values)
                rest = [own if isinstance(a, fx.Node) else a for a in n.args]
                call = getattr(own, what) if n.op == "call_method" else partial(what, rest[0])
                return call(*rest[1:], **n.kwargs).to(values)

        # Each entry by itself: the small ones without the large, in a row.
        flat, order = x.reshape(-1), x.reshape(-1).argsort()
        try:
            parts = [function(part) for part in flat[order].chunk(2)]
            same = _close(torch.cat(parts), found.reshape(-1)[order])
        except (RuntimeError, TypeError, ValueError, IndexError):
            same = False
        if not same:
            raise refusal(path, what, _KNOWN)
        return Applied(function)
