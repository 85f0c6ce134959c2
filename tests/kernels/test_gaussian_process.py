"""Gaussian processes against scikit-learn's, and against naive formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

from hilbertnet.kernels.gaussian_process import SELECTIONS, choose_noise, gaussian_process
from hilbertnet.kernels.ridge import ridge_path

STATE = np.random.RandomState(0)
X, X_TEST, Y = STATE.rand(25, 3), STATE.rand(9, 3), STATE.randn(25, 2)
KERNELS = [ConstantKernel(2.5) * RBF(0.7), ConstantKernel(1.7) * DotProduct(0.3)]


def tensor(array):
    return torch.tensor(array)


@pytest.mark.parametrize("kernel", KERNELS, ids=["rbf", "linear"])
@pytest.mark.parametrize("noise", [1e-3, 0.4])
def test_posterior_and_likelihood_are_scikit_learns(kernel, noise):
    reference = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(X, Y)
    found = gaussian_process(tensor(kernel(X)), tensor(Y), noise, amplitude=1.0)
    cross, own = tensor(kernel(X_TEST, X)), tensor(kernel(X_TEST))
    mean, covariance = reference.predict(X_TEST, return_cov=True)
    np.testing.assert_allclose(found.mean(cross), mean, rtol=1e-7)
    np.testing.assert_allclose(found.covariance(cross, own), covariance, atol=1e-11)
    std = reference.predict(X_TEST, return_std=True)[1]
    np.testing.assert_allclose(found.variance(cross, own.diagonal()).sqrt(), std, rtol=1e-6)
    assert float(found.likelihood.sum()) == pytest.approx(reference.log_marginal_likelihood_value_, rel=1e-10)
    assert found.factor.jitter == 0.0


@pytest.mark.parametrize("amplitude", [0.3, None])
def test_an_amplitude_multiplies_kernel_and_noise(amplitude):
    kernel, noise = KERNELS[0], 0.05
    found = gaussian_process(tensor(kernel(X)), tensor(Y), noise, amplitude=amplitude)
    for output in range(2):
        a = float(found.amplitude[output])
        law = multivariate_normal(np.zeros(25), a * (kernel(X) + noise * np.eye(25)))
        assert float(found.likelihood[output]) == pytest.approx(law.logpdf(Y[:, output]), rel=1e-9)
        reference = GaussianProcessRegressor(ConstantKernel(a) * kernel, alpha=a * noise, optimizer=None)
        mean, std = reference.fit(X, Y[:, output]).predict(X_TEST, return_std=True)
        np.testing.assert_allclose(found.mean(tensor(kernel(X_TEST, X)))[:, output], mean, rtol=1e-7)
        variance = found.variance(tensor(kernel(X_TEST, X)), tensor(kernel.diag(X_TEST)))
        np.testing.assert_allclose(variance[:, output], std**2, rtol=1e-6)


@pytest.mark.parametrize("select", SELECTIONS)
def test_the_amplitude_in_closed_form_is_the_best(select):
    gram, noise = tensor(KERNELS[0](X)), 0.05

    def value(log_amplitude, output):
        fit = gaussian_process(gram, tensor(Y), noise, amplitude=float(np.exp(log_amplitude)), select=select)
        return float(getattr(fit, select)[output])

    found = gaussian_process(gram, tensor(Y), noise, select=select)
    for output in range(2):
        best = minimize_scalar(lambda a, output=output: -value(a, output), bounds=(-8, 8), method="bounded")
        assert np.log(float(found.amplitude[output])) == pytest.approx(best.x, abs=1e-4)
        assert float(getattr(found, select)[output]) == pytest.approx(-best.fun, rel=1e-8)


@pytest.mark.parametrize("amplitude", [0.3, None])
def test_leave_one_out_is_leaving_one_out(amplitude):
    kernel, noise = KERNELS[0], 0.05
    found = gaussian_process(tensor(kernel(X)), tensor(Y), noise, amplitude=amplitude, select="leave_one_out")
    for output in range(2):
        a, total = float(found.amplitude[output]), 0.0
        for i in range(25):
            rest = np.arange(25) != i
            reference = GaussianProcessRegressor(ConstantKernel(a) * kernel, alpha=a * noise, optimizer=None)
            mean, std = reference.fit(X[rest], Y[rest, output]).predict(X[i : i + 1], return_std=True)
            total += multivariate_normal(mean, std**2 + a * noise).logpdf(Y[i, output])
        assert float(found.leave_one_out[output]) == pytest.approx(total, rel=1e-8)


@pytest.mark.parametrize("amplitude", [0.3, None])
@pytest.mark.parametrize("select", SELECTIONS)
def test_the_noise_is_the_best_of_the_curve_and_the_curve_is_that_of_each_noise(select, amplitude):
    gram = tensor(KERNELS[0](X))
    noises, unit = [1.0, 0.1, 1e-2, 1e-4], float(gram.diagonal().mean())
    path = ridge_path(gram, tensor(Y))
    chosen, curve = choose_noise(path, noises, amplitude=amplitude, select=select, unit=unit)
    assert [point.noise for point in curve] == noises
    for point in curve:
        fit = gaussian_process(gram, tensor(Y), point.noise * unit, amplitude=amplitude, select=select)
        assert point.likelihood == pytest.approx(float(fit.likelihood.sum()), rel=1e-8)
        assert point.leave_one_out == pytest.approx(float(fit.leave_one_out.sum()), rel=1e-7)
    assert chosen == max(curve, key=lambda point: getattr(point, select)).noise


@pytest.mark.parametrize("select", SELECTIONS)
def test_the_noise_of_a_drawn_process_is_found(select):
    state = np.random.RandomState(1)
    x = state.rand(300, 2)
    gram = KERNELS[0](x)
    function = np.linalg.cholesky(gram + 1e-9 * np.eye(300)) @ state.randn(300)
    y = 3.0 * (function + np.sqrt(0.1) * state.randn(300))
    path = ridge_path(tensor(gram), tensor(y[:, None]))
    chosen, _ = choose_noise(path, [10.0**p for p in np.arange(-4, 2.1, 0.5)], select=select)
    assert abs(np.log10(chosen / 0.1)) <= 0.51  # a step of the grid
    fit = gaussian_process(tensor(gram), tensor(y[:, None]), chosen, select=select)
    assert 0.4 < float(fit.amplitude) * chosen / 0.9 < 2.5  # the noise's variance, 9 x 0.1


def test_the_norm_is_that_of_the_mean():
    gram = tensor(KERNELS[0](X))
    found = gaussian_process(gram, tensor(Y), 0.05)
    expected = np.einsum("io,ij,jo->o", found.coefficients, gram, found.coefficients)
    np.testing.assert_allclose(found.squared_norm, expected, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 12), rank=st.integers(1, 4), exponent=st.integers(-9, 1), seed=st.integers(0, 999))
def test_variances_are_between_zero_and_the_prior(n, rank, exponent, seed):
    """At training signals too, some of them repeated, where all of the prior's variance is explained."""
    root = torch.randn(n, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).repeat(2, 1)
    gram = root @ root.T
    found = gaussian_process(gram, root[:, :1], 10.0**exponent, amplitude=1.0)
    variance = found.variance(gram, gram.diagonal())[:, 0]
    covariance = found.covariance(gram, gram)[:, :, 0]
    assert (variance >= 0).all()
    assert (variance <= gram.diagonal()).all()
    assert (covariance.diagonal() >= 0).all()
    torch.testing.assert_close(covariance, covariance.T, rtol=0, atol=0)
    torch.testing.assert_close(covariance.diagonal(), variance, rtol=0, atol=1e-9 * float(gram.diagonal().max()))


