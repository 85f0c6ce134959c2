"""The support vector classifier against scikit-learn's with a precomputed kernel, pair by pair too."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from hilbertnet.estimators import ConvKernelSVC
from hilbertnet.kernels import ConvKernel

TEXT = "2 exp(0.6) gauss2"


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))[:240]
    x = x[order].reshape(240, 1, 4, 2, 4, 2).mean((3, 5)) / 16
    return x[:160], y[order[:160]], x[160:], y[order[160:]]


def grams(x, x_test, normalize):
    kernel = ConvKernel(TEXT)
    own, cross = kernel.gram(x), kernel.gram(x_test, x)
    if not normalize:
        return own / kernel.diag(x).mean(), cross / kernel.diag(x).mean()
    left, right = np.sqrt(kernel.diag(x)), np.sqrt(kernel.diag(x_test))
    return own / np.outer(left, left), cross / np.outer(right, left)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("classes", [2, 4, 10])
@pytest.mark.parametrize("C", [0.1, 100.0])
def test_it_is_scikit_learns_with_the_same_gram_matrix(digits, normalize, classes, C):
    x, y, x_test, _ = digits
    x, y = x[y < classes], y[y < classes]
    model = ConvKernelSVC(TEXT, C=C, normalize=normalize, tolerance=1e-8).fit(x, y)
    own, cross = grams(x, x_test, normalize)
    reference = SVC(C=C, kernel="precomputed", tol=1e-8, break_ties=True).fit(own, y)
    scores = model.decision_function(x_test)
    assert scores.shape == ((80,) if classes == 2 else (80, classes))
    # rounding errors choose among intercepts where no support vector is free
    np.testing.assert_allclose(scores, reference.decision_function(cross), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(model.predict(x_test), reference.predict(cross))
    assert len(model.X_fit_) == len(model.support_) <= len(x)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_norms_are_those_of_each_pairs_machine_alone(digits, normalize, classes):
    """Each machine is trained on its two classes only: the same, fitted alone with scikit-learn."""
    x, y, x_test, _ = digits
    x, y = x[y < classes], y[y < classes]
    model = ConvKernelSVC(TEXT, C=3.0, normalize=normalize, tolerance=1e-8).fit(x, y)
    own, _ = grams(x, x_test, normalize)
    expected = []
    for pair in itertools.combinations(range(classes), 2):
        kept = np.isin(y, pair)
        alone = SVC(C=3.0, kernel="precomputed", tol=1e-8).fit(own[np.ix_(kept, kept)], y[kept])
        dual = alone.dual_coef_[0]
        support = np.flatnonzero(kept)[alone.support_]
        expected.append(np.sqrt(dual @ own[np.ix_(support, support)] @ dual))
    if not normalize:  # in the space of K itself
        expected = np.array(expected) / np.sqrt(ConvKernel(TEXT).diag(x).mean())
    np.testing.assert_allclose(model.rkhs_norm_, expected, rtol=1e-4)


def test_a_linear_machine_has_the_norm_of_its_weights():
    state = np.random.RandomState(0)
    x = state.randn(60, 3)
    y = np.where(x[:, 0] + 0.5 * state.randn(60) > 0, "right", "left")
    model = ConvKernelSVC("1 linear -", normalize=False, C=2.0, tolerance=1e-8).fit(x, y)
    unit = (x**2).sum(1).mean()
    reference = SVC(C=2.0 / unit, kernel="linear", tol=1e-8).fit(x, y)
    np.testing.assert_allclose(model.rkhs_norm_, np.linalg.norm(reference.coef_), rtol=1e-5)
    np.testing.assert_allclose(model.decision_function(x), reference.decision_function(x), rtol=1e-4, atol=1e-5)
    assert set(model.predict(x)) == {"left", "right"}


def test_larger_C_has_larger_norms(digits):
    x, y, _, _ = digits
    norms = [ConvKernelSVC(TEXT, C=C).fit(x, y).rkhs_norm_ for C in (0.01, 1.0, 100.0)]
    assert (np.diff(norms, axis=0) >= -1e-2).all()
    assert norms[0].shape == (45,)


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_digits_are_learnt_and_predictions_are_where_decisions_are_largest(digits, kind):
    x, y, x_test, y_test = digits
    model = ConvKernelSVC(TEXT, C=100.0, kind=kind).fit(x, y)
    assert model.score(x_test, y_test) > 0.8
    np.testing.assert_array_equal(model.predict(x_test), model.classes_[model.decision_function(x_test).argmax(1)])


def test_signals_of_zeros_are_classified_all_the_same(digits):
    x, y, _, _ = digits
    x = np.concatenate([x, np.zeros_like(x[:2])])
    model = ConvKernelSVC(TEXT).fit(x, np.append(y, [0, 1]))
    assert np.isfinite(model.decision_function(np.zeros_like(x[:3]))).all()


def test_tensors_rows_float32_pickles_and_grid_searches(digits):
    x, y, x_test, y_test = digits
    model = ConvKernelSVC(TEXT, C=100.0).fit(x, y)
    expected = model.decision_function(x_test)
    tensors = clone(model).fit(torch.tensor(x), torch.tensor(y))
    assert isinstance(tensors.predict(torch.tensor(x_test)), torch.Tensor)
    np.testing.assert_array_equal(tensors.decision_function(torch.tensor(x_test)).numpy(), expected)
    rows = clone(model).set_params(input_shape=(1, 4, 4)).fit(x.reshape(160, 16), y)
    np.testing.assert_array_equal(rows.decision_function(x_test.reshape(80, 16)), expected)
    single = clone(model).set_params(dtype="float32").fit(x, y)
    assert (single.predict(x_test) == model.predict(x_test)).mean() > 0.95
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(x_test), expected)
    search = GridSearchCV(model, {"C": [1e-5, 100.0]}, cv=2).fit(x, y)
    assert search.best_params_ == {"C": 100.0}
    assert search.score(x_test, y_test) > 0.8
