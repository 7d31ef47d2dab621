"""Activation functions: one entry each, callable on torch tensors, numpy arrays and floats.

To add an activation, add one entry to ``_SMOOTH`` or ``_PIECEWISE``; its Gaussian moments and
kernels follow by quadrature and expansion. A closed-form kernel is optional.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .validation import finite_tuple

TensorFunction = Callable[[torch.Tensor], torch.Tensor]


def _through_torch(function: TensorFunction, x: Any) -> Any:
    """Apply an elementwise torch function to ``x`` and return the kind of thing ``x`` was."""
    if isinstance(x, torch.Tensor):
        return function(x)
    array = np.asarray(x, dtype=np.float64)
    value = torch.as_tensor(function(torch.tensor(array))).detach().numpy()
    return float(value) if np.ndim(x) == 0 else value


@dataclass(frozen=True)
class Activation:
    """An elementwise nonlinearity.

    Attributes
    ----------
    name : str
        Standard name; kernels use it to find a closed form.
    function : callable
        Elementwise, torch tensor to torch tensor.
    breakpoints : tuple of float
        Where the function has a kink or a jump, increasing. Quadrature splits there.
    params : tuple of (str, float)
        Parameters of a family, such as ``(("slope", 0.1),)``.
    derivative_function : callable, optional
        Almost-everywhere derivative; by automatic differentiation when absent.
    """

    name: str
    function: TensorFunction
    breakpoints: tuple[float, ...] = ()
    params: tuple[tuple[str, float], ...] = ()
    derivative_function: TensorFunction | None = None

    def __call__(self, x: Any) -> Any:
        return _through_torch(self.function, x)

    def derivative(self, x: Any) -> Any:
        """Almost-everywhere derivative at ``x``, same kind and shape as ``x``."""
        return _through_torch(self.derivative_function or self._autograd, x)

    def _autograd(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            try:
                value = self.function(leaf)
            except RuntimeError as error:
                raise TypeError(
                    f"activation {self.name!r} cannot be differentiated by torch ({error}); "
                    "pass `derivative`, its almost-everywhere derivative"
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


@dataclass(frozen=True)
class Quantized:
    """A piecewise-constant activation with m levels and m − 1 thresholds.

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
    """

    thresholds: tuple[float, ...]
    levels: tuple[float, ...]
    name: str = "quantized"

    def __post_init__(self) -> None:
        thresholds = finite_tuple("thresholds", self.thresholds)
        levels = finite_tuple("levels", self.levels)
        if len(levels) < 2 or len(levels) != len(thresholds) + 1:
            raise ValueError(
                "levels must have one entry more than thresholds, and at least 2; "
                f"got {len(levels)} levels and {len(thresholds)} thresholds"
            )
        if any(b <= a for a, b in zip(thresholds, thresholds[1:], strict=False)):
            raise ValueError(f"thresholds must be strictly increasing, got {thresholds}")
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "levels", levels)

    def __call__(self, x: Any) -> Any:
        return _through_torch(self._lookup, x)

    def _lookup(self, x: torch.Tensor) -> torch.Tensor:
        thresholds = torch.tensor(self.thresholds, dtype=x.dtype, device=x.device)
        levels = torch.tensor(self.levels, dtype=x.dtype, device=x.device)
        return levels[torch.bucketize(x.contiguous(), thresholds)]

    def derivative(self, x: Any) -> Any:
        """Almost-everywhere derivative: zero."""
        return _through_torch(torch.zeros_like, x)

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return self.thresholds

    @property
    def params(self) -> tuple[tuple[str, float], ...]:
        return ()

    @property
    def jumps(self) -> tuple[float, ...]:
        """Height of the jump at each threshold."""
        return tuple(b - a for a, b in zip(self.levels, self.levels[1:], strict=False))

    @property
    def has_jump(self) -> bool:
        return any(self.jumps)


AnyActivation = Activation | Quantized


def sigma_t(s1: float, s2: float, a: float) -> Quantized:
    """The two-level activation ``a (1[t < s1] + 1[t > s2])`` of NTK-LC; needs ``s1 < s2``."""
    return Quantized((s1, s2), (a, 0.0, a), name="sigma_t")


def sigma_q(r1: float, r2: float, r3: float, r4: float, b1: float, b2: float) -> Quantized:
    """The three-level activation ``b1 (1[t < r1] + 1[t > r4]) + b2 1[r2 <= t <= r3]`` of NTK-LC.

    Needs ``r1 < r2 < r3 < r4``.
    """
    return Quantized((r1, r2, r3, r4), (b1, 0.0, b2, 0.0, b1), name="sigma_q")


_SMOOTH: dict[str, TensorFunction] = {
    "linear": lambda x: x,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    # torch's softplus turns linear at 20, an error of 2e-9; logaddexp is exact.
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "sin": torch.sin,
    "cos": torch.cos,
    "gaussian": lambda x: torch.exp(-(x**2) / 2),
    "quadratic": lambda x: x**2,
    "hermite3": lambda x: (x**3 - 3 * x) / 6**0.5,
}


def _leaky_relu(slope: float = 0.01) -> Activation:
    (slope,) = finite_tuple("slope", [slope])
    return Activation(
        "leaky_relu",
        lambda x: torch.where(x > 0, x, slope * x),
        (0.0,),
        params=(("slope", slope),),
    )


_PIECEWISE: dict[str, Callable[..., AnyActivation]] = {
    "relu": lambda: Activation("relu", torch.relu, (0.0,)),
    "leaky_relu": _leaky_relu,
    "abs": lambda: Activation("abs", torch.abs, (0.0,)),
    "sign": lambda: Quantized((0.0,), (-1.0, 1.0), name="sign"),
    "step": lambda: Quantized((0.0,), (0.0, 1.0), name="step"),
    "sigma_t": sigma_t,
    "sigma_q": sigma_q,
}


def activation_names() -> tuple[str, ...]:
    """Names that :func:`activation` knows."""
    return tuple(sorted([*_SMOOTH, *_PIECEWISE]))


def activation(
    kind: str | TensorFunction,
    *,
    breakpoints: Sequence[float] | None = None,
    name: str | None = None,
    derivative: TensorFunction | None = None,
    **params: float,
) -> AnyActivation:
    """An activation by name, or from a function of your own.

    Parameters
    ----------
    kind : str or callable
        A name of :func:`activation_names`, or an elementwise function on torch tensors.
    breakpoints : sequence of float, optional
        Own functions only: every kink and jump, in any order.
    name : str, optional
        Own functions only: the name to show; the function's own by default.
    derivative : callable, optional
        Own functions only: almost-everywhere derivative where torch cannot differentiate.
    **params : float
        Parameters of a named family, such as ``slope=0.1`` for ``"leaky_relu"``.

    Raises
    ------
    ValueError
        For an unknown name or parameter, or breakpoints that are not finite.
    TypeError
        If an own function does not map a tensor to a tensor of the same shape.

    Examples
    --------
    >>> activation("leaky_relu", slope=0.1)(-2.0)
    -0.2
    """
    if callable(kind):
        if params:
            raise ValueError(f"params {sorted(params)} belong to named activations only")
        return _own_activation(kind, breakpoints or (), name, derivative)
    if kind not in _SMOOTH and kind not in _PIECEWISE:
        raise ValueError(f"unknown activation {kind!r}; known: {', '.join(activation_names())}")
    if (breakpoints, name, derivative) != (None, None, None):
        raise ValueError("breakpoints, name and derivative belong to own functions only")
    factory = _PIECEWISE.get(kind, lambda: Activation(kind, _SMOOTH[kind]))
    try:
        return factory(**params)
    except TypeError as error:
        raise ValueError(f"params {sorted(params)} do not fit activation {kind!r}") from error


def _own_activation(
    function: TensorFunction,
    breakpoints: Sequence[float],
    name: str | None,
    derivative: TensorFunction | None,
) -> Activation:
    probe = torch.linspace(-1, 1, 5, dtype=torch.float64)
    shape = getattr(function(probe), "shape", None)
    if shape != probe.shape:
        raise TypeError(
            "an activation must map a tensor to a tensor of the same shape, elementwise; "
            f"got shape {shape} from shape {tuple(probe.shape)}"
        )
    kinks = sorted(set(finite_tuple("breakpoints", breakpoints)))
    return Activation(
        name or str(getattr(function, "__name__", "own")),
        function,
        tuple(kinks),
        derivative_function=derivative,
    )
