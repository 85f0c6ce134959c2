"""Nystrom approximations against their formula, and what they leave of a Gram matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_digits import small_digits

from hilbertnet.kernels.gram_like import DenseGram
from hilbertnet.kernels.nystrom import LANDMARKS, default_rank, nystrom


def approximation(found):
    return found.vectors @ torch.diag(found.values) @ found.vectors.T


def make(gram, rank, landmarks="pivoted", seed=0):
    return nystrom(DenseGram(gram), rank, landmarks=landmarks, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("landmarks", LANDMARKS)
def test_it_is_the_column_formula_at_its_landmarks(landmarks):
    gram, _ = small_digits(200)
    found = make(gram, 25, landmarks)
    index = found.landmarks
    assert len(set(index.tolist())) == len(index) == 25
    # what the formula loses by solving with the landmarks' own matrix, of condition 1e5
    expected = gram[:, index] @ torch.linalg.solve(gram[index][:, index], gram[index])
    torch.testing.assert_close(approximation(found), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(25, dtype=torch.float64))
    assert (found.values.diff() <= 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(1, 30), landmarks=st.sampled_from(LANDMARKS))
def test_what_it_leaves_is_positive_semi_definite(seed, rank, landmarks):
    gram, _ = small_digits(200)
    found = make(gram, rank, landmarks, seed)
    rest = torch.linalg.eigvalsh(gram - approximation(found))
    assert rest[0] > -1e-10 * gram.trace()


def test_more_landmarks_leave_less():
    gram, _ = small_digits(200)
    traces = [float((gram - approximation(make(gram, rank, "greedy"))).trace()) for rank in (5, 20, 80, 200)]
    assert traces == sorted(traces, reverse=True)
    assert traces[-1] < 1e-8 * gram.trace()


def test_pivoted_landmarks_find_the_few_that_differ():
    """Random ones miss three outliers of 300 nearly always (Chen et al. 2022)."""
    ones = torch.ones(300, dtype=torch.float64)
    gram = torch.outer(ones, ones) + 1e-6 * torch.eye(300)
    outliers = torch.tensor([11, 105, 290])
    gram[outliers] = 0.0
    gram[:, outliers] = 0.0
    gram[outliers, outliers] = 50.0
    for landmarks in ("pivoted", "greedy"):
        assert set(outliers.tolist()) <= set(make(gram, 20, landmarks).landmarks.tolist())
    assert not set(outliers.tolist()) <= set(make(gram, 20, "random").landmarks.tolist())


@pytest.mark.parametrize("landmarks", LANDMARKS)
def test_repeated_signals_are_taken_once(landmarks):
    gram, _ = small_digits(200)
    index = torch.arange(15).repeat(6)
    gram = gram[index][:, index]
    found = make(gram, 90, landmarks)
    assert len(found.landmarks) == len({int(i) % 15 for i in found.landmarks}) == 15
    torch.testing.assert_close(approximation(found), gram, rtol=0, atol=1e-8)
    assert torch.isfinite(found.vectors).all()


@pytest.mark.parametrize("shift", [1e-6, 1.0])
def test_preconditioner_and_its_parts_are_their_formulas(shift):
    gram, _ = small_digits(200)
    found = make(gram, 30)
    u, values = found.vectors.numpy(), found.values.numpy()
    right = np.random.RandomState(0).randn(200, 4)
    expected = (values[-1] + shift) * u @ np.diag(1 / (values + shift)) @ u.T + np.eye(200) - u @ u.T
    np.testing.assert_allclose(found.precondition(torch.tensor(right), shift), expected @ right, rtol=1e-8, atol=1e-10)
    # all of K known: the preconditioner is the inverse, up to the scale
    whole = make(gram, 200)
    product = whole.precondition(gram + shift * torch.eye(200), shift) / (whole.values[-1] + shift)
    np.testing.assert_allclose(product, np.eye(200), atol=1e-4)


def test_seeds_tell_draws_apart_and_repeat_them():
    gram, _ = small_digits(200)
    first, again, other = (make(gram, 20, seed=seed).landmarks for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_matrix_of_zeros_has_nothing_to_find():
    found = make(torch.zeros(5, 5, dtype=torch.float64), 3)
    assert len(found.landmarks) == len(found.values) == 0
    right = torch.arange(10.0, dtype=torch.float64).reshape(5, 2)
    assert torch.equal(found.precondition(right, 0.1), right)


@pytest.mark.parametrize("rank", [0, 201, -1, 2.0, True, None])
def test_ranks_that_are_none(rank):
    with pytest.raises(ValueError, match="^rank: expected a whole number from 1 to 200, got"):
        make(small_digits(200)[0], rank)


def test_unknown_landmarks_and_default_ranks():
    with pytest.raises(ValueError, match="^landmarks: expected one of .*, got 'randon'; did you mean 'random'"):
        make(small_digits(200)[0], 5, "randon")
    assert [default_rank(n) for n in (1, 60, 400, 50_000)] == [1, 60, 100, 1118]
