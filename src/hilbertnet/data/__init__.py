"""Data sets."""

from hilbertnet.data.sources import Dataset, load, split

__all__ = ["Dataset", "load", "split"]
