"""scikit-learn's own battery on every estimator."""

import pytest
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from hilbertnet.estimators import (
    CKNClassifier,
    CKNFeatures,
    ConvGaussianProcessRegressor,
    ConvKernelRidge,
    ConvKernelRidgeClassifier,
    ConvKernelSVC,
)

SMALL = {"filters": (16,), "alphas": (1e-2, 1e-4)}


@parametrize_with_checks(
    [
        CKNFeatures(filters=(16,)),
        CKNClassifier(**SMALL),
        ConvKernelRidge(),
        ConvKernelRidgeClassifier(),
        ConvGaussianProcessRegressor(),
        ConvKernelSVC(),
    ]
)
@pytest.mark.filterwarnings("ignore:filters. .* asked for")  # the battery fits ten rows
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        CKNClassifier(**SMALL, loss="logistic"),
        CKNClassifier(**SMALL, loss="ridge"),
        ConvKernelRidgeClassifier("1 arccos1 -", kind="ntk"),
        ConvKernelRidge(alpha=1e-4),
        ConvGaussianProcessRegressor(noise=1e-4, select="leave_one_out"),
        ConvKernelSVC("1 arccos1 -", kind="ntk", normalize=False),
    ]
)
@pytest.mark.filterwarnings("ignore:filters. .* asked for")
def test_scikit_learn_checks_of_variants(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # array API, unless its variable is set
@pytest.mark.parametrize(
    "estimator",
    [
        CKNFeatures(),
        CKNClassifier(),
        ConvKernelRidge(),
        ConvKernelRidgeClassifier(),
        ConvGaussianProcessRegressor(),
        ConvKernelSVC(),
    ],
)
def test_scikit_learn_checks_with_default_parameters(estimator):
    check_estimator(estimator)
