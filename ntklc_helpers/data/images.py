"""Real images: MNIST, CIFAR-10, and the digits that ship with scikit-learn.

Where the files are looked for is told in :mod:`ntklc_helpers.data.files`. To add a data set, write
what reads it and add its entry to ``SOURCES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import norm

from .._checks import SAME, array, class_labels, one_of, samples, whole
from .files import DATA_VARIABLE, MissingDataError, read_cifar, read_mnist


@frozen
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
    name, source : str
        ``"mnist"``, ``"digits"`` or ``"cifar10"``, and where the images come from, in words.
    note : str
        What a reader must be told, such as that other data stand in; empty if there is nothing.

    Examples
    --------
    >>> nh.load_digits("test", n=20).source
    'scikit-learn digits, test part'
    """

    X: NDArray[np.float64] = field(eq=SAME)
    labels: NDArray[np.int64] = field(eq=SAME)
    classes: tuple[int, ...]
    name: str
    source: str
    note: str = ""


@frozen
class Source:
    """A data set: its title, splits, the pixels' largest value, and what reads a split.

    ``read(split)`` returns pixels (n, p), the class of each image (n,), from 0 to one less than
    ``n_classes``, and what they are, in words.
    """

    title: str
    splits: tuple[str, ...]
    white: float
    read: Callable[[str], tuple[NDArray, NDArray, str]]
    n_classes: int = 10


@cache
def _read_digits(split: str) -> tuple[NDArray, NDArray, str]:
    from sklearn import datasets

    images, digits = datasets.load_digits(return_X_y=True)
    cut = 2 * len(images) // 3
    part = {"all": slice(None), "train": slice(cut), "test": slice(cut, None)}[split]
    source = "scikit-learn digits" + ("" if split == "all" else f", {split} part")
    return images[part], digits[part], source


SOURCES = {
    "mnist": Source("MNIST", ("train", "test"), 255.0, read_mnist),
    "cifar10": Source("CIFAR-10", ("train", "test"), 255.0, read_cifar),
    "digits": Source("the digits", ("all", "train", "test"), 16.0, _read_digits),
}


def load_mnist(
    split: str = "train", classes: Sequence[int] | None = None, n: int | None = None, seed: int = 0
) -> Dataset:
    """MNIST's 60,000 and 10,000 handwritten digits of 28 × 28 pixels, so p = 784.

    Arguments, result and errors as for :func:`load_images`; nothing stands in for them.

    Examples
    --------
    >>> nh.load_mnist("test", classes=(3, 1), n=4).labels
    array([0, 0, 1, 1])
    """
    return _load("mnist", split, classes, n, seed)


def load_digits(
    split: str = "all", classes: Sequence[int] | None = None, n: int | None = None, seed: int = 0
) -> Dataset:
    """The 1,797 handwritten digits of 8 × 8 pixels that ship with scikit-learn, so p = 64.

    Arguments, result and errors as for :func:`load_images`; ``split`` may also be ``"all"``.
    ``"train"`` is the first two thirds of the images, ``"test"`` the rest.

    Examples
    --------
    >>> nh.load_digits("train").X.shape
    (1198, 64)
    """
    return _load("digits", split, classes, n, seed)


def load_cifar10(
    split: str = "train", classes: Sequence[int] | None = None, n: int | None = None, seed: int = 0
) -> Dataset:
    """CIFAR-10's 50,000 and 10,000 photographs of ten kinds, 3 planes of 32 × 32, so p = 3,072.

    Arguments, result and errors as for :func:`load_images`; nothing stands in for them. Files that
    are not the originals are used, and so is an archive ``cifar10-jpeg.tar.gz`` of JPEG files,
    which is decoded once into the user's cache; ``source`` then says so.

    Examples
    --------
    >>> nh.load_cifar10("test", n=20).X.shape
    (20, 3072)
    """
    return _load("cifar10", split, classes, n, seed)


