"""Block conjugate gradient against numpy's solver, on a real Gram matrix, well and badly conditioned."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import cg
from small_digits import one_hot, small_digits

from hilbertnet.kernels.conjugate_gradient import conjugate_gradient
from hilbertnet.kernels.gram_like import DenseGram
from hilbertnet.kernels.nystrom import nystrom

N = 400


class Counting(DenseGram):
    """Counts the products, and their columns."""

    def __init__(self, values):
        super().__init__(values)
        self.products, self.widest = 0, 0

    def matmul(self, V):
        self.products += 1
        self.widest = max(self.widest, V.shape[1])
        return super().matmul(V)


@pytest.fixture(scope="module")
def digits():
    gram, labels = small_digits(N)
    return gram, one_hot(labels), N * float(gram.diagonal().mean())


def solve(gram, targets, shift, rank=None, **options):
    dense = gram if isinstance(gram, DenseGram) else DenseGram(gram)
    pre = None if rank is None else nystrom(dense, rank, generator=torch.Generator().manual_seed(0))
    return conjugate_gradient(dense, targets, shift, preconditioner=pre, **{"progress": False} | options)


def direct(gram, targets, shift):
    return torch.linalg.solve(gram + shift * torch.eye(len(gram)), targets)


# ------------------------------------------------------------------------------------------------------ the solution


@pytest.mark.parametrize("rank", [None, 100])
@pytest.mark.parametrize("exponent", [-2, -3, -5, -7, -9])
def test_functions_are_those_of_the_direct_solver(digits, exponent, rank):
    """At lambda 1e-2 ... 1e-9 of the mean of K(x, x)."""
    gram, targets, unit = digits
    shift = 10.0**exponent * unit
    found = solve(gram, targets, shift, rank, tolerance=1e-8, iterations=2000)
    assert found.converged
    expected = direct(gram, targets, shift)
    # the error in the norm of the system is the residual in the norm of its inverse
    error = found.solution - expected
    assert float((error * (gram @ error)).sum().sqrt()) < 1e-6 * float((expected * (gram @ expected)).sum().sqrt())
    residual = targets - (gram @ found.solution + shift * found.solution)
    expected = residual.norm(dim=0) / targets.norm(dim=0)
    np.testing.assert_allclose(found.relative_residuals, expected, rtol=0.02, atol=1e-9)  # coefficients reach 1e5
    np.testing.assert_allclose(found.residual.norm(dim=0), residual.norm(dim=0), rtol=0.02, atol=1e-8)


@pytest.mark.parametrize(
    ("outputs", "exponent", "times"), [(1, -3, 4), (1, -5, 5), (1, -7, 5), (10, -5, 2), (10, -7, 2)]
)
def test_the_preconditioner_saves_iterations(digits, outputs, exponent, times):
    """With a quarter of the columns: at least so many times fewer."""
    gram, targets, unit = digits
    shift = 10.0**exponent * unit
    plain, helped = (solve(gram, targets[:, :outputs], shift, rank, iterations=2000) for rank in (None, 100))
    assert plain.converged
    assert helped.converged
    assert times * helped.iterations <= plain.iterations


def test_all_outputs_share_each_product_and_need_fewer_than_each_alone(digits):
    gram, targets, unit = digits
    dense, shift = Counting(gram), 1e-5 * unit
    together = solve(dense, targets, shift)
    assert together.iterations <= dense.products <= together.iterations + 2
    assert dense.widest <= 10
    alone = [solve(gram, targets[:, k : k + 1], shift).iterations for k in range(3)]
    assert 2 * together.iterations < min(alone)
    steps = []
    _, failed = cg(gram.numpy() + shift * np.eye(N), targets[:, 0].numpy(), rtol=1e-6, callback=steps.append)
    assert not failed
    assert abs(alone[0] - len(steps)) <= 0.1 * len(steps)  # scipy's is the method for one column


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 25),
    rank=st.integers(1, 25),
    outputs=st.integers(1, 6),
    exponent=st.integers(-4, 2),
    seed=st.integers(0, 999),
    landmarks=st.integers(0, 25),
    copies=st.integers(1, 3),
)
def test_drawn_systems(n, rank, outputs, exponent, seed, landmarks, copies):
    """Of any rank, with repeated signals and targets, more outputs than signals, with and without landmarks."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, rank, dtype=torch.float64, generator=generator).repeat(copies, 1)
    targets = torch.randn(len(root), outputs, dtype=torch.float64, generator=generator).repeat(1, copies)
    gram, shift = root @ root.T, 10.0**exponent
    found = solve(gram, targets, shift, min(landmarks, len(root)) or None, tolerance=1e-7)
    assert found.converged
    assert found.iterations <= 3 * len(root) + 2
    assert float((found.solution - direct(gram, targets, shift)).norm()) <= 1e-5 / shift * float(targets.norm())


