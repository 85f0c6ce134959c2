"""Deep convolutional models as functions in a reproducing kernel Hilbert space.

One architecture, declared once, seen as an exact kernel (`ConvKernel`) and as a finite network (`CKN`). Names load when
they are used, so importing the package costs little more than importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hilbertnet.architecture import Architecture, Layer, preset
    from hilbertnet.estimators import (
        CKNClassifier,
        CKNFeatures,
        ConvGaussianProcessRegressor,
        ConvKernelRidge,
        ConvKernelRidgeClassifier,
        ConvKernelSVC,
        RegularizedClassifier,
        load_classifier,
    )
    from hilbertnet.kernels import ConvKernel
    from hilbertnet.networks import CKN
    from hilbertnet.regularization import Regularizer

__version__ = "0.1.0.dev0"

_HOMES = {
    "Architecture": "architecture",
    "Layer": "architecture",
    "preset": "architecture",
    "CKNClassifier": "estimators",
    "CKNFeatures": "estimators",
    "ConvGaussianProcessRegressor": "estimators",
    "ConvKernelRidge": "estimators",
    "ConvKernelRidgeClassifier": "estimators",
    "ConvKernelSVC": "estimators",
    "RegularizedClassifier": "estimators",
    "load_classifier": "estimators",
    "ConvKernel": "kernels",
    "CKN": "networks",
    "Regularizer": "regularization",
}

__all__ = [
    "CKN",
    "Architecture",
    "CKNClassifier",
    "CKNFeatures",
    "ConvGaussianProcessRegressor",
    "ConvKernel",
    "ConvKernelRidge",
    "ConvKernelRidgeClassifier",
    "ConvKernelSVC",
    "Layer",
    "RegularizedClassifier",
    "Regularizer",
    "__version__",
    "load_classifier",
    "preset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hilbertnet' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hilbertnet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
