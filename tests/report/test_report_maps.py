"""What is shown of a network is what it computes."""

import numpy as np
import pytest
import torch

from hilbertnet.architecture.operators import extract_patches
from hilbertnet.estimators import CKNClassifier
from hilbertnet.networks import CKN
from hilbertnet.records import RunFolder
from hilbertnet.report import figures, maps
from hilbertnet.report.pictures import as_pixels, enlarge, filter_pixels, map_pixels, shrink, tile

IMAGES = torch.rand(9, 2, 10, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network() -> CKN:
    net = CKN("3 exp(0.6) gauss2 | 2 exp(0.6) -", 2, (6, 7), generator=0)
    return net.fit_filters_(IMAGES, patches=300, generator=0, progress=False).eval()


def naive(network: CKN, layer: int, below: torch.Tensor) -> torch.Tensor:
    patches = extract_patches(below, network.layers[layer].layer.patch, network.arch).flatten(2)
    return torch.einsum(
        "npu,fp->nfu", torch.nn.functional.normalize(patches, dim=1), network.layers[layer].filters.flatten(1)
    )


def test_use_and_nearest_are_by_angle(network):
    found = maps.observe(network, IMAGES, [0, 4])
    below = IMAGES
    for number, activity in enumerate(found):
        cosines = naive(network, number, below)
        counts = torch.bincount(cosines.argmax(1).flatten(), minlength=cosines.shape[1])
        np.testing.assert_allclose(activity.use, counts / counts.sum(), atol=0.01)
        assert abs(activity.use.sum() - 1) < 1e-12
        np.testing.assert_allclose(activity.cosine, cosines.amax(2), atol=1e-5)
        image, position = activity.nearest(2, 3)[0]
        flat = int(np.ravel_multi_index(position, activity.patched))
        np.testing.assert_allclose(cosines[image, 2, flat], cosines[:, 2].max(), atol=1e-5)
        assert len({image for image, _ in activity.nearest(2, 5)}) == 5
        below = network.layers[number](below)
        np.testing.assert_allclose(activity.maps, below[[0, 4]], atol=1e-5)
        np.testing.assert_allclose(activity.variance, below.double().var((0, 2, 3), correction=0), rtol=1e-4)


def test_batches_do_not_matter(network, monkeypatch):
    whole = maps.observe(network, IMAGES, [0, 4, 8])
    monkeypatch.setattr(maps, "_BATCH_BYTES", 1)
    for one, other in zip(whole, maps.observe(network, IMAGES, [0, 4, 8]), strict=True):
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-5)
        np.testing.assert_allclose(one.variance, other.variance, rtol=1e-4)
        np.testing.assert_allclose(one.use, other.use, atol=0.01)


def test_images_without_content_use_nothing(network):
    found = maps.observe(network, torch.zeros(2, 2, 10, 8), [0])
    for activity in found:
        assert activity.use.tolist() == [0.0] * len(activity.use)
        assert activity.nearest(0, 3) == []


# --- pictures


def test_other_channels_are_shown_as_their_mean():
    image = np.array([10, 20, 60, 90], np.uint8).reshape(1, 4, 1, 1)
    assert as_pixels(image)[0, 0, 0].tolist() == [45, 45, 45]
    assert as_pixels(image[:, :3])[0, 0, 0].tolist() == [10, 20, 60]
    assert as_pixels(image[:, 1:2])[0, 0, 0].tolist() == [20, 20, 20]


def test_filters_are_scaled_by_their_largest_entry():
    grey, scale = filter_pixels(np.array([[[[0.0, 0.5, 1.0]]], [[[0.0, 0.1, 0.2]]]]))
    assert grey[..., 0].tolist() == [[[0, 128, 255]], [[0, 128, 255]]]
    assert "black is zero" in scale
    signed, scale = filter_pixels(np.array([[[[-1.0, 0.0, 1.0]]]]))
    blue, white, red = signed[0, 0].tolist()
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert min(white) > 240
    assert "red is positive" in scale
    colour, scale = filter_pixels(np.array([[[[1.0]], [[0.0]], [[-1.0]]]]))
    assert colour[0, 0, 0].tolist() == [255, 128, 0]
    assert scale == "grey is zero"
    assert filter_pixels(np.zeros((2, 1, 3, 3)))[0].max() == 0


def test_maps_are_about_the_mean_of_their_channel():
    pixels = map_pixels(np.array([[[[5.0, 7.0]], [[1.0, 1.0]]]]))
    assert pixels.shape == (1, 2, 1, 2, 3)
    assert pixels[0, 0, 0, 0, 2] > pixels[0, 0, 0, 0, 0]
    assert pixels[0, 0, 0, 1, 0] > pixels[0, 0, 0, 1, 2]
    assert pixels[0, 1].min() > 240  # a channel that says nothing


def test_tiles():
    tiles = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1).repeat(3, axis=3) + 1
    whole = tile(tiles, 2)
    assert whole[..., 0].tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 0]]
    assert whole[..., 3].tolist() == [[255, 0, 255], [0, 0, 0], [255, 0, 0]]
    assert enlarge(tiles, 3, 2).shape == (3, 3, 2, 3)
    assert shrink(np.zeros((2, 40, 100, 3), np.uint8), 50).shape == (2, 20, 50, 3)
    assert shrink(tiles, 50) is tiles


def test_the_network_sees_preprocessed_samples(fitted_digits):
    run = RunFolder(fitted_digits)
    model, pictures = CKNClassifier.load(run.checkpoint_path), figures.read_pictures(run)
    plain = figures.look(model, pictures)
    model.preprocessing_ = lambda images: images * 2
    doubled = figures.look(model, pictures)
    for one, two in zip(plain.layers, doubled.layers, strict=True):  # layers are homogeneous
        np.testing.assert_allclose(2 * one.maps, two.maps, atol=1e-4)
    assert len({plain.labels[index] for index in plain.shown}) == 4
    np.testing.assert_array_equal(plain.pixels, doubled.pixels)
