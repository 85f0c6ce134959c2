"""One clear error for each thing that can be wrong, which names the argument."""

import re

import numpy as np
import pytest
import torch

from hilbertnet.estimators import (
    CKNClassifier,
    CKNFeatures,
    ConvGaussianProcessRegressor,
    ConvKernelRidge,
    ConvKernelRidgeClassifier,
    ConvKernelSVC,
)
from hilbertnet.text import TextFormError

STATE = np.random.RandomState(0)
X = STATE.rand(12, 2, 8, 8)
Y = np.arange(12) % 3
TEXT = "3 exp(0.6) gauss2"


def network(**options):
    return CKNClassifier(**{"architecture": TEXT, "filters": (6,), "alpha": 1e-2, "random_state": 0} | options)


def features(**options):
    return CKNFeatures(**{"architecture": TEXT, "filters": (6,), "random_state": 0} | options)


def ridge(**options):
    return ConvKernelRidgeClassifier(**{"architecture": TEXT, "alpha": 1e-2} | options)


def regression(**options):
    return ConvKernelRidge(**{"architecture": TEXT, "alpha": 1e-2} | options)


def process(**options):
    return ConvGaussianProcessRegressor(**{"architecture": TEXT, "noise": 1e-2} | options)


def machine(**options):
    return ConvKernelSVC(**{"architecture": TEXT} | options)


KERNELS = [ridge, regression, process, machine]
MAKERS = [network, features, *KERNELS]
CLASSIFIERS = [network, ridge, machine]
REGRESSIONS = [regression, process]
each_estimator = pytest.mark.parametrize("make", MAKERS)
each_classifier = pytest.mark.parametrize("make", CLASSIFIERS)


def use(model, x):
    return model.transform(x) if hasattr(model, "transform") else model.predict(x)


# -------------------------------------------------------------------------------------------------------- the signals


@each_estimator
@pytest.mark.parametrize("shape", [(12, 1, 2, 8, 8), (12,), ()])
def test_wrong_rank(make, shape):
    with pytest.raises(ValueError, match=r"X|[Ee]xpected 2D array"):
        make().fit(np.zeros(shape), Y)
    with pytest.raises(ValueError, match="^X: expected images"):
        make().fit(torch.zeros(12, 1, 2, 8, 8), Y)


@each_estimator
@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (3, 2, 9, 8), (3, 2, 8)])
def test_other_signals_than_in_fit(make, shape):
    model = make().fit(X, Y)
    for other in (np.zeros(shape), torch.zeros(shape)):
        with pytest.raises(ValueError, match=r"^X: expected shape \(n, 2, 8, 8\) as in fit, got \(3, "):
            use(model, other)


@each_estimator
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(make, value):
    bad = X.copy()
    bad[3, 1, 2, 2] = value
    model = make().fit(X, Y)
    for kind in (np.asarray, torch.tensor):
        with pytest.raises(ValueError, match="X.*(NaN|nan|inf)"):
            make().fit(kind(bad), Y)
        with pytest.raises(ValueError, match="X.*(NaN|nan|inf)"):
            use(model, kind(bad))


@each_estimator
def test_complex_pixels_and_words(make):
    with pytest.raises(ValueError, match="[Cc]omplex"):
        make().fit(X + 1j, Y)
    with pytest.raises(ValueError, match=r"X: expected real numbers"):
        make().fit(torch.tensor(X + 1j), Y)
    with pytest.raises(ValueError, match="string"):
        make().fit(np.full((12, 4), "pixel"), Y)


@each_estimator
def test_no_images(make):
    for empty in (X[:0], torch.tensor(X[:0])):
        with pytest.raises(ValueError, match="X|sample"):
            make().fit(empty, Y)
    model = make().fit(X, Y)
    for empty in (X[:0], torch.tensor(X[:0])):
        with pytest.raises(ValueError, match="X|sample"):
            use(model, empty)


