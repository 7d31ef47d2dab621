"""A kernel by tiles: into an array or a file, or as a dask array spread over machines.

A kernel here is a function of two sets of rows, as ``SphereKernel`` is; what it gives for one set
alone is the square on the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations_with_replacement, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from tqdm import tqdm

from .._checks import destination, samples, whole
from .duals import FloatArray

Kernel = Callable[..., FloatArray]


def fill_tiles(
    kernel: Kernel, X: ArrayLike, out: Any, *, tile: int = 2048, progress: bool = False
) -> None:
    """Write the square kernel of X into an array, tile by tile, each computed once.

    Parameters
    ----------
    kernel : callable
        ``kernel(X_i, X_j)`` is a tile, float64, and ``kernel(X_i)`` one on the diagonal.
    X : (n, p) array
    out : (n, n) array of float64 or float32
        Such as ``np.lib.format.open_memmap`` makes, for a kernel larger than memory. Entries are
        rounded to its type at the end: float32 is off by 6e-8 of an entry at most.
    tile : int
        Rows and columns of a tile. As many tiles are in memory as torch has threads.
    progress : bool

    Raises
    ------
    ValueError
        If ``out`` has another shape or type, or cannot be written to.

    Examples
    --------
    >>> X, K = np.eye(3), np.empty((3, 3), np.float32)
    >>> nh.theory.fill_tiles(nh.theory.sphere_kernel(["relu"], center=False), X, K, tile=2)
    >>> K[0].round(3).tolist() == np.float32([0.5, 0.159, 0.159]).tolist()
    True
    """
    X, tile = samples("X", X), whole("tile", tile)
    n = len(X)
    destination("out", out, (n, n))

    def fill(pair: tuple[slice, slice]) -> None:
        rows, columns = pair
        if rows == columns:
            out[rows, rows] = kernel(X[rows])
        else:
            block = kernel(X[rows], X[columns])
            out[rows, columns], out[columns, rows] = block, block.T

    edges = [*range(0, n, tile), n]
    parts = [slice(*ends) for ends in pairwise(edges)]
    pairs = list(combinations_with_replacement(parts, 2))
    quiet = {} if progress else {"disable": True}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in tqdm(pool.map(fill, pairs), total=len(pairs), leave=False, **quiet):
            pass


def kernel_array(
    kernel: Kernel, X: ArrayLike, Z: ArrayLike | None = None, *, tile: int = 4096
) -> Any:
    """The kernel as a dask array, whose tiles are computed where and when they are needed.

    Needs dask. ``.persist()`` keeps the tiles in the memory of the machines of a cluster;
    :func:`~ntklc_helpers.theory.ridge.kernel_ridge` takes the array as it is.

    Parameters
    ----------
    kernel, X, tile
        As for :func:`fill_tiles`, with the same numbers.
    Z : (m, p) array, optional
        Columns, instead of the rows of X.

    Returns
    -------
    dask.array.Array
        (n, n) or (n, m), float64.

    Raises
    ------
    ImportError
        Without dask.
    ValueError
        If X, Z or tile are not as stated.

    Examples
    --------
    >>> kernel, X = nh.theory.sphere_kernel(["relu"]), np.eye(3)
    >>> K = nh.theory.kernel_array(kernel, X, tile=2)
    >>> K.chunks, bool((K.compute() == kernel(X)).all())
    (((2, 1), (2, 1)), True)
    """
    import dask
    from dask import array

    X, tile = samples("X", X), whole("tile", tile)
    other = X if Z is None else samples("Z", Z, X.shape[1])
    cut = [[one[at : at + tile] for at in range(0, len(one), tile)] for one in (X, other)]
    # A part of the rows is sent once, not with each of its tiles.
    down, across = ([dask.delayed(rows) for rows in parts] for parts in cut)
    compute = dask.delayed(kernel)

    @cache
    def block(i: int, j: int) -> Any:
        if Z is None and j < i:
            return block(j, i).T
        made = compute(down[i]) if Z is None and i == j else compute(down[i], across[j])
        return array.from_delayed(made, (len(cut[0][i]), len(cut[1][j])), np.float64)

    return array.block([[block(i, j) for j in range(len(across))] for i in range(len(down))])
