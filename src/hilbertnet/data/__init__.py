"""Data sets, their splits, and what is done to images before a model sees them."""

from hilbertnet.data.augmentation import Augmentation
from hilbertnet.data.dataset import Dataset, IncompleteDataWarning
from hilbertnet.data.preprocessing import ZCA, ContrastNormalization, PatchWhitening, Preprocessing
from hilbertnet.data.sequences import DNA, PROTEIN, RNA, Alphabet, Sequences, parse_alphabet, read_fasta
from hilbertnet.data.sources import load
from hilbertnet.data.splits import Partition, partition, split, subset
from hilbertnet.data.streams import Batch, Stream, stream

__all__ = [
    "DNA",
    "PROTEIN",
    "RNA",
    "ZCA",
    "Alphabet",
    "Augmentation",
    "Batch",
    "ContrastNormalization",
    "Dataset",
    "IncompleteDataWarning",
    "Partition",
    "PatchWhitening",
    "Preprocessing",
    "Sequences",
    "Stream",
    "load",
    "parse_alphabet",
    "partition",
    "read_fasta",
    "split",
    "stream",
    "subset",
]
