"""Small networks that run: ternary layers on integers, files, readouts, training."""

import typing as _typing

from .._face import later as _later
from .._face import promised as _promised
from .allocate import Allocation, allocate, allocation_front
from .budget import compress_within
from .convert import agreement, compress
from .converted import Agreement, ConvertedMemory, ConvertedNetwork
from .export_c import CExport
from .layers import TernaryLayer
from .loading import load
from .network import CompressedNetwork, Memory
from .operations import LayerReport
from .pruning import prune_globally, rewind, saliencies, snapshot, sparsity
from .qat import prepare_qat
from .readout import READOUT_DTYPES, Readout, fit_readout
from .scaling import Scaling
from .storage import NetworkFileError
from .ternary import (
    TernaryMatrix,
    pack_ternary,
    packed_bits,
    pruned_bytes,
    ternary_entropy,
    unpack_ternary,
)
from .ternary_train import train_ternary
from .train import Trained, prune_and_finetune, train_dense

# Scikit-learn, which takes a while to import, comes with them.
_LATER = ("NTKLCClassifier", "NTKLCRegressor")
if _typing.TYPE_CHECKING:
    from .estimators import NTKLCClassifier, NTKLCRegressor
else:
    __getattr__, __dir__ = _later(vars(), ".estimators", _LATER)

__all__ = [*_promised(vars()), *_LATER]
