"""The regularized inverse square root: its two published forms and its gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.networks.inverse_root import PUBLISHED_EPSILON, inverse_square_root

FORMS = ["root", "eigenvalue"]


def orthogonal(size, seed=0):
    return torch.linalg.qr(
        torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).Q


def with_eigenvalues(*values):
    basis = orthogonal(len(values))
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize("epsilon", [1e-3, 0.01, 0.5])
def test_published_forms_are_their_formulas(epsilon):
    """Functions of a diagonal matrix in another basis, by hand."""
    values, basis = torch.tensor([0.0, 1e-4, 0.3, 2.0, 2.0], dtype=torch.float64), orthogonal(5)
    gram = basis @ torch.diag(values) @ basis.T
    root = basis @ torch.diag(1 / (values.sqrt() + epsilon)) @ basis.T
    eigenvalue = basis @ torch.diag((values + epsilon) ** -0.5) @ basis.T
    # eigenvalues of the matrix are known to 1e-16, so the root of one that is 0 only to 1e-8
    torch.testing.assert_close(inverse_square_root(gram, "root", epsilon), root, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inverse_square_root(gram, "eigenvalue", epsilon), eigenvalue, rtol=1e-9, atol=1e-9)


def test_root_form_is_its_formula_where_no_eigenvalue_vanishes():
    basis, values = orthogonal(4), torch.tensor([0.01, 0.3, 2.0, 2.0], dtype=torch.float64)
    found = inverse_square_root(basis @ torch.diag(values) @ basis.T, "root", 0.01)
    torch.testing.assert_close(found, basis @ torch.diag(1 / (values.sqrt() + 0.01)) @ basis.T, rtol=1e-11, atol=1e-11)


def test_published_epsilons():
    assert PUBLISHED_EPSILON == {"root": 0.01, "eigenvalue": 0.001}


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 8), seed=st.integers(0, 1000), form=st.sampled_from(FORMS))
def test_without_epsilon_it_is_the_inverse_square_root(size, seed, form):
    basis = orthogonal(size, seed)
    values = 0.1 + torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gram = basis @ torch.diag(values) @ basis.T
    found = inverse_square_root(gram, form, 0.0)
    torch.testing.assert_close(found @ gram @ found, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_without_epsilon_a_rank_deficient_matrix_has_its_pseudo_inverse(form, rank):
    factor = torch.randn(6, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = factor @ factor.T
    found = inverse_square_root(gram, form, 0.0)
    torch.testing.assert_close(found @ found, torch.linalg.pinv(gram, hermitian=True), rtol=1e-9, atol=1e-9)
    projection = found @ gram @ found
    torch.testing.assert_close(projection @ projection, projection, rtol=1e-9, atol=1e-9)
    assert float(projection.trace()) == pytest.approx(rank, abs=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "values",
    [(0.1, 0.5, 1.0, 3.0), (1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 2.0, 2.0)],
    ids=["distinct", "identity", "repeated"],
)
def test_gradient_without_epsilon(form, values):
    gram = with_eigenvalues(*values).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: inverse_square_root((a + a.T) / 2, form, 0.0), (gram,))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "values",
    [(0.1, 0.5, 1.0, 3.0), (1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 2.0, 2.0)],
    ids=["distinct", "identity", "repeated"],
)
@pytest.mark.parametrize("epsilon", [0.01, 0.5])
def test_gradient_with_epsilon(form, values, epsilon):
    gram = with_eigenvalues(*values).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: inverse_square_root((a + a.T) / 2, form, epsilon), (gram,))


@pytest.mark.parametrize("form", FORMS)
def test_gradient_at_vanishing_eigenvalues_with_epsilon(form):
    """Along matrices B B' of the same low rank, where the matrix function is smooth.

    Roots of eigenvalues that vanish are known to 1e-8: hence the large step and tolerance.
    """
    factor = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda b: inverse_square_root(b @ b.T, form, 0.1), (factor,), eps=1e-3, atol=1e-2, rtol=1e-3
    )


def test_gradient_of_the_pseudo_inverse_along_matrices_of_the_same_rank():
    factor = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: inverse_square_root(b @ b.T, "root", 0.0), (factor,), atol=1e-4)


def test_result_has_the_dtype_of_the_matrix_and_float64_accuracy():
    basis = orthogonal(6)
    gram = basis @ torch.diag(torch.logspace(-6, 0, 6, dtype=torch.float64)) @ basis.T
    found = inverse_square_root(gram.float(), "eigenvalue", 1e-3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), inverse_square_root(gram, "eigenvalue", 1e-3), rtol=1e-4, atol=1e-4)
