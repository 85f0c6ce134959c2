"""Preprocessing against loops over patches and closed forms."""

import numpy as np
import pytest
import torch

from hilbertnet.data import ZCA, ContrastNormalization, PatchWhitening, Preprocessing
from hilbertnet.text import TextFormError


def images(n=3, channels=3, height=7, width=9, dtype=torch.float64, seed=0):
    x = torch.rand(n, channels, height, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return (x + x.roll(1, -1) + x.roll(1, -2)) / 3  # neighbours are alike, as in pictures


def average(patches, shape, p):
    """Image (channels, height, width) from patches by position, averaged where they overlap."""
    total, count = np.zeros(shape), np.zeros(shape)
    for (i, j), patch in patches.items():
        total[:, i : i + p, j : j + p] += patch
        count[:, i : i + p, j : j + p] += 1
    return total / count


def whiten_by_loops(image, p, cut):
    _, height, width = image.shape
    places = [(i, j) for i in range(height - p + 1) for j in range(width - p + 1)]
    patches = {}
    for i, j in places:
        patch = image[:, i : i + p, j : j + p]
        patches[i, j] = np.stack([channel - channel.mean() for channel in patch])
    image = average(patches, image.shape, p)
    patches = {(i, j): image[:, i : i + p, j : j + p] for i, j in places}
    total = sum(np.outer(patch, patch) for patch in patches.values())
    values, vectors = np.linalg.eigh(total)
    matrix = np.zeros_like(total)
    for value, vector in zip(values, vectors.T, strict=True):
        if value > cut * values.max():
            matrix += value ** (-1 / 4) * np.outer(vector, vector)
    patches = {place: (matrix @ patch.ravel()).reshape(patch.shape) for place, patch in patches.items()}
    return average(patches, image.shape, p)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch", [2, 3, 4])
def test_whitening_is_a_loop_over_patches(channels, patch):
    x = images(channels=channels)
    expected = np.stack([whiten_by_loops(image, patch, 1e-8) for image in x.numpy()])
    assert PatchWhitening(patch)(x).numpy() == pytest.approx(expected, abs=1e-10)


def test_whitening_drops_what_is_below_the_cut():
    x = images(n=2)
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    for cut in (1e-8, 1e-4, 0.1):
        expected = np.stack([whiten_by_loops(image, 3, cut) for image in x.numpy()])
        assert PatchWhitening(3, cut)(x).numpy() == pytest.approx(expected, abs=1e-7)
    assert not torch.allclose(PatchWhitening(3, 0.1)(x), PatchWhitening(3, 1e-4)(x))


def test_patches_of_one_pixel_and_flat_images_become_zero():
    assert PatchWhitening(1)(images()).abs().max() == 0
    for value in (0.0, 0.1, 1.0):
        for dtype in (torch.float32, torch.float64):
            assert PatchWhitening()(torch.full((2, 3, 8, 8), value, dtype=dtype)).abs().max() == 0


def test_whitening_is_homogeneous_of_degree_one_half_and_ignores_the_mean():
    x = images()
    once = PatchWhitening()(x)
    assert torch.allclose(PatchWhitening()(4 * x + 0.7), 2 * once, atol=1e-9)


def test_one_grey_image_in_three_channels_is_not_torn_apart():
    x = images(channels=1).expand(-1, 3, -1, -1).contiguous()
    y = PatchWhitening()(x)
    assert torch.allclose(y[:, 0], y[:, 1], atol=1e-9)
    assert torch.allclose(y[:, 0], y[:, 2], atol=1e-9)


STEPS = [PatchWhitening(), ContrastNormalization(), ZCA(1e-2).fit(images(30))]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_batches_dtypes_and_places_make_no_difference(step):
    x = images(10)
    y = step(x)
    assert y.dtype == torch.float64
    assert torch.allclose(step(x, batch=3), y, atol=1e-10)
    single = step(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), y, atol=2e-5)
    copy = x.clone()
    found = step(copy, inplace=True, batch=4)
    assert found is copy
    assert torch.allclose(copy, y, atol=1e-10)


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("x", [images()[0], images()[:0], (images() * 255).to(torch.uint8), images().half()])
def test_what_are_no_images_is_refused(step, x):
    with pytest.raises(ValueError, match="x: expected images"):
        step(x)