def test_targets_of_zeros_and_of_other_scales(digits):
    gram, targets, unit = digits
    scales = torch.tensor([1e12, 1e-12, 0.0] + 7 * [1.0], dtype=torch.float64)
    shift = 1e-4 * unit
    found = solve(gram, targets * scales, shift, 50)
    assert found.converged
    assert not found.solution[:, 2].any()
    expected = direct(gram, targets, shift) * scales
    gap = (gram @ (found.solution - expected)).norm(dim=0)
    assert (gap <= 1e-5 * (gram @ expected).norm(dim=0)).all()
    assert solve(gram, torch.zeros(N, 2), shift).iterations == 0


def test_repeated_signals(digits):
    gram, targets, _ = digits
    index = torch.arange(40).repeat(5)
    singular, shift = gram[index][:, index], 1e-6 * 200 * float(gram.diagonal().mean())
    for rank in (None, 30):
        found = solve(singular, targets[:200], shift, rank, tolerance=1e-8)
        assert found.converged
        expected = direct(singular, targets[:200], shift)
        torch.testing.assert_close(singular @ found.solution, singular @ expected, rtol=0, atol=1e-7)


def test_a_start_near_the_end_saves_iterations(digits):
    gram, targets, unit = digits
    before = solve(gram, targets, 1.1e-5 * unit, 60).solution
    cold, warm = (solve(gram, targets, 1e-5 * unit, 60, start=start) for start in (None, before))
    assert warm.converged
    assert warm.iterations < cold.iterations
    again = solve(gram, targets, 1e-5 * unit, 60, start=cold.solution, tolerance=2e-6)
    assert (again.iterations, again.converged) == (0, True)


# --------------------------------------------------------------------------------------- where it cannot go on, resume


def test_too_few_iterations_are_told(digits):
    gram, targets, unit = digits
    found = solve(gram, targets, 1e-7 * unit, iterations=5)
    assert (found.converged, found.iterations) == (False, 5)
    assert float(found.relative_residuals.max()) > 1e-6


def test_a_tolerance_below_rounding_errors_ends_all_the_same(digits):
    gram, targets, unit = digits
    found = solve(gram, targets, 1e-5 * unit, 100, tolerance=1e-30, iterations=2000)
    assert not found.converged
    assert found.iterations < 2000
    assert float(found.relative_residuals.max()) < 1e-9


def test_a_matrix_that_is_not_positive_semi_definite_is_found_out(digits):
    gram, targets, _ = digits
    with pytest.raises(ValueError, match=r"^gram: K \+ 0.001 I is not positive definite along a direction"):
        solve(gram - 0.5 * torch.eye(N), targets, 1e-3)


@pytest.mark.parametrize("rank", [None, 60])
def test_resumed_is_uninterrupted_to_the_last_bit(digits, rank):
    gram, targets, unit = digits
    states = []
    whole = solve(gram, targets, 1e-6 * unit, rank, keep=states.append)
    assert len(states) == whole.iterations > 5
    for state in (states[0], states[len(states) // 2], states[-2], states[-1]):
        again = solve(gram, targets, 1e-6 * unit, rank, state=state)
        assert torch.equal(again.solution, whole.solution)
        assert torch.equal(again.residual, whole.residual)
        assert again.iterations == whole.iterations


def test_progress_counts_iterations(digits):
    gram, targets, unit = digits
    steps = []
    found = solve(gram, targets, 1e-4 * unit, iterations=77, progress=lambda *step: steps.append(step))
    assert steps == [(done, 77) for done in range(1, found.iterations + 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": 0.0}, "^shift: expected a positive finite number, got 0.0"),
        ({"shift": -1.0}, "^shift: expected a positive finite number"),
        ({"tolerance": 0.0}, "^tolerance: expected a positive finite number"),
        ({"tolerance": float("nan")}, "^tolerance: expected a positive finite number"),
        ({"iterations": 0}, "^iterations: expected a whole number of at least 1, got 0"),
        ({"iterations": 2.5}, "^iterations: expected a whole number of at least 1"),
        ({"start": torch.zeros(N, 3)}, rf"^start: expected shape \({N}, 10\) as targets, got \({N}, 3\)"),
        ({"targets": torch.zeros(3, 10)}, rf"^targets: expected a tensor of shape \({N}, outputs\)"),
    ],
)
def test_bad_input(digits, options, message):
    gram, targets, _ = digits
    with pytest.raises(ValueError, match=message):
        solve(gram, **{"targets": targets, "shift": 1.0} | options)
