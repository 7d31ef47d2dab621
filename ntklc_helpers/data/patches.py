"""Patches of images, of one contrast and whitened, as images whose channels they are."""

from __future__ import annotations

import numpy as np
from attrs import field, frozen
from numpy.typing import ArrayLike

from .._checks import SAME, FloatArray, checked, image_array, positive, samples, whole


@frozen
class WhitenedPatches:
    """What Coates, Ng and Lee (2011) do to images before any filter: patches, contrast, whitening.

    Every ``size`` × ``size`` patch, at steps of ``stride``, has its mean taken off and is divided
    by √(its variance + ``floor``); then comes the whitening of patches that :meth:`fit` has seen.
    A filter on a patch is one of 1 × 1 on what comes out: ``nh.Conv(1)``.

    Attributes
    ----------
    mean : (d,) array
        Of patches of one contrast, d = size² c.
    matrix : (d, d) array
        (C + ridge tr C / d · 1)^(−1/2), with C their covariance.
    size, stride : int
    floor : float

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((50, 8, 8, 3))
    >>> patches = nh.data.WhitenedPatches.fit(images, size=3, ridge=0.01)
    >>> rows = patches(images).reshape(-1, 27)
    >>> rows.shape, round(float(rows.var()), 1)
    ((1800, 27), 1.0)
    """

    mean: FloatArray = field(eq=SAME)
    matrix: FloatArray = field(eq=SAME)
    size: int = checked(whole)
    stride: int = checked(whole)
    floor: float = checked(positive)

    def __attrs_post_init__(self) -> None:
        d = len(samples("matrix", self.matrix))
        if self.matrix.shape != (d, d) or np.shape(self.mean) != (d,) or d % self.size**2:
            raise ValueError(
                f"matrix must be (d, d) and mean (d,), d channels of {self.size} × {self.size}, "
                f"got {self.matrix.shape} and {np.shape(self.mean)}"
            )

    @classmethod
    def fit(
        cls,
        images: ArrayLike,
        size: int = 6,
        stride: int = 1,
        *,
        ridge: float = 0.1,
        floor: float = 0.01,
    ) -> WhitenedPatches:
        """Learn mean and covariance from the patches of images (n, h, w, c).

        Defaults are for images of mean square 1. Raises ValueError if an argument is not as stated,
        images are smaller than patches, or all patches are alike.
        """
        X, ridge = image_array("images", images), positive("ridge", ridge)
        floor = positive("floor", floor)
        rows = _patches(X, whole("size", size), whole("stride", stride), floor)
        rows = rows.reshape(-1, rows.shape[-1])
        mean = rows.mean(axis=0)
        rows -= mean
        values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
        if not values.mean() > 0:
            raise ValueError("images must have patches that differ, got patches all alike")
        root = np.sqrt(np.maximum(values, 0) + ridge * values.mean())
        return cls(mean, (vectors / root) @ vectors.T, size, stride, floor)

    def __call__(self, images: ArrayLike) -> FloatArray:
        """Images (n, h, w, c) as (n, h', w', d), h' = ⌊(h − size) / stride⌋ + 1.

        Raises ValueError if they are no images, smaller than patches, or of other channels.
        """
        X = image_array("images", images)
        channels = len(self.mean) // self.size**2
        if X.shape[-1] != channels:
            raise ValueError(f"images must have {channels} channels, got {X.shape[-1]}")
        return (_patches(X, self.size, self.stride, self.floor) - self.mean) @ self.matrix


def _patches(X: FloatArray, size: int, stride: int, floor: float) -> FloatArray:
    """Patches (n, h', w', c size²) of mean 0 and of one contrast."""
    if size > min(X.shape[1:3]):
        raise ValueError(f"images must be at least {size} × {size}, got {X.shape[1:3]}")
    windows = np.lib.stride_tricks.sliding_window_view(X, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    found = windows.reshape(*windows.shape[:3], -1)
    found = found - found.mean(axis=-1, keepdims=True)
    found /= np.sqrt((found**2).mean(axis=-1, keepdims=True) + floor)
    return found
