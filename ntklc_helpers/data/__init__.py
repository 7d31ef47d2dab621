"""What comes in: Gaussian mixtures with their statistics, and real images."""

from .._face import promised as _promised
from .files import DataError, MissingDataError
from .images import (
    Dataset,
    balanced_rows,
    load_cifar10,
    load_digits,
    load_images,
    load_mnist,
    normalize,
)
from .mixture import PRESETS, GaussianMixture, Sample, Statistics, estimate_statistics
from .patches import WhitenedPatches

__all__ = _promised(vars())
