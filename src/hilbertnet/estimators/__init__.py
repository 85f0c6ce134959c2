"""scikit-learn's view of the library: the only room that subclasses scikit-learn."""

from hilbertnet.estimators.classifier import CKNClassifier
from hilbertnet.estimators.features import CKNFeatures
from hilbertnet.estimators.ridge import ConvKernelRidge, ConvKernelRidgeClassifier

__all__ = ["CKNClassifier", "CKNFeatures", "ConvKernelRidge", "ConvKernelRidgeClassifier"]
