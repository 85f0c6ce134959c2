"""scikit-learn's own battery on networks trained with regularizers."""

import pytest
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from hilbertnet.estimators import RegularizedClassifier

QUICK = {"epochs": 6, "batch_size": 32, "learning_rate": 0.1, "random_state": 0, "validation": 0.25}


@parametrize_with_checks([RegularizedClassifier("cnn", "0.001*weight_decay + sn(4)", **QUICK)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # array API, unless its variable is set
def test_scikit_learn_checks_with_default_parameters():
    check_estimator(RegularizedClassifier())
