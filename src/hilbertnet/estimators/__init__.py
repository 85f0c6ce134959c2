"""scikit-learn's view of the library: the only room that subclasses scikit-learn."""

from hilbertnet.estimators.classifier import CKNClassifier
from hilbertnet.estimators.features import CKNFeatures
from hilbertnet.estimators.gaussian_process import ConvGaussianProcessRegressor
from hilbertnet.estimators.regularized import RegularizedClassifier
from hilbertnet.estimators.ridge import ConvKernelRidge, ConvKernelRidgeClassifier
from hilbertnet.estimators.saved import load_classifier
from hilbertnet.estimators.svc import ConvKernelSVC

__all__ = [
    "CKNClassifier",
    "CKNFeatures",
    "ConvGaussianProcessRegressor",
    "ConvKernelRidge",
    "ConvKernelRidgeClassifier",
    "ConvKernelSVC",
    "RegularizedClassifier",
    "load_classifier",
]
