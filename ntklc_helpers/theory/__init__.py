"""What the theorems say: moments, kernels of wide networks, their equivalents and spectra."""

from .._face import promised as _promised
from .activations import Activation, Quantized, activation, activation_names, sigma_q, sigma_t
from .angle import angle_series, polynomial_equivalent
from .coefficients import propagate, published_kappa_squared
from .conv_kernels import conv_limit_kernels, conv_scales
from .conv_layers import AveragePool, Conv, Flatten, GlobalAveragePool, Normalize
from .conv_networks import RandomCNN
from .dynamics import TrainingCurve, largest_rate, training_curve
from .equivalents import ck_equivalent, ntk_equivalent
from .forecast import Forecast, Forecaster, forecast
from .gaussian import GaussianMoments
from .infinite import limit_kernels
from .limiting_dynamics import limiting_training_loss
from .metrics import (
    align,
    leading_eigenpairs,
    power_law,
    principal_cosines,
    relative_error,
    spectral_norm,
)
from .moments import gaussian_moments
from .needed_width import offset_power_law, required_width, width_exponent
from .networks import RandomMLP, empirical_ck, empirical_ntk
from .operators import KernelEquivalent
from .pruned import first_layer_correction, pruned_limit_kernels
from .ridge import RidgeSolution, kernel_ridge
from .risk import ridge_risk
from .spectrum import limiting_spectrum
from .sphere import SphereKernel, sphere_kernel
from .surrogates import surrogate_ntk
from .tiles import fill_tiles, kernel_array
from .weights import (
    Gaussian,
    Layered,
    MagnitudePruned,
    Pruned,
    Rademacher,
    StudentT,
    Ternary,
    draw_ternary,
)
from .width import width_law, width_outliers

__all__ = _promised(vars())