@each_estimator
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 9)])
def test_images_of_another_input_shape(make, shape):
    with pytest.raises(
        ValueError, match=rf"^X: expected shape \(n, {shape[0]}, {shape[1]}, {shape[2]}\), got \(12, 2, "
    ):
        make(input_shape=shape).fit(X, Y)
    with pytest.raises(ValueError, match=rf"^X: expected rows of {np.prod(shape)} values, input_shape .* got 128"):
        make(input_shape=shape).fit(X.reshape(12, -1), Y)


@each_estimator
@pytest.mark.parametrize("shape", [(64,), "1,8,8", (2, 8, 0), (2, 8, 8, 1), (2.0, 8, 8), 128])
def test_input_shapes_of_another_form(make, shape):
    with pytest.raises(ValueError, match=r"^input_shape: expected \(channels, height, width\)"):
        make(input_shape=shape).fit(X.reshape(12, -1), Y)


# ---------------------------------------------------------------------------------------------------- the architecture


@each_estimator
def test_patches_larger_than_the_image(make):
    with pytest.raises(ValueError, match="^layer 1: expected a patch of at most 8, .* got patch 9"):
        make(architecture="9 exp(0.6) -").fit(X, Y)


@each_estimator
def test_poolings_that_leave_nothing(make):
    from hilbertnet import Architecture

    arch = Architecture.parse("3 exp(0.6) avg9", boundary="valid")
    with pytest.raises(ValueError, match="^layer 1: pooling avg9 leaves nothing of a length of 6"):
        make(architecture=arch).fit(X, Y)


@each_estimator
@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        ("3 expp(0.6) gauss2", "did you mean 'exp'", 2),
        ("3 exp(0.6) gaus2", "pool", 11),
        ("3 exp(0.6) gauss2 || 3 exp(0.6) -", "patch size", 19),
        ("3 exp(0.6) gauss2 | exp(0.6) -", "patch size", 20),
        ("3 exp(0.6", "expected", 9),
    ],
)
def test_typos_in_the_architecture_are_pointed_at(make, text, message, caret):
    with pytest.raises(TextFormError, match=re.escape(message)) as caught:
        make(architecture=text).fit(X, Y)
    first, shown, pointer = str(caught.value).split("\n")
    assert first.startswith("architecture: ")
    assert shown.strip() == text
    assert pointer.index("^") - shown.index(text) == caret
    assert f"(character {caret + 1})" in first


@each_estimator
@pytest.mark.parametrize("architecture", [3, ["3 exp(0.6) -"], True])
def test_architectures_of_another_kind(make, architecture):
    with pytest.raises(ValueError, match="^architecture: "):
        make(architecture=architecture).fit(X, Y)


# ---------------------------------------------------------------------------------------------------------- the labels


@each_classifier
def test_one_class_only(make):
    for labels in (np.zeros(12, int), np.full(12, "cat")):
        with pytest.raises(ValueError, match="^y: expected at least two classes, got one class only"):
            make().fit(X, labels)


@pytest.mark.parametrize("make", [network, *KERNELS])
@pytest.mark.parametrize("count", [11, 13])
def test_labels_of_another_length(make, count):
    for labels in (np.arange(count) % 3, torch.arange(count) % 3):
        with pytest.raises(
            ValueError, match=rf"^y: expected 12 (labels|targets), as many as signals in X, got {count}"
        ):
            make().fit(X, labels)


@each_classifier
def test_labels_that_are_no_classes(make):
    with pytest.raises(ValueError, match=r"Unknown label type|y"):
        make().fit(X, np.linspace(0, 1, 12))
    with pytest.raises(ValueError, match="y"):
        make().fit(X, np.where(Y == 1, np.nan, Y))
    with pytest.raises(ValueError, match=r"y should be a 1d array|y"):
        make().fit(X, np.stack([Y, Y], axis=1))


@pytest.mark.parametrize("make", [network, *KERNELS])
def test_no_labels(make):
    with pytest.raises(ValueError, match="y"):
        make().fit(X, None)


@pytest.mark.parametrize("make", REGRESSIONS)
def test_targets_that_are_no_numbers(make):
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="y"):
            make().fit(X, np.where(Y == 1, value, Y))


# ------------------------------------------------------------------------------------------------------- the parameters


