"""The declared architecture and its operators."""

from hilbertnet.architecture.dot_product import (
    ArcCosine,
    DotProductKernel,
    Dual,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Power,
    Vovk,
)
from hilbertnet.architecture.layers import Architecture, Layer
from hilbertnet.architecture.pools import AveragePool, GaussianPool, GlobalPool, Pool, Subsample
from hilbertnet.architecture.presets import PRESETS, Preset, default_architecture, preset

__all__ = [
    "PRESETS",
    "ArcCosine",
    "Architecture",
    "AveragePool",
    "DotProductKernel",
    "Dual",
    "Exponential",
    "GaussianPool",
    "GlobalPool",
    "InversePolynomial",
    "Layer",
    "Linear",
    "Polynomial",
    "Pool",
    "Power",
    "Preset",
    "Subsample",
    "Vovk",
    "default_architecture",
    "preset",
]
