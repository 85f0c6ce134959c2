"""Kernel ridge estimators against scikit-learn with a precomputed kernel."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV

from hilbertnet.estimators import ConvKernelRidge, ConvKernelRidgeClassifier
from hilbertnet.kernels import ConvKernel

TEXT = "3 exp(0.6) gauss2 | 3 exp(0.6) gauss2"


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))[:160]  # the file goes from writer to writer
    x, y = x[order].reshape(-1, 1, 8, 8) / 16, y[order]
    return x[:100], y[:100], x[100:], y[100:]


@pytest.fixture(scope="module")
def smooth():
    """Of waves of unit norm, a smooth function of height and mean, not of phase."""
    state = np.random.RandomState(0)
    height, mean, phase = state.rand(3, 140, 1)
    x = height * np.cos(2 * np.pi * (np.arange(12) / 12 + phase)) + mean
    y = (height**2 / (height**2 + mean**2))[:, 0]
    x = (x / np.linalg.norm(x, axis=1, keepdims=True))[:, None]
    return x[:100], y[:100], x[100:], y[100:]


def classifier(**options):
    """In small tiles, which are the fastest here."""
    return ConvKernelRidgeClassifier(**{"architecture": TEXT, "memory": "20MB"} | options)


# --------------------------------------------------------------------------------------------------------- regression


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_a_smooth_function_is_learnt(smooth, kind):
    x, y, x_test, y_test = smooth
    text = "3 exp(0.6) gauss2 | 3 exp(0.6) -" if kind == "ckn" else "3 arccos1 avg2 | 3 arccos1 -"
    assert ConvKernelRidge(text, kind=kind).fit(x, y).score(x_test, y_test) > 0.95


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_a_function_of_degree_one_is_learnt_from_signals_of_all_norms(kind):
    """The mean of a signal is in the space of these kernels: nothing may be added that is not."""
    state = np.random.RandomState(0)
    height, mean, phase = state.rand(3, 140, 1)
    x = height * np.cos(2 * np.pi * (np.arange(12) / 12 + phase)) + mean
    text = "3 exp(0.6) gauss2 | 3 exp(0.6) -" if kind == "ckn" else "3 arccos1 avg2 | 3 arccos1 -"
    model = ConvKernelRidge(text, kind=kind).fit(x[:100, None], mean[:100, 0])
    assert model.score(x[100:, None], mean[100:, 0]) > 0.99


@pytest.mark.parametrize("alpha", [1e-1, 1e-4])
def test_predictions_are_scikit_learns_with_the_same_gram_matrix(smooth, alpha):
    x, y, x_test, _ = smooth
    model = ConvKernelRidge("3 exp(0.6) gauss2", alpha=alpha).fit(x, y)
    kernel = ConvKernel("3 exp(0.6) gauss2")
    gram = kernel.gram(x)
    penalty = len(x) * alpha * np.diag(gram).mean()
    reference = KernelRidge(alpha=penalty, kernel="precomputed").fit(gram, y - float(model.intercept_))
    expected = reference.predict(kernel.gram(x_test, x)) + float(model.intercept_)
    np.testing.assert_allclose(model.predict(x_test), expected, rtol=1e-7)
    assert model.alpha_ == alpha
    assert model.loo_curve_ == []


@pytest.mark.parametrize("alpha", [None, 1e-3])
def test_norm_is_that_of_the_fitted_function(smooth, alpha):
    x, y, _, _ = smooth
    model = ConvKernelRidge("3 exp(0.6) gauss2", alpha=alpha).fit(x, np.stack([y, y**2], axis=1))
    gram, dual = ConvKernel("3 exp(0.6) gauss2").gram(x), np.asarray(model.dual_coef_)
    np.testing.assert_allclose(model.rkhs_norm_**2, np.einsum("io,ij,jo->o", dual, gram, dual), rtol=1e-6)


def test_chosen_lambda_has_the_smallest_leave_one_out_error(smooth):
    x, y, _, _ = smooth
    x, y, alphas = x[:25], y[:25], (1e-1, 1e-3, 1e-5)
    model = ConvKernelRidge("3 exp(0.6) gauss2", alphas=alphas).fit(x, y)
    gram, n = ConvKernel("3 exp(0.6) gauss2").gram(x), len(x)
    errors = {}
    for alpha in alphas:
        squares = []
        for i in range(n):
            rest = np.arange(n) != i
            # the penalty of all n signals, in units of the others' mean of K(x, x)
            same = n * alpha * np.diag(gram).mean() / ((n - 1) * np.diag(gram)[rest].mean())
            reference = ConvKernelRidge("3 exp(0.6) gauss2", alpha=same).fit(x[rest], y[rest])
            squares.append((reference.predict(x[i : i + 1])[0] - y[i]) ** 2)
        errors[alpha] = np.mean(squares)
    assert model.alpha_ == pytest.approx(min(errors, key=errors.get))
    for lam, _, residual in model.loo_curve_:
        assert residual == pytest.approx(errors[min(errors, key=lambda a: abs(np.log(a / lam)))], rel=1e-5)


def test_several_targets_are_each_as_alone(smooth):
    x, y, x_test, _ = smooth
    both = ConvKernelRidge(TEXT.split("|")[0], alpha=1e-3).fit(x, np.stack([y, -2 * y + 1], axis=1)).predict(x_test)
    alone = ConvKernelRidge(TEXT.split("|")[0], alpha=1e-3).fit(x, y).predict(x_test)
    np.testing.assert_allclose(both, np.stack([alone, -2 * alone + 1], axis=1), rtol=1e-9)
    assert alone.shape == (40,)


def test_rows_are_a_fully_connected_kernel():
    state = np.random.RandomState(0)
    x = state.randn(120, 3)
    y = x[:, 0] * x[:, 1]
    model = ConvKernelRidge("1 arccos1 - | 1 arccos1 -", kind="ntk").fit(x[:100], y[:100])
    assert model.score(x[100:], y[100:]) > 0.8


# ----------------------------------------------------------------------------------------------------- classification


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_digits_are_learnt_from_few(digits, kind):
    x, y, x_test, y_test = digits
    text = TEXT if kind == "ckn" else "3 arccos1 avg2 | 3 arccos1 avg2"
    assert classifier(architecture=text, kind=kind).fit(x, y).score(x_test, y_test) > 0.8


def test_leave_one_out_accuracy_is_close_to_test_accuracy(digits):
    x, y, x_test, y_test = digits
    model = classifier().fit(x, y)
    best = max(model.loo_curve_, key=lambda point: (point[1], -point[2]))
    assert model.alpha_ == pytest.approx(best[0])
    assert abs(best[1] - model.score(x_test, y_test)) < 0.1


def test_two_classes_and_labels_of_words(digits):
    x, y, x_test, _ = digits
    words = np.where(y % 2 == 1, "odd", "even")
    model = classifier().fit(x, words)
    scores, found = model.decision_function(x_test), model.predict(x_test)
    assert scores.shape == (60,)
    np.testing.assert_array_equal(found == "odd", scores > 0)
    assert model.score(x, words) > 0.95


def test_scores_are_those_of_one_hot_targets(digits):
    x, y, x_test, _ = digits
    model = classifier(alpha=1e-4).fit(x, y)
    kernel = ConvKernel(TEXT)
    gram = kernel.gram(x)
    reference = KernelRidge(alpha=len(x) * 1e-4 * np.diag(gram).mean(), kernel="precomputed")
    reference.fit(gram, np.eye(10)[y] - 0.1)
    np.testing.assert_allclose(
        model.decision_function(x_test), reference.predict(kernel.gram(x_test, x)), rtol=1e-6, atol=1e-9
    )


# ------------------------------------------------------------------------------------------------- inputs and tools


def test_rows_images_tensors_and_float32(digits):
    x, y, x_test, _ = digits
    expected = classifier(alpha=1e-3).fit(x, y).decision_function(x_test)
    rows = classifier(alpha=1e-3, input_shape=(1, 8, 8)).fit(x.reshape(-1, 64), y)
    np.testing.assert_array_equal(rows.decision_function(x_test.reshape(-1, 64)), expected)
    tensors = classifier(alpha=1e-3).fit(torch.tensor(x), torch.tensor(y))
    found = tensors.decision_function(torch.tensor(x_test))
    assert isinstance(found, torch.Tensor)
    assert isinstance(tensors.predict(torch.tensor(x_test)), torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), expected)
    single = classifier(alpha=1e-3, dtype="float32").fit(x, y)
    np.testing.assert_allclose(single.decision_function(x_test), expected, atol=2e-3)


def test_a_small_budget_changes_nothing(digits):
    x, y, x_test, _ = digits
    expected = classifier(alpha=1e-3).fit(x, y).decision_function(x_test)
    tiled = classifier(alpha=1e-3, memory="2MB").fit(x, y)
    np.testing.assert_allclose(tiled.decision_function(x_test), expected, rtol=1e-7, atol=1e-9)


def test_pickled_cloned_and_in_a_grid_search(digits):
    x, y, x_test, y_test = digits
    model = classifier(alpha=1e-3).fit(x, y)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.decision_function(x_test), model.decision_function(x_test))
    assert clone(model).get_params() == model.get_params()
    grid = {"architecture": ["3 exp(0.6) gauss2", "3 arccos1 -"], "alpha": [1e-4, 100.0]}
    search = GridSearchCV(classifier(), grid, cv=2).fit(x, y)
    assert search.best_params_["alpha"] == 1e-4
    assert search.score(x_test, y_test) > 0.8


def test_inputs_are_left_as_they_were(digits):
    x, y, x_test, _ = digits
    kept = x.copy()
    classifier().fit(x, y).predict(x_test)
    np.testing.assert_array_equal(x, kept)


def test_progress_counts_the_tiles(digits):
    x, y, _, _ = digits
    steps = []
    classifier(memory="2MB", progress=lambda *step: steps.append(step)).fit(x, y)
    assert steps[-1] == (len(steps), len(steps))
    assert len(steps) > 1
