"""Images to train and to test on, as networks take them: standardised, (n, channels, h, w)."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from ..data.images import Dataset, load_images

__all__ = ["SHAPES", "Images", "load_pair"]

SHAPES = {"mnist": (1, 28, 28), "digits": (1, 8, 8), "cifar10": (3, 32, 32)}
"""Channels, height and width of an image, by the data's name."""


@frozen(eq=False)
class Images:
    """Training and test images, float32 (n, c, h, w), and labels; ``source`` says what they are.

    Examples
    --------
    >>> load_pair("digits", n_train=100).kind
    ((1, 8, 8), 10)
    """

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    X_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    source: str
    note: str

    @property
    def arrays(self) -> tuple[NDArray, ...]:
        """X, y, X_test and y_test."""
        return self.X, self.y, self.X_test, self.y_test

    @property
    def kind(self) -> tuple[tuple[int, int, int], int]:
        """What a network must know: the shape of an image, and the number of classes."""
        return self.X.shape[1:], int(self.y.max()) + 1


def load_pair(
    data: str, n_train: int | None = None, seed: int = 0, stand_in: bool = False
) -> Images:
    """Images to train and to test on, each channel with mean 0 and variance 1 over the former.

    Of ``data``, "mnist", "digits" or "cifar10", ``n_train`` are drawn with ``seed``, classes
    balanced; all by default. Digits may stand in for MNIST where it cannot be had, and with
    ``stand_in`` for CIFAR-10; the result's ``note`` then says so. Raises DataError or ValueError as
    :func:`~ntklc_helpers.data.images.load_images`.

    Examples
    --------
    >>> load_pair("digits", n_train=100).X.shape
    (100, 1, 8, 8)
    """
    fallback = stand_in or data == "mnist"
    train = load_images(data, "train", n=n_train, seed=seed, fallback=fallback)
    test = load_images(data, "test", seed=seed, fallback=fallback)
    X, X_test = _as_images(train), _as_images(test)
    mean = X.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(X.dtype)
    scale = X.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(X.dtype)
    X, X_test = (X - mean) / scale, (X_test - mean) / scale
    return Images(X, train.labels, X_test, test.labels, train.source, train.note)


def _as_images(part: Dataset) -> NDArray[np.float32]:
    return part.X.astype(np.float32).reshape(-1, *SHAPES[part.name])
