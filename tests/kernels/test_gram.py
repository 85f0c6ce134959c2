"""Gram matrices, norms and distances: what must hold for every architecture and every kind of input."""

import logging

import numpy as np
import pytest
import torch

from hilbertnet.architecture import Architecture
from hilbertnet.kernels import ConvKernel, gram

KERNELS = [
    ("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", "ckn"),
    ("3 arccos1 avg2 | 2 arccos1 -", "ntk"),
    ("2 poly2 stride2 | 2 arccos0 global", "ckn"),
    ("3 exp(0.8) - | 2 poly3 gauss2", "ntk"),
]
each_kernel = pytest.mark.parametrize(("text", "kind"), KERNELS)


def images(n, shape=(2, 7, 9), seed=0):
    return np.random.RandomState(seed).rand(n, *shape)


def small_budget(kernel, x, y=None, side=2, **options):
    """Bytes that leave room for tiles of `side` rows and columns only."""
    plan = kernel.plan(x, y, **options)
    return plan.fixed_bytes + side**2 * plan.pair_bytes + 2 * side * plan.signal_bytes


# ------------------------------------------------------------------------------------------------------- the matrix


@each_kernel
def test_gram_is_positive_semi_definite_and_symmetric_to_the_last_bit(text, kind):
    x = images(9)
    kernel = ConvKernel(text, kind)
    for memory in (None, small_budget(kernel, x)):
        found = kernel.gram(x, memory=memory)
        assert (found == found.T).all()
        values = np.linalg.eigvalsh(found)
        assert values[0] > -1e-12 * values[-1]


@each_kernel
@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiles_change_nothing(text, kind, side):
    x, y = images(7), images(5, seed=1)
    kernel = ConvKernel(text, kind)
    for other in (None, y):
        memory = small_budget(kernel, x, other, side=side)
        steps = []
        tiled = kernel.gram(x, other, memory=memory, progress=lambda *step, seen=steps: seen.append(step))
        assert len(steps) > 3
        # arc-cosine 0 (so the tangent kernel of arc-cosine 1) is good to 1e-8 only near 1
        exact = kind == "ckn" and "arccos0" not in text
        np.testing.assert_allclose(tiled, kernel.gram(x, other), rtol=1e-12 if exact else 1e-7)


@each_kernel
def test_rectangular_gram_is_a_block_of_the_square_one(text, kind):
    x, y = images(4), images(3, seed=1)
    kernel = ConvKernel(text, kind)
    square = kernel.gram(np.concatenate([x, y]))
    np.testing.assert_allclose(kernel.gram(x, y), square[:4, 4:], rtol=1e-12)
    np.testing.assert_allclose(kernel.gram(y, x), square[4:, :4], rtol=1e-12)
    np.testing.assert_allclose(kernel.gram(x), square[:4, :4], rtol=1e-7)


@each_kernel
def test_diagonal_norm_and_distance_are_those_of_the_gram_matrix(text, kind):
    x, y = images(5), images(5, seed=1)
    kernel = ConvKernel(text, kind)
    xx, xy, yy = kernel.gram(x), kernel.gram(x, y), kernel.gram(y)
    # arc-cosines of cosines near 1 are good to 1e-8 only
    np.testing.assert_allclose(kernel.diag(x), np.diag(xx), rtol=1e-7)
    np.testing.assert_allclose(kernel.norm(x), np.sqrt(np.diag(xx)), rtol=1e-7)
    expected = np.sqrt(np.diag(xx) + np.diag(yy) - 2 * np.diag(xy))
    np.testing.assert_allclose(kernel.distance(x, y), expected, rtol=1e-6)
    np.testing.assert_array_equal(kernel.distance(x, x), 0)


@pytest.mark.parametrize("text", ["3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", "3 arccos1 avg2 | 2 arccos1 -"])
def test_gram_pair_is_both_gram_matrices(text):
    x, y = images(4), images(3, seed=1)
    for other in (None, y):
        pair = ConvKernel(text).gram_pair(x, other)
        for kind, found in zip(("ckn", "ntk"), pair, strict=True):
            np.testing.assert_array_equal(found, ConvKernel(text, kind).gram(x, other))
    budget = small_budget(ConvKernel(text, "ntk"), x, side=2) + x.shape[0] ** 2 * 8
    for whole, tiled in zip(ConvKernel(text).gram_pair(x), ConvKernel(text).gram_pair(x, memory=budget), strict=True):
        np.testing.assert_allclose(tiled, whole, rtol=1e-7)


def test_tangent_kernel_of_linear_layers_counts_the_layers():
    """F = w W_2 W_1 x: each of the three factors adds the same kernel."""
    x = images(3, (4,))
    first, second = ConvKernel("1 linear - | 1 linear -").gram_pair(x)
    np.testing.assert_allclose(first, x @ x.T, rtol=1e-12)
    np.testing.assert_allclose(second, 3 * first, rtol=1e-12)


def test_tangent_kernel_dominates_the_kernel():
    """Their difference is itself a kernel."""
    first, second = ConvKernel("3 arccos1 avg2 | 3 exp(0.6) -").gram_pair(images(8))
    values = np.linalg.eigvalsh(second - first)
    assert values[0] > -1e-10 * values[-1]


