"""What is taken off and divided by before the first layer: a number each for every column."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from attrs import Attribute, field, frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import SAME, array, samples
from ..data.images import mean_and_scale

Rows = TypeVar("Rows", NDArray[np.float64], torch.Tensor)


@frozen
class Scaling:
    """Rows x ↦ (x − centre) / scale.

    Parameters
    ----------
    centre : (p,) float64 array
    scale : (p,) float64 array
        Positive.

    Raises
    ------
    ValueError
        If they are not such vectors of one length.

    Examples
    --------
    >>> nh.compression.Scaling([13.0, 750.0], [2.0, 300.0])(np.array([[15.0, 450.0]]))
    array([[ 1., -1.]])
    """

    centre: NDArray[np.float64] = field(
        converter=lambda centre: array("centre", centre, 1), eq=SAME
    )
    scale: NDArray[np.float64] = field(converter=lambda scale: array("scale", scale, 1), eq=SAME)

    @scale.validator
    def _one_each(self, _: Attribute, scale: NDArray) -> None:
        if scale.shape != self.centre.shape or not (scale > 0).all():
            raise ValueError(
                f"scale must be positive, one a column, {len(self.centre)}, got {scale.tolist()}"
            )

    @classmethod
    def of(cls, rows: ArrayLike) -> Scaling:
        """To mean zero and mean squared norm one.

        As :func:`~ntklc_helpers.data.images.normalize` of the rows: all columns are divided by one
        number. Raises ValueError if all rows are the same.

        Returns
        -------
        Scaling

        Examples
        --------
        >>> nh.compression.Scaling.of([[0, 1], [0, 3]])(np.array([[5, 2]]))
        array([[5., 0.]])
        """
        centre, size = mean_and_scale("rows", samples("rows", rows))
        return cls(centre, np.full(len(centre), size))

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.centre.nbytes + self.scale.nbytes

    def __call__(self, rows: Rows) -> Rows:
        """Of an array (n, p); or of a tensor where it is and in its precision."""
        if isinstance(rows, np.ndarray):
            return (rows - self.centre) / self.scale
        centre, scale = (torch.from_numpy(part).to(rows) for part in (self.centre, self.scale))
        return (rows - centre) / scale
