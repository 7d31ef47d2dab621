"""Compiled loops on as many threads as torch has, and no more: others would wait for each other.

In a forked process, such as a worker of ``multiprocessing.Pool``, that is one: OpenMP's threads do
not come along, and whoever waits for them waits for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numba import get_num_threads, njit, set_num_threads

_PROCESS = os.getpid()


def alone() -> bool:
    """Whether this process was forked from the one that imported; then torch keeps to a thread."""
    forked = os.getpid() != _PROCESS
    if forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    return forked


@contextmanager
def threads_of_torch() -> Iterator[None]:
    """Leave torch its number of threads, which numba, of the same OpenMP, sets to its own."""
    alone()  # then torch has one
    # First: to ask numba for its own is enough to set torch's.
    torchs = torch.get_num_threads()
    own = get_num_threads()
    fewer = own > torchs
    if fewer:
        set_num_threads(torchs)
    try:
        yield
    finally:
        if fewer:
            set_num_threads(own)
        if torch.get_num_threads() != torchs:
            torch.set_num_threads(torchs)


def compiled(function: Callable, **how: Any) -> tuple[Callable, Callable]:
    """On all threads, kept on disk where there is a place; and on one, to be called alone."""
    try:
        return njit(function, parallel=True, cache=True, **how), njit(function, **how)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written.
        return njit(function, parallel=True, **how), njit(function, **how)
