"""Data sets, their splits, and what is done to images before a model sees them."""

from hilbertnet.data.dataset import Dataset, IncompleteDataWarning
from hilbertnet.data.sources import load
from hilbertnet.data.splits import Partition, partition, split, subset

__all__ = ["Dataset", "IncompleteDataWarning", "Partition", "load", "partition", "split", "subset"]
