"""Random-matrix compression of deep networks: kernels, equivalents, matching, compression.

The names that most readers need, in the order in which data flow through the rooms. Everything
else is reached through its room: ``nh.data``, ``nh.theory``, ``nh.matching``, ``nh.compression``.
What chapters run for long is imported by those who want it, from ``ntklc_helpers.experiments``.
"""

# Rooms stand in their order, not in the alphabet's.
# ruff: noqa: I001
import typing as _typing

from . import data, theory, matching, compression
from ._face import later as _later

# What comes in: Gaussian mixtures with their statistics, and real images.
from .data import (
    DataError,
    GaussianMixture,
    MissingDataError,
    Statistics,
    estimate_statistics,
    load_cifar10,
    load_digits,
    load_images,
    load_mnist,
    normalize,
)

# What the theorems say: moments, coefficients, kernels of wide networks, their spectra.
from .theory import (
    Activation,
    Quantized,
    activation,
    sigma_t,
    sigma_q,
    gaussian_moments,
    propagate,
    KernelEquivalent,
    ck_equivalent,
    ntk_equivalent,
    limit_kernels,
    conv_limit_kernels,
    Conv,
    AveragePool,
    Flatten,
    GlobalAveragePool,
    surrogate_ntk,
    training_curve,
    limiting_spectrum,
    forecast,
    RandomMLP,
    empirical_ck,
    empirical_ntk,
    relative_error,
    leading_eigenpairs,
    power_law,
)

# Few levels, same kernel: staircases that keep the coefficients, or a proof that none can.
from .matching import (
    match,
    Matching,
    MatchingError,
    linear_share_bound,
)

# Small networks that run, are stored in few bytes, and are trained.
from .compression import (
    allocate,
    compress,
    CompressedNetwork,
    load,
    fit_readout,
    train_dense,
    train_ternary,
    prune_and_finetune,
)

# Scikit-learn, which takes a while to import, comes with them.
_LATER = ("NTKLCClassifier", "NTKLCRegressor")
if _typing.TYPE_CHECKING:
    from .compression import NTKLCClassifier, NTKLCRegressor
else:
    __getattr__, __dir__ = _later(vars(), ".compression", _LATER)

__all__ = [*(name for name in vars() if not name.startswith("_")), *_LATER]
