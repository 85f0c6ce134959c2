"""What every public door does with its signals first."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from hilbertnet.protocols import Representation
from hilbertnet.signals import as_rng, as_signals, check_same_space


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 7)])
def test_images_and_signals_keep_their_shape(shape):
    array = np.random.default_rng(0).standard_normal(shape)
    found = as_signals(array)
    assert found.shape == shape
    assert_array_equal(found.numpy(), array)


def test_rows_are_signals_of_one_position():
    assert as_signals(np.ones((4, 3))).shape == (4, 3, 1)
    assert as_signals([[1, 2], [3, 4]]).tolist() == [[[1.0], [2.0]], [[3.0], [4.0]]]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("float64", torch.float64),
        ("float16", torch.float64),
        ("longdouble", torch.float64),
        ("uint8", torch.float64),
        ("uint16", torch.float64),
        ("int64", torch.float64),
        ("bool", torch.float64),
        (">f4", torch.float32),
        (">f8", torch.float64),
        (">i2", torch.float64),
    ],
)
def test_dtypes(dtype, expected):
    array = np.array([[0, 1, 1]]).astype(dtype)
    found = as_signals(array)
    assert found.dtype == expected
    assert found.flatten().tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wanted_dtype_is_given(dtype):
    assert as_signals(np.ones((1, 2), np.float32), dtype=dtype).dtype == dtype
    assert as_signals(torch.ones(1, 2, dtype=torch.float16), dtype=dtype).dtype == dtype


def test_arrays_that_cannot_be_written_or_are_turned_are_taken_without_a_warning():
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    assert_array_equal(as_signals(array)[..., 0].numpy(), array)
    assert_array_equal(as_signals(array[::-1, ::-1])[..., 0].numpy(), array[::-1, ::-1])
    assert_array_equal(as_signals(array.T)[..., 0].numpy(), array.T)


def test_gradients_pass_through():
    x = torch.ones(1, 2, 3, requires_grad=True)
    as_signals(x).sum().backward()
    assert (x.grad == 1).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(3), r"^X: expected images .* got shape \(3,\)"),
        (np.float64(1), r"^X: expected images"),
        (np.ones((1, 1, 1, 1, 1)), r"^X: expected images .* got shape \(1, 1, 1, 1, 1\)"),
        (torch.ones(3), r"^X: expected images"),
        (np.ones((0, 3, 4)), r"^X: expected at least one signal, channel and pixel, got shape \(0, 3, 4\)"),
        (np.ones((2, 0, 4)), r"^X: expected at least one"),
        (np.ones((2, 3, 0)), r"^X: expected at least one"),
        (np.ones((1, 2), complex), r"^X: expected real numbers, got dtype complex128"),
        (torch.ones(1, 2, dtype=torch.complex64), r"^X: expected real numbers, got dtype torch\.complex64"),
        (np.array([[1, None]]), r"^X: expected real numbers, got dtype object"),
        (np.array([["1", "2"]]), r"^X: expected real numbers, got dtype <U1"),
        (None, r"^X: expected real numbers, got dtype object"),
    ],
)
def test_errors_name_the_argument(x, message):
    with pytest.raises(ValueError, match=message):
        as_signals(x)


def test_the_name_in_errors_is_the_caller_s():
    with pytest.raises(ValueError, match=r"^images: expected"):
        as_signals(np.ones(3), "images")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [(1, 2), (1, 2, 3), (1, 0, 2, 3)])
def test_numbers_that_are_not_finite_are_refused_with_their_index(value, index):
    array = np.zeros((2, 3, 4, 5)[: len(index)])
    array[index] = value
    with pytest.raises(ValueError, match=rf"^X: expected finite numbers, got {value} at index \[.*\]$") as caught:
        as_signals(array)
    assert str(caught.value).endswith(f"at index {list(index)}")


def test_like_demands_the_same_channels_and_space():
    like = as_signals(np.ones((2, 3, 4)))
    assert as_signals(np.ones((5, 3, 4)), "Y", like=like).shape == (5, 3, 4)
    with pytest.raises(ValueError, match=r"^Y: expected shape \(n, 3, 4\), got \(5, 3, 6\)"):
        as_signals(np.ones((5, 3, 6)), "Y", like=like)
    with pytest.raises(ValueError, match=r"^Y: expected shape"):
        check_same_space(torch.ones(2, 1, 4), like, "Y")


def test_seeds_give_the_same_numbers_again():
    assert torch.rand(3, generator=as_rng(7)).tolist() == torch.rand(3, generator=as_rng(7)).tolist()
    assert torch.rand(3, generator=as_rng(7)).tolist() != torch.rand(3, generator=as_rng(8)).tolist()
    assert torch.rand(3, generator=as_rng(None)).tolist() != torch.rand(3, generator=as_rng(None)).tolist()
    assert as_rng(np.int64(7)).initial_seed() == 7


def test_generators_are_used_as_they_are():
    generator = torch.Generator()
    assert as_rng(generator) is generator


@pytest.mark.parametrize("seed", [0, None])
def test_seeds_leave_the_global_state_alone(seed):
    before = torch.get_rng_state()
    torch.rand(3, generator=as_rng(seed))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_representation_is_known_by_its_methods():
    class Identity:
        differentiable = True

        def distance(self, x, y):
            return (x - y).flatten(1).norm(dim=1).double()

        def norm(self, x):
            return x.flatten(1).norm(dim=1).double()

    assert isinstance(Identity(), Representation)
    assert not isinstance(torch.nn.Identity(), Representation)