def load_images(
    name: str = "mnist",
    split: str = "train",
    classes: Sequence[int] | None = None,
    n: int | None = None,
    seed: int = 0,
    fallback: bool = True,
) -> Dataset:
    """The :class:`Dataset` ``name``; with ``fallback``, the digits stand in where it is missing.

    When they do, the result's ``note`` says so, and ``n`` is cut to the number there is. Files
    that are there but corrupt are an error all the same.

    Parameters
    ----------
    name : {"mnist", "cifar10", "digits"}
    split : {"train", "test"}
    classes : sequence of int, optional
        The digits or kinds wanted, in the order that the labels are to have; all by default.
    n : int, optional
        How many images to draw, by :func:`balanced_rows`; all of them by default.
    seed : int
        Of the draw.
    fallback : bool
        Whether the digits may stand in.

    Raises
    ------
    MissingDataError
        Without ``fallback``, a file is neither on disk nor to be had; names the files looked for
        and the variable to set.
    DataError
        A file is damaged, a download has the wrong checksum, or the cache cannot be written.
    ValueError
        The name, the split or a class is unknown, or ``n`` is out of reach.

    Examples
    --------
    >>> nh.load_images("digits", "test", classes=(6, 8), n=100).X.shape
    (100, 64)
    """
    one_of("name", name, SOURCES)
    try:
        return _load(name, split, classes, n, seed)
    except MissingDataError:
        if not fallback:
            raise
    dataset = load_digits(split, classes)
    available = len(dataset.labels)
    if n is not None and n < available:
        dataset = load_digits(split, classes, n, seed)
    asked = "" if n is None or n <= available else f" instead of the {n:,} asked for"
    title = SOURCES[name].title
    note = (
        f"{title} is not available here, so this uses {len(dataset.labels):,} of scikit-learn's "
        f"8 × 8 digits{asked}. To use {title}, set {DATA_VARIABLE} to a folder that holds it."
    )
    return evolve(dataset, note=note)


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

    Examples
    --------
    >>> nh.normalize([[0.0, 1.0], [0.0, 3.0]])
    array([[ 0., -1.],
           [ 0.,  1.]])
    """
    X = samples("X", X)
    name = "X" if reference is None else "reference"
    given = X if reference is None else samples(name, reference, X.shape[1])
    mean, scale = mean_and_scale(name, given)
    if scale < 1e-150:
        # A power of two rounds nothing, and what is too large beside such a scale is refused.
        return normalize(X * 2.0**600, given * 2.0**600)
    centred = X - mean
    centred /= scale
    return centred


def mean_and_scale(
    argument: str, rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], np.float64]:
    """r̄ (p,) and s of :func:`normalize`; ValueError, which names ``argument``, if s is zero.

    Examples
    --------
    >>> from ntklc_helpers.data.images import mean_and_scale
    >>> mean, scale = mean_and_scale("X", np.array([[0.0, 1.0], [0.0, 3.0]]))
    >>> mean, float(scale)
    (array([0., 2.]), 1.0)
    """
    if (rows == rows[0]).all():
        raise ValueError(f"{argument} must hold two different rows or more: its scale is zero")
    mean = rows.mean(axis=0)
    # BLAS's norm, unlike a sum of squares, loses nothing where the squares are too small.
    return mean, norm((rows - mean).ravel()) / np.sqrt(len(rows))


def balanced_rows(labels: ArrayLike, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Positions of ``n`` rows drawn at random, as many of each class as can be.

    Parameters
    ----------
    labels : (N,) array of int, classes 0 … K − 1
    n : int, from K to N
    seed : int

    Returns
    -------
    (n,) int64 array
        Class after class, increasing within each.

    Raises
    ------
    ValueError
        If labels are not 0 … K − 1, or n is out of reach.

    Examples
    --------
    >>> nh.data.balanced_rows([0, 1, 0, 1, 0, 0], n=4)[2:]
    array([1, 3])
    """
    labels = class_labels("labels", labels)
    sizes = np.bincount(labels)
    least, most = len(sizes), len(labels)
    if not least <= whole("n", n) <= most:
        raise ValueError(f"n must be from {least}, one a class, to {most}, all of them, got {n}")
    # Round by round one of each class, as long as it has any.
    rounds = np.concatenate([np.arange(size) for size in sizes])
    owners = np.repeat(np.arange(least), sizes)
    taken = np.bincount(owners[np.lexsort((owners, rounds))[:n]])
    rng = np.random.default_rng(whole("seed", seed, 0))
    drawn = [
        rng.choice(np.flatnonzero(labels == a), size, replace=False) for a, size in enumerate(taken)
    ]
    return np.concatenate([np.sort(rows) for rows in drawn])


def _load(
    name: str, split: str, classes: Sequence[int] | None, n: int | None, seed: int
) -> Dataset:
    source = SOURCES[name]
    one_of("split", split, source.splits)
    known = range(source.n_classes)
    wanted = known if classes is None else array("classes", classes, 1).tolist()
    if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(known):
        raise ValueError(
            f"classes must be different whole numbers 0 to {known[-1]}, classes of {source.title}, "
            f"got {classes!r}"
        )
    images, kinds, words = source.read(split)
    found = [np.flatnonzero(kinds == c) for c in wanted]
    for c, of_class in zip(wanted, found, strict=True):
        if not len(of_class):
            raise ValueError(f"classes: there is no image of class {c:.0f} in {words}")
    rows, labels = np.concatenate(found), np.repeat(np.arange(len(wanted)), list(map(len, found)))
    if n is not None:
        drawn = balanced_rows(labels, n, seed)
        rows, labels = rows[drawn], labels[drawn]
    return Dataset(images[rows] / source.white, labels, tuple(map(int, wanted)), name, words)
