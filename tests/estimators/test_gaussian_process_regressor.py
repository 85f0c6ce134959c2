"""The Gaussian process estimator against scikit-learn's, with the same kernel."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Kernel
from sklearn.model_selection import GridSearchCV

from hilbertnet.estimators import ConvGaussianProcessRegressor, ConvKernelRidge
from hilbertnet.kernels import ConvKernel

TEXT = "3 exp(0.6) gauss2"


@pytest.fixture(scope="module")
def waves():
    state = np.random.RandomState(0)
    height, mean, phase = state.rand(3, 80, 1)
    x = (height * np.cos(2 * np.pi * (np.arange(8) / 8 + phase)) + mean)[:, None]
    return x[:50], height[:50, 0] + mean[:50, 0], x[50:], height[50:, 0] + mean[50:, 0]


class Convolutional(Kernel):
    """Our kernel as one of scikit-learn's, without parameters to optimize; signals come as rows."""

    def __init__(self, shape):
        self.shape = shape

    def __call__(self, X, Y=None, eval_gradient=False):
        assert not eval_gradient
        x, y = (None if rows is None else rows.reshape(-1, *self.shape) for rows in (X, Y))
        return ConvKernel(TEXT).gram(x, y)

    def diag(self, X):
        return ConvKernel(TEXT).diag(X.reshape(-1, *self.shape))

    def is_stationary(self):
        return False


@pytest.mark.parametrize("amplitude", [1.0, 2.5])
def test_predictions_are_scikit_learns_with_the_same_kernel(waves, amplitude):
    x, y, x_test, _ = waves
    noise, unit = 1e-3, float(ConvKernel(TEXT).diag(x).mean())
    model = ConvGaussianProcessRegressor(TEXT, noise=noise, amplitude=amplitude, intercept=False).fit(x, y)
    kernel = ConstantKernel(amplitude) * Convolutional((1, 8))
    reference = GaussianProcessRegressor(kernel, alpha=amplitude * noise * unit, optimizer=None)
    rows, rows_test = x.reshape(50, 8), x_test.reshape(30, 8)
    mean, std = reference.fit(rows, y).predict(rows_test, return_std=True)
    _, covariance = reference.predict(rows_test, return_cov=True)
    found, found_std = model.predict(x_test, return_std=True)
    np.testing.assert_allclose(found, mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found_std, std, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(model.predict(x_test, return_cov=True)[1], covariance, atol=1e-9)
    np.testing.assert_array_equal(model.predict(x_test), found)
    assert model.log_marginal_likelihood_[0] == pytest.approx(reference.log_marginal_likelihood_value_, rel=1e-8)
    assert model.noise_variance_[0] == pytest.approx(amplitude * noise * unit)
    assert model.jitter_ == 0.0


def test_a_linear_kernel_is_bayesian_linear_regression():
    state = np.random.RandomState(0)
    x, x_test, y = state.randn(30, 4), state.randn(7, 4), state.randn(30, 2)
    unit = (x**2).sum(1).mean()
    model = ConvGaussianProcessRegressor("1 linear -", noise=0.1, amplitude=1.0, intercept=False).fit(x, y)
    reference = GaussianProcessRegressor(DotProduct(0.0, "fixed"), alpha=0.1 * unit, optimizer=None).fit(x, y)
    mean, std = reference.predict(x_test, return_std=True)
    found, found_std = model.predict(x_test, return_std=True)
    np.testing.assert_allclose(found, mean, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(found_std, std, rtol=1e-6)
    assert found_std.shape == (7, 2)
    assert model.predict(x_test, return_cov=True)[1].shape == (7, 7, 2)


@pytest.mark.parametrize("select", ["likelihood", "leave_one_out"])
def test_the_chosen_noise_is_the_best_of_the_curve(waves, select):
    x, y, x_test, y_test = waves
    model = ConvGaussianProcessRegressor(TEXT, noises=(1.0, 1e-2, 1e-4, 1e-6), select=select).fit(x, y)
    best = max(model.noise_curve_, key=lambda point: getattr(point, select))
    assert model.noise_ == best.noise
    assert sum(model.log_marginal_likelihood_) == pytest.approx(best.likelihood)
    assert sum(model.leave_one_out_) == pytest.approx(best.leave_one_out)
    assert model.score(x_test, y_test) > 0.9


def test_errors_are_of_the_size_that_is_said(waves):
    x, y, x_test, y_test = waves
    noisy = y + 0.1 * np.random.RandomState(1).randn(len(y))
    model = ConvGaussianProcessRegressor(TEXT).fit(x, noisy)
    mean, std = model.predict(x_test, return_std=True)
    standardized = (y_test + 0.1 * np.random.RandomState(2).randn(30) - mean) / np.sqrt(std**2 + model.noise_variance_)
    assert 0.6 < np.sqrt((standardized**2).mean()) < 1.5
    assert 0.05 < np.sqrt(model.noise_variance_[0]) < 0.2


def test_the_mean_is_kernel_ridge_regression(waves):
    x, y, x_test, _ = waves
    model = ConvGaussianProcessRegressor(TEXT, noise=50 * 1e-4).fit(x, y)
    ridge = ConvKernelRidge(TEXT, alpha=1e-4).fit(x, y)
    np.testing.assert_allclose(model.predict(x_test), ridge.predict(x_test), rtol=1e-6)
    np.testing.assert_allclose(model.intercept_, ridge.intercept_, rtol=1e-6)
    np.testing.assert_allclose(model.rkhs_norm_, ridge.rkhs_norm_, rtol=1e-6)
    gram, dual = ConvKernel(TEXT).gram(x), model.posterior_.coefficients.numpy()[:, 0]
    np.testing.assert_allclose(model.rkhs_norm_, np.sqrt(dual @ gram @ dual), rtol=1e-7)


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_standard_deviations_at_training_signals_are_small_and_real(waves, kind):
    x, y, x_test, _ = waves
    model = ConvGaussianProcessRegressor("3 arccos1 avg2", kind=kind, noise=1e-6).fit(x, y)
    near, far = (model.predict(signals, return_std=True)[1] for signals in (x, 3 * x_test))
    assert (near >= 0).all()
    assert near.max() < 0.1 * far.max()


def test_tensors_rows_float32_pickles_and_grid_searches(waves):
    x, y, x_test, y_test = waves
    model = ConvGaussianProcessRegressor(TEXT, noise=1e-3).fit(x, y)
    expected, std = model.predict(x_test, return_std=True)
    tensors = clone(model).fit(torch.tensor(x), torch.tensor(y)).predict(torch.tensor(x_test), return_std=True)
    assert all(isinstance(part, torch.Tensor) for part in tensors)
    np.testing.assert_array_equal(tensors[1], std)
    rows = clone(model).set_params(input_shape=(1, 8)).fit(x.reshape(50, 8), y)
    np.testing.assert_array_equal(rows.predict(x_test.reshape(30, 8)), expected)
    single = clone(model).set_params(dtype="float32").fit(x, y)
    np.testing.assert_allclose(single.predict(x_test), expected, atol=1e-3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x_test), expected)
    search = GridSearchCV(model, {"noise": [1e-3, 1e3]}, cv=2).fit(x, y)
    assert search.best_params_ == {"noise": 1e-3}
    assert search.score(x_test, y_test) > 0.9
