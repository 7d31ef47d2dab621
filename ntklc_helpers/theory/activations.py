"""Activation functions: one entry each, callable on torch tensors, numpy arrays and floats.

To add an activation, add one entry to ``_ENTRIES``: its function and where that has kinks or
jumps. Moments, kernels and matching follow by quadrature and expansion; the closed form of its
kernels and the torch module that computes it are optional.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from .._checks import number, numbers, same_length
from . import duals

TensorFunction = Callable[[torch.Tensor], torch.Tensor]


def _apply(name: str, function: TensorFunction, x: Any) -> Any:
    """The elementwise ``function`` of ``x``, as the kind of thing ``x`` is."""
    plain = not isinstance(x, torch.Tensor)
    tensor = torch.tensor(np.asarray(x, dtype=np.float64)) if plain else x
    value = function(tensor)
    shape = getattr(value, "shape", None)
    if shape != tensor.shape:
        raise TypeError(
            f"activation {name!r} and its derivative must map a tensor to a tensor of the same "
            f"shape, elementwise; got shape {shape} from shape {tuple(tensor.shape)}"
        )
    value = torch.as_tensor(value)
    if not plain:
        return value
    array = value.detach().double().numpy()
    return float(array) if np.ndim(x) == 0 else array


def _increasing(points: Any) -> tuple[float, ...]:
    """Breakpoints, one or several in any order, as increasing numbers."""
    if points is None:
        return ()
    return tuple(sorted(set(numbers("breakpoints", [points] if np.ndim(points) == 0 else points))))


def _is_function(activation: Any, attribute: Any, value: Any) -> None:
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"function must be a function of tensors, got {value!r}")


def _content(function: Any) -> Any:
    """What makes two functions equal: a partial one is compared by what it is made of."""
    if isinstance(function, partial):
        return function.func, function.args, tuple(function.keywords.items())
    return function


@frozen(slots=False)
class Activation:
    """An elementwise nonlinearity.

    Attributes
    ----------
    name : str
        What is shown; nothing is found by it.
    function : callable
        Elementwise, torch tensor to torch tensor.
    breakpoints : tuple of float
        Where the function has a kink or a jump. Quadrature splits there.
    params : tuple of (str, float)
        What the function's family calls its parameters, to be shown.
    derivative_function : callable, optional
        Almost-everywhere derivative; by automatic differentiation when absent.
    dual : ClosedForm, optional
        Closed form of the layer's kernels; by series and quadrature when absent.

    Examples
    --------
    >>> relu = nh.activation("relu")
    >>> relu(np.array([-1.0, 2.0])), relu.derivative(2.0), relu.has_jump
    (array([0., 2.]), 1.0, False)
    """

    name: str
    function: TensorFunction = field(eq=_content, validator=_is_function)
    breakpoints: tuple[float, ...] = field(default=(), converter=_increasing)
    params: tuple[tuple[str, Any], ...] = ()
    derivative_function: TensorFunction | None = field(default=None, eq=_content)
    dual: duals.ClosedForm | None = field(default=None, eq=False, repr=False)

    def __call__(self, x: Any) -> Any:
        return _apply(self.name, self.function, x)

    def derivative(self, x: Any) -> Any:
        """Almost-everywhere derivative at ``x``, same kind and shape as ``x``."""
        return _apply(self.name, self.derivative_function or self._autograd, x)

    def _autograd(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            try:
                value = self.function(leaf)
            except RuntimeError as error:
                raise TypeError(
                    f"activation {self.name!r} cannot be differentiated by torch ({error}); write "
                    "it with torch's functions, or pass `derivative`, its almost-everywhere "
                    "derivative"
                ) from error
            if not (isinstance(value, torch.Tensor) and value.requires_grad):
                return torch.zeros_like(x)
            return torch.autograd.grad(value.sum(), leaf)[0]

    @cached_property
    def jumps(self) -> tuple[float, ...]:
        """Height of the jump at each breakpoint; 0.0 at a kink."""
        at = np.asarray(self.breakpoints, dtype=np.float64)
        left, right = self(np.nextafter(at, -np.inf)), self(np.nextafter(at, np.inf))
        # A continuous function moves by its slope times one unit of rounding between the two.
        noise = 1e-9 * (1.0 + np.abs(left) + np.abs(right))
        return tuple(np.where(np.abs(right - left) > noise, right - left, 0.0).tolist())

    @property
    def has_jump(self) -> bool:
        """Whether the function is discontinuous, so that E[σ'²] is infinite."""
        return any(self.jumps)


# Thresholds that are passed are faster counted than searched for, as a processor cannot guess its
# way through a search: up to so many, and so many numbers at once, which a cache holds.
_COUNTED, _BLOCK = 64, 2**15


def _counted(x: NDArray, thresholds: NDArray, levels: NDArray) -> NDArray:
    """``levels`` at the number of thresholds below each entry of x; at all of them for NaN."""
    found, levels = np.empty_like(x), levels[::-1].copy()
    passed, count = np.empty(_BLOCK, bool), np.empty(_BLOCK, np.uint8)
    for start in range(0, len(x), _BLOCK):
        some = x[start : start + _BLOCK]
        below, total = passed[: len(some)], count[: len(some)]
        total.fill(0)
        for threshold in thresholds:
            np.less_equal(some, threshold, out=below)
            np.add(total, below.view(np.uint8), out=total)
        # "clip" writes into place; the default would copy first.
        np.take(levels, total, out=found[start : start + _BLOCK], mode="clip")
    return found


@frozen
class Quantized:
    """A piecewise-constant activation, a staircase, with m levels and m − 1 thresholds.

    The value is ``levels[j]`` on ``thresholds[j-1] < t <= thresholds[j]``. Follows the protocol
    of :class:`Activation`; everything about it is known in closed form.

    Parameters
    ----------
    thresholds : sequence of m − 1 floats, strictly increasing
    levels : sequence of m floats, m >= 2

    Raises
    ------
    ValueError
        If the lengths do not fit, a value is not finite, or the thresholds do not increase.

    Examples
    --------
    >>> nh.Quantized([-1, 1], [0, 0.5, 2])(np.array([-3.0, 0.0, 3.0]))
    array([0. , 0.5, 2. ])
    """

    thresholds: tuple[float, ...] = field(converter=lambda x: numbers("thresholds", x))
    levels: tuple[float, ...] = field(converter=lambda x: numbers("levels", x))
    name: str = "quantized"

    def __attrs_post_init__(self) -> None:
        if len(self.levels) < 2 or len(self.levels) != len(self.thresholds) + 1:
            raise ValueError(
                "levels must have one entry more than thresholds, and at least 2; "
                f"got {len(self.levels)} levels and {len(self.thresholds)} thresholds"
            )
        if np.any(np.diff(self.thresholds) <= 0):
            raise ValueError(f"thresholds must be strictly increasing, got {self.thresholds}")

    def __call__(self, x: Any) -> Any:
        return _apply(self.name, self._lookup, x)

    def _lookup(self, x: torch.Tensor) -> torch.Tensor:
        thresholds = torch.tensor(self.thresholds, dtype=x.dtype, device=x.device)
        levels = torch.tensor(self.levels, dtype=x.dtype, device=x.device)
        x = x.detach().contiguous()
        known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        if known and len(thresholds) <= _COUNTED:
            found = _counted(x.numpy().ravel(), thresholds.numpy(), levels.numpy())
            return torch.from_numpy(found).reshape(x.shape)
        return levels[torch.bucketize(x, thresholds)]

    def derivative(self, x: Any) -> Any:
        """Almost-everywhere derivative: zero."""
        return _apply(self.name, torch.zeros_like, x)

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """The thresholds."""
        return self.thresholds

    @property
    def jumps(self) -> tuple[float, ...]:
        """Height of the jump at each threshold."""
        return tuple(np.diff(self.levels).tolist())

    @property
    def has_jump(self) -> bool:
        """Whether the levels differ, so that E[σ'²] is infinite."""
        return any(self.jumps)

    @property
    def dual(self) -> duals.ClosedForm | None:
        """Closed form of the layer's kernels, if it has one jump and that is at 0."""
        one_jump = self.has_jump and self.thresholds == (0.0,)
        return duals.Threshold(*self.levels) if one_jump else None


AnyActivation = Activation | Quantized


def sigma_t(s1: float, s2: float, a: float) -> Quantized:
    """The two-level activation ``a (1[t < s1] + 1[t > s2])`` of NTK-LC; needs ``s1 < s2``.

    Raises ValueError as :class:`Quantized`, which it returns.

    Examples
    --------
    >>> nh.sigma_t(-1, 1, 2)(np.array([-3.0, 0.0, 3.0]))
    array([2., 0., 2.])
    """
    s = _rising(s1=s1, s2=s2)
    a = number("a", a)
    return Quantized(s, (a, 0.0, a), name="sigma_t")


def sigma_q(r1: float, r2: float, r3: float, r4: float, b1: float, b2: float) -> Quantized:
    """The three-level activation ``b1 (1[t < r1] + 1[t > r4]) + b2 1[r2 <= t <= r3]`` of NTK-LC.

    Needs ``r1 < r2 < r3 < r4``; otherwise as :func:`sigma_t`.

    Examples
    --------
    >>> nh.sigma_q(-2, -1, 1, 2, b1=3, b2=4)(np.array([-2.5, -1.5, 0.0, 1.5, 2.5]))
    array([3., 0., 4., 0., 3.])
    """
    r = _rising(r1=r1, r2=r2, r3=r3, r4=r4)
    b1, b2 = number("b1", b1), number("b2", b2)
    return Quantized(r, (b1, 0.0, b2, 0.0, b1), name="sigma_q")


def _rising(**thresholds: float) -> tuple[float, ...]:
    """The thresholds, each above the one before."""
    found = tuple(number(name, value) for name, value in thresholds.items())
    if any(b <= a for a, b in zip(found, found[1:], strict=False)):
        names = ", ".join(thresholds)
        raise ValueError(f"thresholds must be strictly increasing: {names} are {found}")
    return found


@frozen
class _Entry:
    """A named activation, or a family: ``function`` and ``dual`` then take its parameters.

    ``params`` are the parameters and their defaults, ``attributes`` what ``module`` calls them;
    ``only`` says which modules of that type compute the same.
    """

    function: Callable[..., torch.Tensor]
    breakpoints: tuple[float, ...] | Callable[..., tuple[float, ...]] = ()
    dual: Callable[..., duals.ClosedForm] | None = None
    module: type[nn.Module] | None = None
    params: Mapping[str, float] = field(factory=dict)
    attributes: Sequence[str] = ()
    only: Callable[[Any], bool] = lambda module: True

    def make(self, name: str, given: Mapping[str, Any]) -> Activation:
        if not given.keys() <= self.params.keys():
            raise ValueError(f"params {sorted(given)} do not fit activation {name!r}")
        params = {key: number(key, given.get(key, x)) for key, x in self.params.items()}
        function = partial(self.function, **params) if params else self.function
        points = self.breakpoints(**params) if callable(self.breakpoints) else self.breakpoints
        dual = self.dual(**params) if self.dual else None
        return Activation(name, function, points, tuple(params.items()), dual=dual)


def _leaky_relu(x: torch.Tensor, slope: float) -> torch.Tensor:
    return torch.where(x > 0, x, slope * x)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _softplus(x: torch.Tensor, beta: float) -> torch.Tensor:
    # torch's softplus turns linear at 20, an error of 2e-9; logaddexp is exact.
    return torch.logaddexp(beta * x, torch.zeros_like(x)) / beta


def _gaussian(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-(x**2) / 2)


def _hermite3(x: torch.Tensor) -> torch.Tensor:
    return (x**3 - 3 * x) / 6**0.5


_ENTRIES = {
    "linear": _Entry(torch.positive, dual=duals.Linear, module=nn.Identity),
    "relu": _Entry(torch.relu, (0.0,), partial(duals.LeakyRelu, 0.0), nn.ReLU),
    "leaky_relu": _Entry(
        _leaky_relu, (0.0,), duals.LeakyRelu, nn.LeakyReLU, {"slope": 0.01}, ["negative_slope"]
    ),
    "elu": _Entry(F.elu, (0.0,), None, nn.ELU, {"alpha": 1.0}, ["alpha"]),
    "relu6": _Entry(F.relu6, (0.0, 6.0), None, nn.ReLU6),
    "hardtanh": _Entry(
        F.hardtanh,
        lambda **ends: tuple(ends.values()),
        None,
        nn.Hardtanh,
        {"min_val": -1.0, "max_val": 1.0},
        ["min_val", "max_val"],
    ),
    "abs": _Entry(torch.abs, (0.0,), partial(duals.LeakyRelu, -1.0)),
    "erf": _Entry(torch.erf, dual=duals.Erf),
    "tanh": _Entry(torch.tanh, module=nn.Tanh),
    "sigmoid": _Entry(torch.sigmoid, module=nn.Sigmoid),
    "gelu": _Entry(F.gelu, (), duals.Gelu, nn.GELU, only=lambda m: m.approximate == "none"),
    "gelu_tanh": _Entry(_gelu_tanh, module=nn.GELU, only=lambda m: m.approximate == "tanh"),
    "silu": _Entry(F.silu, module=nn.SiLU),
    "softplus": _Entry(
        _softplus, (), None, nn.Softplus, {"beta": 1.0}, ["beta"], lambda m: m.threshold >= 20
    ),
    "sin": _Entry(torch.sin, dual=duals.Sin),
    "cos": _Entry(torch.cos, dual=duals.Cos),
    "gaussian": _Entry(_gaussian, dual=duals.Gaussian),
    "quadratic": _Entry(torch.square, dual=duals.Quadratic),
    "hermite3": _Entry(_hermite3, dual=duals.Hermite3),
}

_STAIRCASES: dict[str, Callable[..., Quantized]] = {
    "sign": partial(Quantized, (0.0,), (-1.0, 1.0), "sign"),
    "step": partial(Quantized, (0.0,), (0.0, 1.0), "step"),
    "sigma_t": sigma_t,
    "sigma_q": sigma_q,
}


def activation_names() -> tuple[str, ...]:
    """Names that :func:`activation` knows, in alphabetical order.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> nh.theory.activation_names()[:4]
    ('abs', 'cos', 'elu', 'erf')
    """
    return tuple(sorted([*_ENTRIES, *_STAIRCASES]))


def activation(
    kind: str | TensorFunction,
    *,
    breakpoints: float | Sequence[float] | None = None,
    name: str | None = None,
    derivative: TensorFunction | None = None,
    **params: float,
) -> AnyActivation:
    """An activation by name, or from a function of your own.

    Parameters
    ----------
    kind : str or callable
        A name of :func:`activation_names`, or an elementwise function on torch tensors.
    breakpoints : float or sequence of float, optional
        Own functions only: every kink and jump, in any order.
    name : str, optional
        Own functions only: the name to show; the function's own by default.
    derivative : callable, optional
        Own functions only: almost-everywhere derivative where torch cannot differentiate.
    **params : float
        Parameters of a named family, such as ``slope=0.1`` for ``"leaky_relu"``.

    Returns
    -------
    Activation or Quantized

    Raises
    ------
    ValueError
        For an unknown name or parameter, or breakpoints that are not finite.
    TypeError
        If an own function or its derivative does not map a tensor to one of the same shape, or
        torch cannot differentiate it.

    Examples
    --------
    >>> nh.activation("leaky_relu", slope=0.1)(-2.0)
    -0.2
    >>> nh.activation(lambda t: t.clamp(-1, 1), breakpoints=[-1, 1]).derivative(0.5)
    1.0
    """
    if callable(kind):
        if params:
            raise ValueError(f"params {sorted(params)} belong to named activations only")
        return _own_activation(kind, breakpoints, name, derivative)
    if not isinstance(kind, str) or kind not in activation_names():
        known = "known: " + ", ".join(activation_names())
        raise ValueError(f"kind must be a function or a name: unknown activation {kind!r}; {known}")
    if any(option is not None for option in (breakpoints, name, derivative)):
        raise ValueError("breakpoints, name and derivative belong to own functions only")
    if kind in _ENTRIES:
        return _ENTRIES[kind].make(kind, params)
    try:
        return _STAIRCASES[kind](**params)
    except TypeError as error:
        raise ValueError(f"params {sorted(params)} do not fit activation {kind!r}") from error


def _own_activation(
    function: TensorFunction, breakpoints: Any, name: str | None, derivative: TensorFunction | None
) -> Activation:
    name = name or str(getattr(function, "__name__", "own"))
    own = Activation(name, function, breakpoints, derivative_function=derivative)
    probe = torch.linspace(-1, 1, 5, dtype=torch.float64)
    try:
        own(probe)
    except (RuntimeError, AttributeError) as error:
        raise TypeError(f"activation {name!r} must take a torch tensor: {error}") from error
    own.derivative(probe)
    return own


def from_module(module: nn.Module) -> Activation:
    """The activation that a torch module computes, such as ``torch.nn.LeakyReLU(0.1)``.

    Raises TypeError if none of the named activations is the module's.

    >>> from ntklc_helpers.theory.activations import from_module
    >>> from_module(torch.nn.LeakyReLU(0.1)) == nh.activation("leaky_relu", slope=0.1)
    True
    """
    for name, entry in _ENTRIES.items():
        if type(module) is entry.module and entry.only(module):
            values = (getattr(module, attribute) for attribute in entry.attributes)
            return entry.make(name, dict(zip(entry.params, values, strict=True)))
    known = dict.fromkeys(entry.module.__name__ for entry in _ENTRIES.values() if entry.module)
    raise TypeError(f"module must be an activation among {', '.join(known)}, got {module!r}")


def refuse_jumps(argument: str, activations: Iterable[AnyActivation]) -> None:
    """Raise ValueError if an activation has a jump, after which there is no tangent kernel."""
    if jumping := [activation.name for activation in activations if activation.has_jump]:
        raise ValueError(
            f"{argument} must not have a jump, as {jumping} have: E[σ'²] = ∞, so the diagonal of "
            "the neural tangent kernel does not exist"
        )


def activation_list(argument: str, values: Any) -> tuple[AnyActivation, ...]:
    """``values`` as activations, if it is a sequence of at least one, or of their names.

    Raises ValueError, which names ``argument``, if it is anything else.

    >>> from ntklc_helpers.theory.activations import activation_list
    >>> [act.name for act in activation_list("activations", ["relu", nh.activation("tanh")])]
    ['relu', 'tanh']
    """
    kinds = str | Activation | Quantized
    sequence = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    if not sequence or not all(isinstance(value, kinds) for value in values):
        raise ValueError(
            f"{argument} must name at least one layer: a sequence of activations, as "
            "nh.activation(...) makes them of a function too, or of names such as 'relu'; "
            f"got {reprlib.repr(values)}"
        )
    return tuple(activation(value) if isinstance(value, str) else value for value in values)


def surrogate_list(
    argument: str, values: Any, activations: Sequence[AnyActivation]
) -> tuple[Quantized | None, ...]:
    """Surrogate derivatives of these activations, checked: one for each, None for its own.

    Raises ValueError, which names ``argument``, if it is anything else, or an activation with a
    jump is given none.

    >>> from ntklc_helpers.theory.activations import surrogate_list
    >>> surrogate_list("surrogates", None, [nh.activation("relu")])
    (None,)
    """
    given = [None] * len(activations) if values is None else values
    sequence = isinstance(given, Sequence) and not isinstance(given, str)
    if not sequence or not all(one is None or isinstance(one, Quantized) for one in given):
        raise ValueError(
            f"{argument} must hold a derivative for each layer, a Quantized, which is bounded and "
            "as fine as you make it, or None for the activation's own; got "
            f"{reprlib.repr(values)}"
        )
    same_length(argument, given, "activations", len(activations))
    if bare := [
        a.name for a, s in zip(activations, given, strict=True) if a.has_jump and s is None
    ]:
        raise ValueError(
            f"{argument} must name a derivative for activations with a jump, as {bare} have: their "
            "own is infinite there, and 0 elsewhere"
        )
    return tuple(given)