def test_contrast_is_mean_and_deviation():
    x = images()
    y = ContrastNormalization(0.0)(x).flatten(1)
    assert y.mean(1) == pytest.approx(0, abs=1e-12)
    assert y.square().mean(1).numpy() == pytest.approx(1, abs=1e-12)
    flat = x.flatten(1)
    biased = ContrastNormalization(0.01)(x).flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 0.01).sqrt()
    assert torch.allclose(biased, expected, atol=1e-12)
    for bias in (0.0, 1e-4):
        assert ContrastNormalization(bias)(torch.full((2, 3, 5, 5), 0.1)).abs().max() < 1e-12


@pytest.mark.parametrize("batch", [7, 1000])
def test_zca_has_the_covariance_that_it_should(batch):
    x, bias = images(400, 1, 4, 5), 1e-3
    y = ZCA(bias).fit(x, batch=batch)(x).flatten(1).numpy()
    flat = x.flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    assert y.mean(0) == pytest.approx(0, abs=1e-10)
    assert np.cov(y.T, bias=True) == pytest.approx((vectors * (values / (values + bias))) @ vectors.T, abs=1e-9)


def test_zca_with_hardly_any_bias_whitens():
    x = images(400, 1, 4, 5)
    y = ZCA(1e-12).fit(x)(x).flatten(1).numpy()
    assert np.cov(y.T, bias=True) == pytest.approx(np.eye(20), abs=1e-6)


def test_zca_knows_its_training_images_only():
    train, test = images(50, seed=1), images(20, seed=2)
    step = ZCA().fit(train)
    before = step.mean.clone(), step.matrix.clone()
    first = step(test)
    assert torch.equal(step.mean, before[0])
    assert torch.equal(step.matrix, before[1])
    assert torch.allclose(step(torch.cat([test[:3], 5 * test]))[:3], first[:3], atol=1e-8)
    flat = train.flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    matrix = (vectors * (np.maximum(values, 0) + 1e-4) ** -0.5) @ vectors.T
    expected = (test.flatten(1).numpy() - flat.mean(0)) @ matrix
    assert first.flatten(1).numpy() == pytest.approx(expected, abs=1e-8)


def test_zca_says_what_is_wrong(monkeypatch):
    with pytest.raises(ValueError, match="zca: fit it on training images first"):
        ZCA()(images())
    with pytest.raises(ValueError, match="x: expected two images or more to fit, got 1"):
        ZCA().fit(images(1))
    with pytest.raises(ValueError, match=r"x: expected images of shape \(3, 7, 9\), got \(3, 7, 8\)"):
        STEPS[2](images(width=8))
    monkeypatch.setattr("hilbertnet.data.memory._machine_memory", lambda: 1000.0)
    with pytest.raises(ValueError, match="zca: 6 x 189 x 189 numbers take .*whiten patches instead"):
        ZCA().fit(images())


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("whiten", "whiten(3)"),
        ("whiten(5, 1e-16)", "whiten(5, 1e-16)"),
        ("contrast|zca", "contrast(0.00015) | zca(0.0001)"),
        (" contrast( 0 ) | whiten(2) | zca(1e-3) ", "contrast(0) | whiten(2) | zca(0.001)"),
    ],
)
def test_a_text_form_is_read_back(text, canonical):
    assert str(Preprocessing.parse(text)) == canonical
    assert str(Preprocessing.parse(canonical)) == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a step such as whiten, contrast or zca, got the end"),
        ("whitn", "unknown step 'whitn'; did you mean 'whiten'"),
        ("whiten(0)", "patch: expected a side of at least 1, got 0"),
        ("whiten(2.5)", "patch: expected a whole number, got 2.5"),
        ("whiten(3, 2)", r"cut: expected a share in \(0, 1\), got 2.0"),
        ("whiten(3, 0.1, 4)", "whiten takes at most 2 numbers"),
        ("zca(0)", "bias: expected a positive number"),
        ("zca(x)", "zca takes at most 1 number"),
        ("contrast(-1)", "bias: expected a number of at least 0"),
        ("zca |", "expected a step"),
        ("zca zca", "expected '|' or the end of the text"),
    ],
)
def test_a_typo_is_pointed_at(text, message):
    with pytest.raises(TextFormError, match=message):
        Preprocessing.parse(text)


