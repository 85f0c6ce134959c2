"""Ridge paths against scikit-learn, and against leaving examples out one by one."""

import logging

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from hilbertnet.kernels import ridge
from hilbertnet.kernels.ridge import choose_lambda, ridge_path, ridge_solve

LAMBDAS = [1e-1, 1e-3, 1e-6]


@pytest.fixture
def problem():
    state = np.random.RandomState(0)
    x = state.rand(20, 3)
    gram = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 0.5)
    return gram, state.randn(20, 2)


def path_of(gram, targets):
    return ridge_path(torch.tensor(gram), torch.tensor(targets))


@pytest.mark.parametrize("lam", LAMBDAS)
def test_coefficients_are_those_of_scikit_learn(problem, lam):
    gram, targets = problem
    expected = KernelRidge(alpha=len(gram) * lam, kernel="precomputed").fit(gram, targets).dual_coef_
    np.testing.assert_allclose(path_of(gram, targets).coefficients(lam), expected, rtol=1e-6)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_leave_one_out_is_leaving_one_out(problem, lam):
    gram, targets = problem
    n, found = len(gram), path_of(gram, targets).leave_one_out(lam)
    for i in range(n):
        rest = np.arange(n) != i
        model = KernelRidge(alpha=n * lam, kernel="precomputed").fit(gram[np.ix_(rest, rest)], targets[rest])
        np.testing.assert_allclose(found[i], model.predict(gram[i : i + 1, rest])[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_squared_norm_is_that_of_the_function(problem, lam):
    gram, targets = problem
    path = path_of(gram, targets)
    coefficients = path.coefficients(lam).numpy()
    expected = np.einsum("io,ij,jo->o", coefficients, gram, coefficients)
    np.testing.assert_allclose(path.squared_norm(lam), expected, rtol=1e-8)


def test_norms_fall_and_residuals_grow_with_lambda(problem):
    gram, targets = problem
    path = path_of(gram, targets)
    norms = torch.stack([path.squared_norm(lam) for lam in sorted(LAMBDAS)])
    residuals = [float((torch.tensor(gram) @ path.coefficients(lam) - path.targets).norm()) for lam in sorted(LAMBDAS)]
    assert (norms.diff(dim=0) < 0).all()
    assert residuals == sorted(residuals)


def test_a_singular_gram_matrix_is_no_trouble():
    x = np.random.RandomState(0).randn(10, 2)
    gram, targets = x @ x.T, np.random.RandomState(1).randn(10, 1)
    path = path_of(gram, targets)
    assert (path.values >= 0).all()
    expected = np.linalg.solve(gram + 10 * 1e-3 * np.eye(10), targets)
    np.testing.assert_allclose(path.coefficients(1e-3), expected, rtol=1e-8)


def test_float32_is_decomposed_in_float64_and_left_alone(problem):
    gram, targets = problem
    given = torch.tensor(gram, dtype=torch.float32)
    kept = given.clone()
    path = ridge_path(given, torch.tensor(targets, dtype=torch.float32))
    assert path.coefficients(1e-3).dtype == torch.float64
    assert torch.equal(given, kept)


def test_chosen_lambda_is_the_best_of_the_curve(problem):
    gram, _ = problem
    targets = gram[:, :1] + 0.1 * np.random.RandomState(2).randn(20, 1)
    path = path_of(gram, targets)
    lambdas = [10.0**-p for p in range(8)]
    chosen, curve = choose_lambda(path, lambdas, lambda found: -float((found - path.targets).square().mean()))
    errors = {
        lam: np.mean([(path.leave_one_out(lam)[i, 0] - targets[i, 0]) ** 2 for i in range(20)]) for lam in lambdas
    }
    assert chosen == min(errors, key=errors.get)
    assert [lam for lam, _, _ in curve] == sorted(lambdas, reverse=True)
    for lam, score, residual in curve:
        assert residual == pytest.approx(errors[lam]) == pytest.approx(-score)


def test_equal_scores_are_told_apart_by_the_residual(problem):
    path = path_of(*problem)
    chosen, curve = choose_lambda(path, LAMBDAS, lambda _: 0.5)
    assert chosen == min(curve, key=lambda point: point[2])[0]


def test_an_intercept_is_that_of_the_augmented_system_and_leaves_one_out_exactly():
    state = np.random.RandomState(3)
    root = state.randn(12, 9)
    gram, targets, lam = root @ root.T / 9, state.randn(12, 2) + 5, 1e-2

    def solve(rows):
        size = len(rows)
        system = np.ones((size + 1, size + 1))
        system[:size, :size] = gram[np.ix_(rows, rows)] + 12 * lam * np.eye(size)  # n lambda of all examples
        system[size, size] = 0
        return np.linalg.solve(system, np.vstack([targets[rows], np.zeros((1, 2))]))

    path = ridge_path(torch.tensor(gram), torch.tensor(targets), intercept=True)
    everything = solve(np.arange(12))
    np.testing.assert_allclose(path.coefficients(lam), everything[:-1], rtol=1e-9)
    np.testing.assert_allclose(path.intercept(lam), everything[-1], rtol=1e-9)
    for left_out in range(12):
        rows = np.delete(np.arange(12), left_out)
        found = solve(rows)
        expected = gram[left_out, rows] @ found[:-1] + found[-1]
        np.testing.assert_allclose(path.leave_one_out(lam)[left_out], expected, rtol=1e-8)


# --------------------------------------------------------------------------------------- one lambda by Cholesky, checks


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_one_lambda_by_cholesky_is_that_of_the_path(problem, lam, intercept):
    gram, targets = (torch.tensor(part) for part in problem)
    found = ridge_solve(gram, targets + 5, lam, intercept=intercept)
    expected = ridge_path(gram, targets + 5, intercept=intercept).solution(lam)
    assert (found.lam, found.jitter) == (lam, 0.0)
    for name in ("coefficients", "intercept", "squared_norm"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9)


def test_a_lambda_lost_in_rounding_errors_is_said(problem):
    gram, targets = problem
    twice = torch.tensor(gram).repeat(2, 2)
    with pytest.warns(RuntimeWarning, match="jitter"):
        found = ridge_solve(twice, torch.tensor(targets).repeat(2, 1), 1e-20)
    assert found.jitter > 0
    np.testing.assert_allclose(twice @ found.coefficients, np.tile(targets, (2, 1)), atol=1e-3)


@pytest.mark.parametrize("solve", [ridge_path, lambda gram, targets: ridge_solve(gram, targets, 1e-3)])
def test_bad_matrices_and_targets(problem, solve):
    gram, targets = (torch.tensor(part) for part in problem)
    bad = gram.clone()
    bad[3, 4] = float("nan")
    for matrix, message in [
        (gram[:5], r"expected shape \(n, n\) with n at least 1, got \(5, 20\)"),
        (torch.triu(gram), "expected a symmetric matrix"),
        (bad, r"expected finite numbers, got nan at index \[3, 4\]"),
    ]:
        with pytest.raises(ValueError, match=f"^gram: {message}"):
            solve(matrix, targets)
    with pytest.raises(ValueError, match=r"^targets: expected a tensor of shape \(20, outputs\), got \(19, 2\)"):
        solve(gram, targets[1:])
    with pytest.raises(ValueError, match="^targets: expected finite numbers, got -?inf"):
        solve(gram, targets / 0.0)


@pytest.mark.parametrize("lam", [0.0, -1e-3, float("nan"), "small"])
def test_lambdas_that_are_not_positive(problem, lam):
    gram, targets = (torch.tensor(part) for part in problem)
    with pytest.raises(ValueError, match="^lam: expected a positive finite number"):
        ridge_solve(gram, targets, lam)


def test_a_long_decomposition_says_so_first(problem, monkeypatch, caplog):
    gram, targets = (torch.tensor(part) for part in problem)
    monkeypatch.setattr(ridge, "_PROBE", 3)
    with caplog.at_level(logging.WARNING, "hilbertnet"):
        ridge_path(gram, targets)
        assert not caplog.records
        monkeypatch.setattr(ridge, "LONG", 0.0)
        ridge_path(gram, targets)
    (message,) = [record.message for record in caplog.records]
    assert "eigendecomposition of 20 x 20: about" in message
