"""What the theorems say: moments, kernels of wide networks, their equivalents and spectra."""

from .._face import promised as _promised
from .activations import Activation, Quantized, activation, activation_names, sigma_q, sigma_t
from .equivalents import (
    KernelEquivalent,
    ck_equivalent,
    ntk_equivalent,
    propagate,
    published_kappa_squared,
)
from .gaussian import GaussianMoments
from .infinite import limit_kernels
from .metrics import (
    align,
    leading_eigenpairs,
    power_law,
    principal_cosines,
    relative_error,
    required_width,
    spectral_norm,
)
from .moments import gaussian_moments
from .networks import RandomMLP, empirical_ck, empirical_ntk
from .pruned import first_layer_correction, pruned_limit_kernels
from .spectrum import limiting_spectrum
from .weights import (
    Gaussian,
    MagnitudePruned,
    Pruned,
    Rademacher,
    StudentT,
    Ternary,
    draw_ternary,
)

__all__ = _promised(vars())