def test_repeated_signals_without_noise_to_speak_of_take_a_jitter_and_say_so():
    gram = tensor(np.repeat(np.repeat(KERNELS[0](X), 2, 0), 2, 1))
    targets = tensor(np.repeat(Y, 2, 0))
    with pytest.warns(RuntimeWarning, match="jitter"):
        found = gaussian_process(gram, targets, 1e-17, amplitude=1.0)
    assert found.factor.jitter > 0
    assert (found.variance(gram, gram.diagonal()) >= 0).all()
    np.testing.assert_allclose(found.mean(gram), targets, atol=1e-3)


def test_targets_of_zeros_have_a_posterior_all_the_same():
    found = gaussian_process(tensor(KERNELS[0](X)), torch.zeros(25, 1), 0.1)
    assert float(found.amplitude) == 1.0
    assert torch.isfinite(found.likelihood).all()
    assert not found.mean(tensor(KERNELS[0](X_TEST, X))).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "^noise: expected a positive finite number, got 0.0"),
        ({"noise": -1.0}, "^noise: "),
        ({"noise": float("nan")}, "^noise: "),
        ({"amplitude": 0.0}, "^amplitude: expected a positive finite number"),
        ({"select": "likelyhood"}, "^select: expected one of .*; did you mean 'likelihood'"),
        ({"targets": torch.zeros(3, 1)}, r"^targets: expected a tensor of shape \(25, outputs\)"),
        ({"gram": torch.zeros(25, 3)}, "^gram: expected shape"),
        ({"gram": torch.full((25, 25), float("nan"))}, "^gram: expected finite numbers"),
        ({"gram": torch.arange(625.0).reshape(25, 25)}, "^gram: expected a symmetric matrix"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_process(**{"gram": tensor(KERNELS[0](X)), "targets": tensor(Y), "noise": 0.1} | options)


def test_bad_noises():
    path = ridge_path(tensor(KERNELS[0](X)), tensor(Y))
    with pytest.raises(ValueError, match="^noises: expected positive finite numbers, got none"):
        choose_noise(path, ())
    with pytest.raises(ValueError, match="^noises: expected a positive finite number, got 0"):
        choose_noise(path, (0.1, 0))
    with pytest.raises(ValueError, match="^select: expected one of"):
        choose_noise(path, (0.1,), select="loo")
    with pytest.raises(ValueError, match="^targets: expected at least two with an intercept"):
        gaussian_process(torch.eye(1), torch.ones(1, 1), 0.1, intercept=True)


# ---------------------------------------------------------------------------------------------------- with an intercept


FLAT = 1e6  # the variance of a constant whose prior is nearly flat


@pytest.mark.parametrize("amplitude", [0.3, None])
def test_an_intercept_is_a_constant_of_flat_prior(amplitude):
    kernel, noise = KERNELS[0], 0.05
    found = gaussian_process(tensor(kernel(X)), tensor(Y + 5), noise, amplitude=amplitude, intercept=True)
    cross, own = tensor(kernel(X_TEST, X)), tensor(kernel(X_TEST))
    for output in range(2):
        a, y = float(found.amplitude[output]), Y[:, output] + 5
        both = ConstantKernel(a) * kernel + ConstantKernel(FLAT)
        reference = GaussianProcessRegressor(both, alpha=a * noise, optimizer=None).fit(X, y)
        mean, covariance = reference.predict(X_TEST, return_cov=True)
        np.testing.assert_allclose(found.mean(cross)[:, output], mean, rtol=1e-4)
        np.testing.assert_allclose(found.covariance(cross, own)[:, :, output], covariance, rtol=1e-3, atol=1e-5)
        variance = found.variance(cross, own.diagonal())[:, output]
        np.testing.assert_allclose(variance, found.covariance(cross, own)[:, :, output].diagonal(), rtol=1e-9)
        # the likelihood of the flat prior, less what its height makes infinite
        likelihood = multivariate_normal(np.zeros(25), both(X) + a * noise * np.eye(25)).logpdf(y)
        assert float(found.likelihood[output]) == pytest.approx(likelihood + np.log(2 * np.pi * FLAT) / 2, abs=1e-3)


def test_leave_one_out_with_an_intercept_is_leaving_one_out():
    gram, noise, total = tensor(KERNELS[0](X)), 0.05, 0.0
    found = gaussian_process(gram, tensor(Y + 5), noise, amplitude=0.3, intercept=True)
    for i in range(25):
        rest = np.arange(25) != i
        part = gaussian_process(gram[rest][:, rest], tensor(Y[rest] + 5), noise, amplitude=0.3, intercept=True)
        mean = part.mean(gram[i : i + 1, rest])
        variance = part.variance(gram[i : i + 1, rest], gram[i, i : i + 1]) + 0.3 * noise
        total += np.array([multivariate_normal(mean[0, k], variance[0, k]).logpdf(Y[i, k] + 5) for k in range(2)])
    np.testing.assert_allclose(found.leave_one_out, total, rtol=1e-8)


@pytest.mark.parametrize("select", SELECTIONS)
def test_the_curve_with_an_intercept_is_that_of_each_noise_and_constants_change_nothing(select):
    gram = tensor(KERNELS[0](X))
    _, curve = choose_noise(ridge_path(gram, tensor(Y), intercept=True), [1.0, 1e-2, 1e-4], select=select)
    for point in curve:
        fit = gaussian_process(gram, tensor(Y + 7), point.noise, select=select, intercept=True)
        assert point.likelihood == pytest.approx(float(fit.likelihood.sum()), rel=1e-7)
        assert point.leave_one_out == pytest.approx(float(fit.leave_one_out.sum()), rel=1e-7)