# ------------------------------------------------------------------------------------------------------- the scales


@pytest.mark.parametrize(("text", "kind"), KERNELS)
@pytest.mark.parametrize(("a", "b"), [(2.5, 1.0), (3.0, 0.2), (1e-6, 1e-6), (1e6, 1e6), (1e-6, 1e6)])
def test_kernel_is_homogeneous_of_degree_one(text, kind, a, b):
    x, y = images(3), images(2, seed=1)
    kernel = ConvKernel(text, kind)
    np.testing.assert_allclose(kernel.gram(a * x, b * y), a * b * kernel.gram(x, y), rtol=1e-12)
    np.testing.assert_allclose(kernel.norm(a * x), a * kernel.norm(x), rtol=1e-7)


@each_kernel
def test_patches_of_zeros_map_to_zero(text, kind):
    x = images(4)
    x[:, :, :4] = 0
    x[1] = 0
    kernel = ConvKernel(text, kind)
    found = kernel.gram(x)
    assert np.isfinite(found).all()
    assert (found[1] == 0).all()
    assert kernel.norm(x)[1] == 0
    np.testing.assert_allclose(kernel.distance(x[:1], x[1:2]), kernel.norm(x[:1]), rtol=1e-12)


# ------------------------------------------------------------------------------------------------------- the inputs


@pytest.mark.parametrize("shape", [(3, 5, 9), (1, 9, 5), (2, 6, 6)])
def test_images_of_any_rectangle(shape):
    x = images(3, shape)
    kernel = ConvKernel("3 exp(0.6) gauss2 | 2 exp(0.6) -")
    turned = kernel.gram(x.swapaxes(2, 3))
    np.testing.assert_allclose(turned, kernel.gram(x), rtol=1e-12)  # square patches know no direction


def test_a_signal_is_an_image_whose_rows_are_all_equal():
    """On the torus: |S| counts the rows of a patch that repeat, the trace counts the rows of the image."""
    x = images(3, (2, 9))
    kernel = ConvKernel(Architecture.parse("3 exp(0.6) gauss2/1 | 2 arccos1 -", boundary="circular"))
    stacked = np.repeat(x[:, :, None, :], 4, axis=2)
    np.testing.assert_allclose(kernel.gram(stacked), 4 * kernel.gram(x), rtol=1e-12)


def test_rows_are_signals_of_one_position():
    x = images(4, (5,))
    kernel = ConvKernel("1 exp(0.6) - | 1 arccos1 -")
    np.testing.assert_array_equal(kernel.gram(x), kernel.gram(x[:, :, None]))
    np.testing.assert_allclose(kernel.gram(x), kernel.gram(x[:, :, None, None]), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_kind_and_dtype_of_results(kind, dtype):
    x = images(3).astype(np.float32)
    kernel = ConvKernel("3 exp(0.6) gauss2", kind)
    from_array = kernel.gram(x, dtype=dtype)
    from_tensor = kernel.gram(torch.from_numpy(x), dtype=dtype)
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, torch.Tensor)
    assert from_tensor.dtype == dtype
    np.testing.assert_array_equal(from_array, from_tensor.numpy())
    np.testing.assert_array_equal(kernel.gram(x.tolist(), dtype=dtype), from_array)
    assert kernel.diag(x, dtype=dtype).dtype == from_array.dtype


def test_float32_is_close_to_float64_also_from_float32_images():
    x = images(5).astype(np.float32)
    kernel = ConvKernel("3 exp(0.6) gauss2 | 3 arccos1 gauss2")
    np.testing.assert_allclose(kernel.gram(x, dtype=torch.float32), kernel.gram(x), rtol=1e-5)


def test_images_of_whole_numbers_are_read_as_such():
    x = np.random.RandomState(0).randint(0, 256, (4, 1, 6, 6))
    kernel = ConvKernel("3 exp(0.6) gauss2")
    expected = kernel.gram(x.astype(float))
    for dtype in (np.uint8, np.int32, np.int64):
        np.testing.assert_array_equal(kernel.gram(x.astype(dtype)), expected)


def test_inputs_are_left_as_they_were():
    x = images(4)
    kept = x.copy()
    kernel = ConvKernel(Architecture.parse("3 exp(0.6) gauss2 | 3 exp(0.6) -", sigma0=0.5))
    kernel.gram(x), kernel.distance(x, x[::-1]), kernel.diag(x)
    np.testing.assert_array_equal(x, kept)


def test_one_image_alone():
    x = images(1)
    for kind in ("ckn", "ntk"):
        kernel = ConvKernel("3 arccos1 avg2 | 3 arccos1 -", kind)
        assert kernel.gram(x).shape == (1, 1)
        np.testing.assert_allclose(kernel.gram(x)[0], kernel.diag(x), rtol=1e-7)
        assert kernel.gram(x, images(3)).shape == (1, 3)


# ---------------------------------------------------------------------------------------------------------- gradients

