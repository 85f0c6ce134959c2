"""scikit-learn's view of the library: the only room that subclasses scikit-learn."""

from hilbertnet.estimators.ckn import CKNClassifier, CKNFeatures
from hilbertnet.estimators.ridge import ConvKernelRidge, ConvKernelRidgeClassifier

__all__ = ["CKNClassifier", "CKNFeatures", "ConvKernelRidge", "ConvKernelRidgeClassifier"]
