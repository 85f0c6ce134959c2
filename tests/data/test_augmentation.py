"""Crops and mirror images: what they may do to an image, and how often."""

import pytest
import torch

from hilbertnet.data import Augmentation
from hilbertnet.data.augmentation import Crop, Flip

X = torch.arange(40 * 2 * 6 * 5, dtype=torch.float32).reshape(40, 2, 6, 5) + 1


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pad", [1, 2, 4, 7])
def test_a_crop_is_a_shift_with_zeros(pad):
    found = Crop(pad)(X, rng())
    padded = torch.nn.functional.pad(X, (pad,) * 4)
    for image, around in zip(found, padded, strict=True):
        windows = [around[:, i : i + 6, j : j + 5] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
        assert any(torch.equal(image, window) for window in windows)


def test_all_shifts_are_alike():
    x = torch.zeros(20_000, 1, 5, 5)
    x[:, :, 2, 2] = 1
    counts = Crop(2)(x, rng()).sum(0)[0]
    expected = 20_000 / 25
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_half_of_the_images_are_mirrored_whole():
    x = torch.rand(4000, 2, 3, 4, generator=rng(1))
    found = Flip()(x, rng())
    same = (found == x).flatten(1).all(1)
    mirrored = (found == x.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 2000) < 5 * 1000**0.5


@pytest.mark.parametrize("text", ["crop(3)", "flip", "crop(2) | flip", "flip | flip | crop(1)"])
def test_text_form_there_and_back_and_seeded(text):
    steps = Augmentation.parse(text)
    assert str(steps) == text
    assert torch.equal(steps(X, rng()), Augmentation.parse(text)(X, rng()))
    assert not torch.equal(steps(X, rng()), steps(X, rng(1)))
    before = X.clone()
    steps(X, rng())
    assert torch.equal(X, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crp", "did you mean 'crop'"),
        ("crop(0)", "whole number of pixels"),
        ("crop(1.5)", "whole number of pixels"),
        ("crop(1, 2)", "takes one number"),
        ("flip(1)", "takes nothing"),
        ("crop flip", "expected '|'"),
        ("", "a step such as"),
    ],
)
def test_typos_are_answered_with_their_place(text, message):
    with pytest.raises(ValueError, match="augmentation: .*\n?.*") as caught:
        Augmentation.parse(text)
    assert message in str(caught.value)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="x: expected images"):
        Augmentation.parse("flip")(X[0], rng())
