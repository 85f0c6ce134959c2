"""Cholesky factors against numpy; jitter grows as needed, and is said."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_digits import small_digits

from hilbertnet.kernels.cholesky import cholesky


@pytest.fixture
def gram():
    return small_digits(120)[0]


def repeated(gram):
    """The Gram matrix of every signal twice: singular."""
    twice = torch.arange(len(gram)).repeat(2)
    return gram[twice][:, twice]


@pytest.mark.parametrize("shift", [1e-6, 1.0])
def test_solutions_are_numpys(gram, shift):
    right = torch.randn(120, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factor = cholesky(gram, shift)
    system = gram.numpy() + shift * np.eye(120)
    assert factor.jitter == 0.0
    np.testing.assert_allclose(factor.solve(right), np.linalg.solve(system, right), rtol=1e-7)
    np.testing.assert_allclose(factor.inverse_diagonal(), np.diag(np.linalg.inv(system)), rtol=1e-7)
    np.testing.assert_allclose(factor.log_determinant(), np.linalg.slogdet(system)[1], rtol=1e-10)
    white = factor.whiten(right)
    np.testing.assert_allclose(white.T @ white, right.T @ factor.solve(right), rtol=1e-9)


def test_a_singular_matrix_takes_a_jitter_and_says_so(gram):
    singular = repeated(gram)
    with pytest.warns(RuntimeWarning, match=r"is not positive definite to machine precision; a jitter of .* was added"):
        factor = cholesky(singular)
    assert 0 < factor.jitter < 1e-10 * float(singular.diagonal().max())
    rebuilt = factor.lower @ factor.lower.T - factor.jitter * torch.eye(240)
    torch.testing.assert_close(rebuilt, singular, rtol=0, atol=1e-11)


def test_the_jitter_is_the_least_of_its_steps(gram):
    """A tenth of it is refused: a pivot is not above rounding errors."""
    singular = repeated(gram)
    with pytest.warns(RuntimeWarning, match="jitter"):
        jitter = cholesky(singular).jitter
    floor = 240 * np.finfo(float).eps * float(singular.diagonal().max())
    assert np.isclose(np.log10(jitter / floor) % 1, 0) or np.isclose(np.log10(jitter / floor) % 1, 1)
    if jitter > 1.01 * floor:
        with pytest.warns(RuntimeWarning, match="jitter"):
            assert cholesky(singular, jitter / 10).jitter > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cholesky(singular, 2 * jitter).jitter == 0.0


def test_a_ridge_spares_the_jitter(gram):
    assert cholesky(repeated(gram), 1e-8).jitter == 0.0


def test_a_float32_matrix_with_negative_eigenvalues(gram):
    single = repeated(gram).float()
    least = float(torch.linalg.eigvalsh(single.double())[0])
    assert least < 0
    with pytest.warns(RuntimeWarning, match="jitter"):
        assert cholesky(single).jitter > -least


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 12), rank=st.integers(1, 12), seed=st.integers(0, 99), exponent=st.integers(-8, 2))
def test_every_shifted_gram_matrix_is_solved(n, rank, seed, exponent):
    root = torch.randn(n, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    shift = 10.0**exponent
    factor = cholesky(root @ root.T, shift)
    assert factor.jitter == 0.0
    system = root @ root.T + shift * torch.eye(n)
    torch.testing.assert_close(system @ factor.solve(root), root, rtol=1e-6, atol=1e-6)


def test_indefinite_matrices_and_zeros_are_refused(gram):
    with pytest.raises(ValueError, match="^gram: expected a positive semi-definite matrix"):
        cholesky(gram - 0.5 * torch.eye(120))
    with pytest.raises(ValueError, match="^gram: expected a positive semi-definite matrix"):
        cholesky(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="^gram: expected a positive semi-definite matrix"):
        cholesky(-torch.eye(3))


@pytest.mark.parametrize("shift", [-1e-9, float("nan"), "small"])
def test_shifts_that_are_negative(gram, shift):
    with pytest.raises(ValueError, match="^shift: expected a finite number of at least 0"):
        cholesky(gram, shift)


def test_bad_matrices_and_the_input_left_alone(gram):
    with pytest.raises(ValueError, match=r"^gram: expected shape \(n, n\)"):
        cholesky(gram[:5])
    with pytest.raises(ValueError, match="^gram: expected a symmetric"):
        cholesky(torch.triu(gram))
    kept = gram.clone()
    cholesky(gram, 1.0)
    assert torch.equal(gram, kept)
