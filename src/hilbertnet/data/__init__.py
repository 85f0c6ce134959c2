"""Data sets, their splits, and what is done to images before a model sees them."""

from hilbertnet.data.dataset import Dataset, IncompleteDataWarning
from hilbertnet.data.preprocessing import ZCA, ContrastNormalization, PatchWhitening, Preprocessing
from hilbertnet.data.sources import load
from hilbertnet.data.splits import Partition, partition, split, subset

__all__ = [
    "ZCA",
    "ContrastNormalization",
    "Dataset",
    "IncompleteDataWarning",
    "Partition",
    "PatchWhitening",
    "Preprocessing",
    "load",
    "partition",
    "split",
    "subset",
]
