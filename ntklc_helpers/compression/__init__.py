"""Small networks that run: ternary layers on integers, files, readouts, training."""

from .convert import compress
from .layers import TernaryLayer
from .network import CompressedNetwork, Memory, load
from .pruning import prune_globally, rewind, snapshot, sparsity
from .readout import READOUT_DTYPES, Readout, fit_readout
from .storage import NetworkFileError
from .ternary import TernaryMatrix, pack_ternary, pruned_bytes, ternary_entropy, unpack_ternary
from .ternary_train import train_ternary
from .train import Trained, prune_and_finetune, train_dense

__all__ = [
    "CompressedNetwork",
    "Memory",
    "NetworkFileError",
    "READOUT_DTYPES",
    "Readout",
    "TernaryLayer",
    "TernaryMatrix",
    "Trained",
    "compress",
    "fit_readout",
    "load",
    "pack_ternary",
    "prune_and_finetune",
    "prune_globally",
    "pruned_bytes",
    "rewind",
    "snapshot",
    "sparsity",
    "ternary_entropy",
    "train_dense",
    "train_ternary",
    "unpack_ternary",
]