SMOOTH = ["3 exp(0.6) gauss2 | 2 poly2 -", "2 inverse avg2 | 2 vovk3 global"]


@pytest.mark.parametrize("text", SMOOTH)
@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_gradients_of_distances_and_norms(text, kind):
    kernel = ConvKernel(text, kind)
    x = torch.tensor(images(2, (1, 4, 4)), requires_grad=True)
    y = torch.tensor(images(2, (1, 4, 4), seed=1), requires_grad=True)
    assert torch.autograd.gradcheck(kernel.distance, (x, y))
    assert torch.autograd.gradcheck(kernel.norm, (x,))
    assert torch.autograd.gradcheck(kernel.diag, (x,))


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
@pytest.mark.parametrize("text", [*SMOOTH, "3 arccos1 avg2 | 2 arccos1 -"])
def test_gradients_are_finite_at_identical_inputs(text, kind):
    x = torch.tensor(images(2, (1, 5, 5)), requires_grad=True)
    ConvKernel(text, kind).distance(x, x.detach().clone()).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_gradients_are_finite_where_images_are_partly_or_wholly_zero(kind):
    values = images(3, (1, 6, 6))
    values[:, :, :3] = 0
    values[2] = 0
    kernel = ConvKernel("3 exp(0.6) gauss2 | 3 arccos1 -", kind)
    for function in (kernel.norm, lambda x: kernel.distance(x, torch.tensor(images(3, (1, 6, 6), seed=1)))):
        x = torch.tensor(values, requires_grad=True)
        function(x).sum().backward()
        assert torch.isfinite(x.grad).all()


# ---------------------------------------------------------------------------------------------- progress, cost, errors


def test_progress_is_told_to_the_end():
    x, steps = images(7), []
    kernel = ConvKernel("3 exp(0.6) gauss2")
    kernel.gram(x, memory=small_budget(kernel, x), progress=lambda done, total: steps.append((done, total)))
    assert len(steps) > 1
    assert steps == [(k, len(steps)) for k in range(1, len(steps) + 1)]


def test_a_long_job_says_its_cost_before_it_starts(monkeypatch, caplog):
    """220 images of 16 x 16 are enough to be probed; the first tile ends the test."""

    class StoppedError(Exception):
        pass

    def stop(done, total):
        raise StoppedError

    monkeypatch.setattr(gram, "LONG", 0.0)
    kernel, x = ConvKernel("3 linear -"), images(220, (1, 16, 16)).astype(np.float32)
    with caplog.at_level(logging.WARNING, logger="hilbertnet"), pytest.raises(StoppedError):
        kernel.gram(x, memory="10MB", progress=stop)
    assert len(caplog.records) == 1
    assert "220 x 220" in caplog.text
    assert "pairs of signals" in caplog.text
    caplog.clear()
    kernel.gram(x[:3])
    assert not caplog.records


@pytest.mark.parametrize("kind", ["CKN", "nkt", None])
def test_unknown_kind_is_refused(kind):
    with pytest.raises(ValueError, match="^kind: expected 'ckn' or 'ntk'"):
        ConvKernel("3 exp(0.6) -", kind)


def test_tangent_kernel_of_an_infinite_slope_is_refused():
    with pytest.raises(ValueError, match="layer 2"):
        ConvKernel("3 arccos1 - | 3 arccos0 -", "ntk")
    with pytest.raises(ValueError, match="arccos0"):
        ConvKernel("3 arccos0 -").gram_pair(images(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.gram(images(2, (3,))[:, 0]), "^X: "),
        (lambda k: k.gram(images(2), images(2, (1, 7, 9))), "^Y: expected shape"),
        (lambda k: k.gram(images(0)), "^X: expected at least one signal"),
        (lambda k: k.gram(images(2) * np.nan), "^X: expected finite numbers"),
        (lambda k: k.gram(images(2) + 1j), "^X: expected real numbers"),
        (lambda k: k.gram(images(2), dtype=torch.float16), "^dtype: "),
        (lambda k: k.gram(images(2), memory="lots"), "^memory: "),
        (lambda k: k.gram(images(2, (1, 2, 2))), "layer 1: expected a patch of at most 2"),
        (lambda k: k.distance(images(2), images(3)), "^y: expected 2 signals"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(ConvKernel("3 exp(0.6) gauss2"))


def test_architecture_may_be_text_and_nothing_else():
    arch = Architecture.parse("3 exp(0.6) gauss2")
    assert ConvKernel("3 exp(0.6) gauss2") == ConvKernel(arch)
    with pytest.raises(ValueError, match="^arch: "):
        ConvKernel(3)


def test_distances_of_many_signals_where_one_side_requires_a_gradient(generator):
    kernel = ConvKernel("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2")
    x, y = torch.rand(2, 120, 1, 8, 8, generator=generator, dtype=torch.float64).unbind(0)
    expected = kernel.distance(x, y)
    leaf = y.clone().requires_grad_()
    for found in (kernel.distance(x, leaf), kernel.distance(leaf, x)):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=0)
    kernel.distance(x, leaf).sum().backward()
    assert torch.isfinite(leaf.grad).all()
