"""Real images: MNIST, CIFAR-10, and the digits that ship with scikit-learn.

Where the files are looked for is told in :mod:`ntklc_helpers.datafiles` and
:mod:`ntklc_helpers.cifar`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .cifar import read_cifar
from .datafiles import DATA_VARIABLE, MissingDataError, mnist_file, read_idx, unusable
from .validation import positive_integer, sample_matrix

MNIST_PREFIX = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Dataset:
    """Images as rows.

    Attributes
    ----------
    X : (n, p) array
        One image a row, float64 in [0, 1]; the rows are sorted by class.
    labels : (n,) int64 array
        The position of each row's class in ``classes``: 0 … K − 1.
    classes : tuple of int
        The K digits or kinds shown, in the order asked for.
    name : str
        ``"mnist"``, ``"digits"`` or ``"cifar10"``.
    source : str
        Where the images come from, in words to show beside a figure.
    note : str
        What a reader must be told, such as that other data stand in; empty if there is nothing.
    """

    X: NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: tuple[int, ...]
    name: str
    source: str
    note: str = ""


def load_mnist(
    split: str = "train", classes: Sequence[int] | None = None, n: int | None = None, seed: int = 0
) -> Dataset:
    """MNIST's images of handwritten digits, 28 × 28 pixels each, so p = 784.

    Parameters
    ----------
    split : {"train", "test"}
        The 60,000 or the 10,000.
    classes : sequence of int, optional
        The digits wanted, in the order that the labels are to have; all ten by default.
    n : int, optional
        How many images to draw, spread over the classes as evenly as their sizes allow; all of
        them by default.
    seed : int
        Of the draw.

    Raises
    ------
    MissingDataError
        A file is neither on disk nor to be had; names the files and the variable to set.
    DataError
        A file is truncated or corrupt, or the checksum of a download is wrong.
    ValueError
        ``split`` or a class is unknown, or ``n`` is out of reach.
    """
    _check_split(split, tuple(MNIST_PREFIX))
    _check_classes(classes)
    prefix = MNIST_PREFIX[split]
    image_file = mnist_file(f"{prefix}-images-idx3-ubyte")
    label_file = mnist_file(f"{prefix}-labels-idx1-ubyte")
    images = read_idx(image_file, ndim=3)
    digits = read_idx(label_file, ndim=1)
    if images.shape[1:] != (28, 28):
        raise unusable(image_file, f"holds images of shape {images.shape[1:]}, not 28x28")
    if len(digits) != len(images):
        raise unusable(label_file, f"holds {len(digits)} labels, {len(images)} expected")
    if digits.max() > 9:
        raise unusable(label_file, f"holds the label {digits.max()}, not a digit")
    rows, labels, classes = _select(digits, classes, n, seed)
    X = images[rows].reshape(len(rows), -1) / 255.0
    return Dataset(X, labels, classes, "mnist", f"MNIST, {split} set")


def load_digits(
    classes: Sequence[int] | None = None, n: int | None = None, seed: int = 0, split: str = "all"
) -> Dataset:
    """The 1,797 handwritten digits of 8 × 8 pixels that ship with scikit-learn, so p = 64.

    Parameters as in :func:`load_mnist`, except that ``split`` may also be ``"all"``: ``"train"``
    is the first two thirds of the images and ``"test"`` the rest.

    Raises
    ------
    ValueError
        ``split`` or a class is unknown, or ``n`` is out of reach.
    """
    from sklearn import datasets

    _check_split(split, ("all", "train", "test"))
    _check_classes(classes)
    images, digits = datasets.load_digits(return_X_y=True)
    cut = 2 * len(images) // 3
    part = {"all": slice(None), "train": slice(cut), "test": slice(cut, None)}[split]
    rows, labels, classes = _select(digits[part], classes, n, seed)
    source = "scikit-learn digits" + ("" if split == "all" else f", {split} part")
    return Dataset(images[part][rows] / 16.0, labels, classes, "digits", source)


def load_cifar10(
    split: str = "train", classes: Sequence[int] | None = None, n: int | None = None, seed: int = 0
) -> Dataset:
    """CIFAR-10's colour photographs of ten kinds of thing, 3 planes of 32 × 32, so p = 3,072.

    Parameters as in :func:`load_mnist`; ``split`` is one of the 50,000 or the 10,000. Files that
    are not the originals are used, and so is an archive ``cifar10-jpeg.tar.gz`` of JPEG files,
    which is decoded once into the user's cache; ``source`` then says so.

    Raises
    ------
    MissingDataError
        The files are neither on disk nor to be had.
    DataError
        A file or the archive is damaged, or the checksum of a download is wrong.
    ValueError
        ``split`` or a class is unknown, or ``n`` is out of reach.
    """
    _check_split(split, ("train", "test"))
    _check_classes(classes)
    images, kinds, name = read_cifar(split)
    rows, labels, classes = _select(kinds, classes, n, seed)
    return Dataset(images[rows] / 255.0, labels, classes, "cifar10", f"{name}, {split} set")


def load_images(
    name: str = "mnist",
    split: str = "train",
    classes: Sequence[int] | None = None,
    n: int | None = None,
    seed: int = 0,
    fallback: bool = True,
) -> Dataset:
    """The images called ``name``; with ``fallback``, the digits stand in where these are missing.

    When they do, the result's ``note`` says so, and ``n`` is cut to the number there is. Files
    that are there but corrupt are an error all the same.

    Parameters
    ----------
    name : {"mnist", "cifar10", "digits"}
    split, classes, n, seed
        As in :func:`load_mnist`.
    fallback : bool
        Whether the digits may stand in.

    Raises
    ------
    DataError, ValueError
        As :func:`load_mnist` does; ``MissingDataError`` only without ``fallback``.
    """
    if name == "digits":
        return load_digits(classes, n, seed, split)
    loaders = {"mnist": load_mnist, "cifar10": load_cifar10}
    if name not in loaders:
        raise ValueError(f"name must be 'mnist', 'cifar10' or 'digits', got {name!r}")
    try:
        return loaders[name](split, classes, n, seed)
    except MissingDataError:
        if not fallback:
            raise
    dataset = load_digits(classes, split=split)
    available = len(dataset.labels)
    if n is not None and n < available:
        dataset = load_digits(classes, n, seed, split)
    asked = "" if n is None or n <= available else f" instead of the {n:,} asked for"
    title = {"mnist": "MNIST", "cifar10": "CIFAR-10"}[name]
    note = (
        f"{title} is not available here, so this uses {len(dataset.labels):,} of scikit-learn's "
        f"8 × 8 digits{asked}. To use {title}, set {DATA_VARIABLE} to a folder that holds it."
    )
    return replace(dataset, note=note)


def normalize(X: ArrayLike, reference: ArrayLike | None = None) -> NDArray[np.float64]:
    """Centre and scale rows as the theory has them: mean zero, mean squared norm one.

    With r_1 … r_m the rows of the reference and r̄ their mean, each row becomes
    ``(x − r̄) / s`` with ``s² = (1/m) Σ_i ‖r_i − r̄‖²``, so that τ₀ of the reference is about 1.

    Parameters
    ----------
    X : (n, p) array
    reference : (m, p) array, optional
        The rows that set mean and scale: the training set, when ``X`` is the test set. ``X``
        itself by default.

    Returns
    -------
    (n, p) float64 array

    Raises
    ------
    ValueError
        Not a matrix of finite numbers, different numbers of columns, or all rows of the reference
        the same.
    """
    X = sample_matrix("X", X)
    reference = X if reference is None else sample_matrix("reference", reference)
    if reference.shape[1] != X.shape[1]:
        raise ValueError(
            f"reference must have as many columns as X, {X.shape[1]}, got {reference.shape[1]}"
        )
    if (reference == reference[0]).all():
        raise ValueError("reference must hold at least two different rows: its scale is zero")
    mean = reference.mean(axis=0)
    centred = reference - mean
    scale = np.sqrt(np.vdot(centred, centred) / len(centred))
    if reference is not X:
        centred = X - mean
    centred /= scale
    return centred


def _check_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"split must be one of {', '.join(known)}, got {split!r}")


def _check_classes(classes: Sequence[int] | None) -> None:
    if classes is None:
        return
    known = np.ndim(classes) == 1 and all(c in range(10) for c in classes)
    if not known or len(classes) == 0 or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be different digits 0 to 9, got {classes!r}")


def _select(
    digits: NDArray, classes: Sequence[int] | None, n: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, ...]]:
    """Rows and labels of a balanced draw of ``n``, sorted by class, in file order within each."""
    classes = tuple(range(10)) if classes is None else tuple(int(c) for c in classes)
    rows = [np.flatnonzero(digits == c) for c in classes]
    sizes = np.array([len(r) for r in rows])
    if n is not None:
        if not len(classes) <= positive_integer("n", n) <= sizes.sum():
            raise ValueError(
                f"n must be between the number of classes, {len(classes)}, and the number of "
                f"images of these classes, {sizes.sum()}, got {n}"
            )
        rng = np.random.default_rng(seed)
        sizes = _balanced(sizes, n)
        rows = [
            np.sort(rng.choice(r, size, replace=False)) for r, size in zip(rows, sizes, strict=True)
        ]
    if 0 in sizes:
        raise ValueError(f"classes: there is no image of digit {classes[int(np.argmin(sizes))]}")
    return np.concatenate(rows), np.repeat(np.arange(len(classes)), sizes), classes


def _balanced(available: NDArray, n: int) -> NDArray[np.int64]:
    """How many of each class to take, n in all, as equal as ``available`` allows."""
    levels = np.arange(available.max() + 1)
    totals = np.minimum(levels[:, None], available).sum(axis=1)
    level = np.searchsorted(totals, n, side="right") - 1
    counts = np.minimum(available, level)
    room = np.flatnonzero(available > level)
    counts[room[: n - counts.sum()]] += 1
    return counts
