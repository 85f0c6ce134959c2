"""The exact view: kernels of infinite-dimensional representations."""

from hilbertnet.kernels.gram import ConvKernel
from hilbertnet.kernels.tiles import Plan

__all__ = ["ConvKernel", "Plan"]