def test_steps_are_fitted_one_after_the_other():
    train, test = images(60, dtype=torch.float32), images(5, seed=9, dtype=torch.float32)
    kept = train.clone()
    whole = Preprocessing.parse("contrast | zca(1e-2) | whiten").fit(train)
    assert torch.equal(train, kept)
    contrast, whiten = ContrastNormalization(), PatchWhitening()
    zca = ZCA(1e-2).fit(contrast(train))
    assert torch.allclose(whole(test), whiten(zca(contrast(test))), atol=1e-5)
    assert torch.equal(whole(train[:5]), Preprocessing.from_tensors(str(whole), whole.tensors())(train[:5]))


def test_arrays_in_arrays_out():
    x = images(20, dtype=torch.float32)
    steps = Preprocessing.parse("contrast | zca(1e-2)").fit(x.numpy())
    y = steps(x.numpy())
    assert isinstance(y, np.ndarray)
    assert y.dtype == np.float32
    assert np.array_equal(y, steps(x).numpy())
    assert steps((x.numpy() * 255).astype(np.uint8)).dtype == np.float64
    copy = x.numpy().copy()
    steps(copy, inplace=True)
    assert copy == pytest.approx(y, abs=1e-5)
    copy.flags.writeable = False
    for wrong in (copy, x.numpy().astype(np.uint8), x.numpy()[:, :, :, ::2]):
        with pytest.raises(ValueError, match="x: expected a writable contiguous array of float32 or float64"):
            steps(wrong, inplace=True)


def test_missing_tensors_are_refused():
    with pytest.raises(ValueError, match="preprocessing: expected the mean and matrix of step 1, zca"):
        Preprocessing.from_tensors("whiten | zca", {"0.mean": torch.zeros(1, 2, 2)})
    assert Preprocessing.parse("zca").tensors() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    x = images(40)
    x[33, 1, 2, 3] = value
    for step in (*STEPS, Preprocessing.parse("contrast")):
        with pytest.raises(ValueError, match="x: expected finite numbers, got others in image 33"):
            step(x)
    with pytest.raises(ValueError, match="in image 33"):
        ZCA().fit(x, batch=7)


@pytest.mark.parametrize("x", [np.array([["a"]]), np.zeros((2, 1, 3, 3), complex), np.zeros((2, 9))])
def test_arrays_of_anything_else_are_refused(x):
    for call in (Preprocessing.parse("whiten"), Preprocessing.parse("zca").fit):
        with pytest.raises(ValueError, match="x: expected (real numbers|images)"):
            call(x)


def test_many_images_need_no_second_copy():
    x = images(3000, 1, 8, 8, dtype=torch.float32)
    steps = Preprocessing.parse("zca | contrast | whiten")
    made = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append(result.numel() if result.data_ptr() != x.data_ptr() else 0)
            return result

    with Watch():
        steps.fit(x)
        found = steps(x, inplace=True)
    assert found is x
    assert 0 < max(made) <= 1024 * 64
    assert steps(x.numpy(), inplace=True).ctypes.data == x.data_ptr()
