"""Networks read back from their files, of either kind."""

from __future__ import annotations

import os

from .converted import ConvertedNetwork
from .network import CompressedNetwork
from .storage import NetworkFileError, from_bytes, path_of


def load(path: str | os.PathLike) -> CompressedNetwork | ConvertedNetwork:
    """The network that was saved, of either kind; weights saved as a seed are drawn again.

    Returns
    -------
    CompressedNetwork or ConvertedNetwork

    Raises
    ------
    NetworkFileError
        If the file is cut off, changed, of another version, or holds something else.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> T = nh.compression.TernaryMatrix.from_dense([[1, -1]])
    >>> layer = nh.compression.TernaryLayer(T, 1.0, nh.Quantized([0.5], [0.0, 1.0]))
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     size = nh.CompressedNetwork([layer]).save(file.name)
    ...     nh.load(file.name).features([[2.0, 1.0]])
    array([[1.]], dtype=float32)
    """
    content = path_of(path).read_bytes()
    try:
        return of_bytes(content)
    except NetworkFileError as error:
        raise NetworkFileError(f"{os.fspath(path)}: {error}") from error


def of_bytes(content: bytes) -> CompressedNetwork | ConvertedNetwork:
    """The network in a file's content, of either kind; NetworkFileError if there is none.

    Examples
    --------
    >>> from ntklc_helpers.compression.loading import of_bytes
    >>> T = nh.compression.TernaryMatrix.from_dense([[1, -1]])
    >>> layer = nh.compression.TernaryLayer(T, 1.0, nh.Quantized([0.5], [0.0, 1.0]))
    >>> of_bytes(nh.CompressedNetwork([layer]).to_bytes()).p
    2
    """
    tensors, about = from_bytes(content)
    if "operations" in about:
        return ConvertedNetwork.from_parts(tensors, about)
    return CompressedNetwork.from_parts(tensors, about)
