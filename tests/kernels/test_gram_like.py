"""Gram matrices as products, and what is refused."""

import numpy as np
import pytest
import torch

from hilbertnet.kernels.gram_like import (
    DenseGram,
    GramLike,
    GramPart,
    as_gram_like,
    check_gram,
    check_positive,
    check_targets,
)


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def gram():
    root = normal(30, 7)
    return root @ root.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_the_matrix_in_float64(gram, dtype):
    gram = gram.to(dtype)
    dense, right = DenseGram(gram), normal(30, 4)
    assert isinstance(dense, GramLike)
    assert (dense.shape, dense.dtype) == ((30, 30), dtype)
    index = torch.tensor([3, 29, 3])
    for found, expected in [
        (dense.matmul(right), gram.double().numpy() @ right.numpy()),
        (dense.columns(index), gram.double().numpy()[:, [3, 29, 3]]),
        (dense.diagonal(), np.diag(gram.double().numpy())),
    ]:
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_float32_is_converted_by_blocks_to_the_same_numbers(gram, monkeypatch):
    monkeypatch.setattr("hilbertnet.kernels.gram_like._BLOCK", 100)  # three rows at a time
    single, right = gram.float(), normal(30, 4)
    np.testing.assert_allclose(DenseGram(single).matmul(right), single.double().numpy() @ right.numpy(), rtol=1e-12)


def test_a_part_is_the_matrix_of_its_rows(gram):
    kept = torch.tensor([1, 4, 5, 28])
    part, small = GramPart(DenseGram(gram), kept), gram[kept][:, kept]
    right = normal(4, 3)
    assert isinstance(part, GramLike)
    assert part.shape == (4, 4)
    torch.testing.assert_close(part.matmul(right), small @ right)
    torch.testing.assert_close(part.columns(torch.tensor([2, 0])), small[:, [2, 0]])
    torch.testing.assert_close(part.diagonal(), small.diagonal())


@pytest.mark.parametrize("shape", [(3,), (3, 4), (0, 0), (2, 3, 3)])
def test_matrices_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"^gram: expected shape \(n, n\) with n at least 1, got \("):
        DenseGram(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("block", [2**22, 60])
def test_entries_that_are_no_numbers(gram, value, block, monkeypatch):
    monkeypatch.setattr("hilbertnet.kernels.gram_like._BLOCK", block)
    gram[17, 3] = value
    with pytest.raises(ValueError, match=rf"^gram: expected finite numbers, got {value} at index \[17, 3\]"):
        check_gram(gram)


@pytest.mark.parametrize("block", [2**22, 60])
def test_asymmetric_matrices(gram, block, monkeypatch):
    monkeypatch.setattr("hilbertnet.kernels.gram_like._BLOCK", block)
    gram[17, 3] += 1e-3
    with pytest.raises(ValueError, match=r"^gram: expected a symmetric matrix, got .* at index \[(17, 3|3, 17)\]"):
        check_gram(gram)


def test_rounding_errors_of_the_dtype_are_no_asymmetry(gram):
    gram[17, 3] += 1e-12
    check_gram(gram)
    single = gram.float()
    single[17, 3] += 1e-6
    check_gram(single)


@pytest.mark.parametrize("other", [np.eye(3), None, "K", torch.eye(3, dtype=torch.int64), torch.eye(3).half()])
def test_what_is_no_matrix(other):
    with pytest.raises(ValueError, match=r"^gram: expected a (tensor, or something with|float32 or float64 tensor)"):
        as_gram_like(other)


def test_matrices_from_elsewhere_are_taken_if_square(gram):
    dense = DenseGram(gram)
    assert as_gram_like(dense) is dense

    class Wide(DenseGram):
        shape = (3, 30)

    with pytest.raises(ValueError, match=r"^gram: expected shape \(n, n\)"):
        as_gram_like(Wide(gram))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(4), r"a tensor of shape \(5, outputs\), got \(4,\)"),
        (torch.zeros(5), r"a tensor of shape \(5, outputs\), got \(5,\)"),
        (torch.zeros(6, 2), r"a tensor of shape \(5, outputs\), got \(6, 2\)"),
        (torch.zeros(5, 0), r"a tensor of shape \(5, outputs\), got \(5, 0\)"),
        (np.zeros((5, 1)), r"a tensor of shape \(5, outputs\), got ndarray"),
        (torch.zeros(5, 1, dtype=torch.complex64), "real numbers, got dtype torch.complex64"),
        (torch.tensor([[0.0, 1.0]] * 4 + [[0.0, float("nan")]]), r"finite numbers, got nan at index \[4, 1\]"),
    ],
)
def test_targets_of_another_kind(targets, message):
    with pytest.raises(ValueError, match=f"^targets: expected {message}"):
        check_targets(targets, 5)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", None, True])
def test_numbers_that_are_not_positive(value):
    with pytest.raises(ValueError, match="^shift: expected a positive finite number, got"):
        check_positive("shift", value)


def test_numbers_that_are_positive():
    assert check_positive("shift", np.float32(0.5)) == 0.5
    assert check_positive("shift", 0, zero=True) == 0.0