@pytest.mark.parametrize("make", [network, ridge, regression])
@pytest.mark.parametrize("alpha", [-1e-3, 0, np.nan, np.inf])
def test_alphas_that_are_not_positive(make, alpha):
    with pytest.raises(ValueError, match="^alpha: expected positive finite numbers"):
        make(alpha=alpha).fit(X, Y)
    with pytest.raises(ValueError, match="^alphas: expected positive finite numbers"):
        make(alpha=None, alphas=(1e-2, alpha)).fit(X, Y)


@pytest.mark.parametrize("make", [network, ridge, regression])
def test_no_alphas_and_alphas_of_words(make):
    with pytest.raises(ValueError, match="^alphas: expected positive finite numbers"):
        make(alpha=None, alphas=()).fit(X, Y)
    with pytest.raises(ValueError, match="^alpha: expected positive finite numbers"):
        make(alpha="small").fit(X, Y)


@pytest.mark.parametrize("value", [-1e-3, 0, np.nan, np.inf, "small", True])
def test_noises_amplitudes_and_weights_that_are_not_positive(value):
    for make, name in [(process, "noise"), (process, "amplitude"), (machine, "C"), (machine, "tolerance")]:
        with pytest.raises(ValueError, match=f"^{name}: expected a positive finite number"):
            make(**{name: value}).fit(X, Y)
    with pytest.raises(ValueError, match="^noises: expected a positive finite number"):
        process(noise=None, noises=(1e-2, value)).fit(X, Y)


def test_other_parameters_of_gaussian_processes():
    with pytest.raises(ValueError, match="^noises: expected positive finite numbers, got"):
        process(noise=None, noises=()).fit(X, Y)
    with pytest.raises(ValueError, match="^select: expected one of likelihood, leave_one_out, got 'evidence'"):
        process(select="evidence").fit(X, Y)
    with pytest.raises(ValueError, match="^return_std, return_cov: expected at most one"):
        process().fit(X, Y).predict(X, return_std=True, return_cov=True)


@pytest.mark.parametrize("loss", ["hinge", "Ridge", None])
def test_unknown_loss(loss):
    with pytest.raises(ValueError, match="^loss: expected one of squared_hinge, logistic, ridge, got"):
        network(loss=loss).fit(X, Y)


@pytest.mark.parametrize("make", KERNELS)
def test_unknown_kind_and_dtype(make):
    with pytest.raises(ValueError, match="^kind: expected 'ckn' or 'ntk', got 'nkt'; did you mean 'ntk'"):
        make(kind="nkt").fit(X, Y)
    for dtype in ("float16", np.float64, None):
        with pytest.raises(ValueError, match="^dtype: expected 'float32' or 'float64'"):
            make(dtype=dtype).fit(X, Y)


@pytest.mark.parametrize("make", KERNELS)
def test_budgets_that_are_no_sizes_or_too_small(make):
    with pytest.raises(ValueError, match="^memory: expected bytes"):
        make(memory="much").fit(X, Y)
    with pytest.raises(ValueError, match="^memory: expected at least"):
        make(memory="10kB").fit(X, Y)


@pytest.mark.parametrize("make", [network, features])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": (6, 6)}, "^filters: expected 1 positive whole numbers"),
        ({"filters": (0,)}, "^filters: "),
        ({"filters": (-3,)}, "^filters: "),
        ({"filters": (2.5,)}, "^filters: "),
        ({"patches": 0}, "^patches: "),
        ({"epsilon": -1.0}, "^epsilon: "),
        ({"regularization": "roots"}, "^regularization: "),
    ],
)
def test_parameters_of_the_network(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(X, Y)


@pytest.mark.parametrize("validation", [0, 1, -2, 2.5, True])
def test_validation_that_is_neither_folds_nor_a_share(validation):
    with pytest.raises(ValueError, match="^validation: expected a number of folds"):
        network(alpha=None, validation=validation).fit(X, Y)


@pytest.mark.parametrize("make", [network, features])
def test_images_of_zeros_have_nothing_to_learn(make):
    with pytest.raises(ValueError, match="patches that are not all zero"):
        make().fit(np.zeros_like(X), Y)


@each_estimator
def test_models_that_are_not_fitted(make):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        use(make(), X)
