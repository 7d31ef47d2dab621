"""Random-matrix compression of deep networks: kernels, equivalents, matching, compression."""

from .activations import Activation, Quantized, activation, activation_names, sigma_q, sigma_t
from .certificates import Certificate
from .comparison import (
    PowerLaw,
    align,
    leading_eigenpairs,
    power_law,
    relative_error,
    required_width,
    spectral_norm,
)
from .compress import compress
from .compressed import CompressedNetwork, Memory, load
from .datafiles import DataError, MissingDataError
from .datasets import Dataset, load_cifar10, load_digits, load_images, load_mnist, normalize
from .equivalents import (
    KernelEquivalent,
    LayerCoefficients,
    ck_equivalent,
    ntk_equivalent,
    propagate,
)
from .gmm import PRESETS, GaussianMixture, Sample, Statistics, estimate_statistics
from .kernels import limit_kernels
from .layers import TernaryLayer
from .limiting import Outlier, SpectralDensity, limiting_spectrum
from .lottery import Sweep, run_sweep
from .matching import Matching, MatchingError, match
from .moments import GaussianMoments, gaussian_moments
from .networks import RandomMLP, empirical_ck, empirical_ntk
from .pruned import MagnitudePrunedMLP, PrunedMLP, first_layer_correction, pruned_limit_kernels
from .pruning import prune_globally, rewind, snapshot, sparsity
from .published import sigma_q_solution, sigma_t_solutions
from .quantizers import linear_share_bound
from .readout import READOUT_DTYPES, Readout, fit_readout
from .storage import NetworkFileError
from .straight_through import clipped_relu, train_ternary
from .ternary import (
    TernaryMatrix,
    draw_ternary,
    pack_ternary,
    pruned_bytes,
    ternary_entropy,
    unpack_ternary,
)
from .ternary_network import TernaryNetwork
from .training import Training, hidden_sparsity, prune_and_finetune, train_dense
from .vgg import convolutional_features

__all__ = [
    "PRESETS",
    "READOUT_DTYPES",
    "Activation",
    "Certificate",
    "CompressedNetwork",
    "DataError",
    "Dataset",
    "GaussianMixture",
    "GaussianMoments",
    "KernelEquivalent",
    "LayerCoefficients",
    "MagnitudePrunedMLP",
    "Matching",
    "MatchingError",
    "Memory",
    "MissingDataError",
    "NetworkFileError",
    "Outlier",
    "PowerLaw",
    "PrunedMLP",
    "Quantized",
    "RandomMLP",
    "Readout",
    "Sample",
    "SpectralDensity",
    "Statistics",
    "Sweep",
    "TernaryLayer",
    "TernaryMatrix",
    "TernaryNetwork",
    "Training",
    "activation",
    "activation_names",
    "align",
    "ck_equivalent",
    "clipped_relu",
    "compress",
    "convolutional_features",
    "draw_ternary",
    "empirical_ck",
    "empirical_ntk",
    "estimate_statistics",
    "first_layer_correction",
    "fit_readout",
    "gaussian_moments",
    "hidden_sparsity",
    "leading_eigenpairs",
    "limit_kernels",
    "limiting_spectrum",
    "linear_share_bound",
    "load",
    "load_cifar10",
    "load_digits",
    "load_images",
    "load_mnist",
    "match",
    "normalize",
    "ntk_equivalent",
    "pack_ternary",
    "power_law",
    "propagate",
    "prune_and_finetune",
    "prune_globally",
    "pruned_bytes",
    "pruned_limit_kernels",
    "relative_error",
    "required_width",
    "rewind",
    "run_sweep",
    "sigma_q",
    "sigma_q_solution",
    "sigma_t",
    "sigma_t_solutions",
    "snapshot",
    "sparsity",
    "spectral_norm",
    "ternary_entropy",
    "train_dense",
    "train_ternary",
    "unpack_ternary",
]
