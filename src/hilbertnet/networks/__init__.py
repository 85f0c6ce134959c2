"""The finite view: convolutional kernel networks."""

from hilbertnet.networks.ckn import CKN
from hilbertnet.networks.layer import CKNLayer

__all__ = ["CKN", "CKNLayer"]
