"""Infinite MNIST against a scalar loop written from the rule's text, its own frozen digits, and warping."""

import hashlib

import numpy as np
import pytest
import torch

from hilbertnet.deformations import infinite_mnist, warp
from hilbertnet.deformations.contact_sheet import contact_sheet
from hilbertnet.deformations.digit_indices import LAST
from hilbertnet.deformations.infinite_mnist import InfiniteMNIST
from hilbertnet.deformations.published_digits import FIELDS_FILE, TANGENTS_FILE

HEIGHT, WIDTH = 6, 5
LARGE = (2**32 - 1, 2**32, 2**33 + 5, 2**40 + 12345, 2**53 + 1, 2**60 + 7, LAST - 1)


def bytes_(shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def floats(shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def small(count=6, digits=7, tests=3, **how):
    """Random digits with random components: every pixel matters."""
    how.setdefault("fields", 3 * floats((count, HEIGHT, WIDTH), 1))
    how.setdefault("tangents", 20 * floats((digits, 2, HEIGHT, WIDTH), 2))
    return InfiniteMNIST(
        images=bytes_((digits, HEIGHT, WIDTH), 3), labels=np.arange(digits),
        test_images=bytes_((tests, HEIGHT, WIDTH), 4), test_labels=10 + np.arange(tests), **how,
    )  # fmt: skip


def made(digits=12, side=8, **how):
    return InfiniteMNIST(images=bytes_((digits, side, side), 5), labels=np.arange(digits) % 10, **how)


def moved(image, down, right):
    """Shift a list of rows, pixel by pixel; zeros come in."""
    height, width = len(image), len(image[0])
    out = [[0] * width for _ in range(height)]
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                out[i][j] = image[i - down][j - right]
    return out


OPTIONS = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)]


def by_hand(i, x, fields, tangents, tests, alpha, translate, shift=moved):
    """One digit of the uint8 form, in whole numbers of any size and single float32 numbers."""
    digits, count = len(x) - tests, len(fields)
    if i < len(x):
        return x[i].tolist()
    a = (i - tests) % digits
    k1 = ((i % 2**32) * 131071 % 2**32) % (count - 1)
    k2 = (k1 + 1 + 2 * i) % count
    s = np.float32(-alpha if (k1 + k2) % 2 else alpha)
    out = [[0] * x.shape[2] for _ in range(x.shape[1])]
    for r in range(x.shape[1]):
        for c in range(x.shape[2]):
            change = fields[k1, r, c] * tangents[a, 0, r, c] - fields[k2, r, c] * tangents[a, 1, r, c]
            value = np.float32(x[tests + a, r, c]) + s * change
            out[r][c] = int(min(max(value, np.float32(0)), np.float32(255)))
    return shift(out, *OPTIONS[k1 % 9]) if translate else out


@pytest.mark.parametrize("translate", [False, True])
@pytest.mark.parametrize("count", [2, 5, 6])
def test_the_rule(count, translate):
    digits = small(count, alpha=0.7, translate=translate, form="uint8")
    indices = [*range(120), *LARGE]
    x = np.concatenate((bytes_((3, HEIGHT, WIDTH), 4), bytes_((7, HEIGHT, WIDTH), 3)))
    found, labels = digits.batch(indices)
    assert found.dtype == torch.uint8
    assert found.shape == (len(indices), 1, HEIGHT, WIDTH)
    for i, image, label in zip(indices, found, labels.tolist(), strict=True):
        expected = by_hand(i, x, digits.components.fields, digits.components.tangents, 3, 0.7, translate)
        assert image[0].tolist() == expected, i
        assert label == (10 + i if i < 3 else (i - 3) % 7), i


def test_many_at_once_and_one_by_one():
    digits = small(count=1522, translate=True)
    indices = np.random.RandomState(0).randint(0, 2**60, 700)
    indices[::3] %= 10  # among them digits that are not deformed, in all pieces
    x, y = digits.batch(indices)
    for i in (0, 1, 255, 256, 511, 699):
        image, label = digits[int(indices[i])]
        assert torch.equal(image, x[i])
        assert label == y[i]
    assert digits.batch([])[0].shape == (0, 1, HEIGHT, WIDTH)


def test_the_two_forms_agree():
    indices = np.arange(200)
    exact = 255 * small(dtype=torch.float64).batch(indices)[0]
    single, truncated = 255 * small().batch(indices)[0], small(form="uint8").batch(indices)[0]
    assert exact.dtype == torch.float64
    assert (single - exact).abs().max() < 1e-3
    near = (exact - exact.round()).abs() < 1e-3  # where rounding may decide
    assert torch.equal(truncated[~near].double(), exact[~near].floor())


def test_the_deformation_alone():
    digits = small(alpha=1.3, clip=False, translate=False, dtype=torch.float64)
    indices = [0, 5, 10, 11, 77, 2**40]
    x, _ = digits.batch(indices)
    originals, _ = digits.batch([0, 5, *(3 + (i - 3) % 7 for i in indices[2:])])
    direction = digits.tangent(indices)
    assert torch.allclose(x - originals, direction, atol=1e-12)
    assert not direction[:2].any()
    assert (direction[2:].flatten(1).norm(dim=1) > 0).all()
    assert torch.equal(digits.at(2.6).tangent(indices), 2 * direction)
    assert torch.equal(small(alpha=1.3, translate=True, dtype=torch.float64).tangent(indices), direction)


def test_the_field_warps_alike():
    """On smooth images the rule is the first order of warping by `field`."""
    rows, columns = np.mgrid[:32, :32]
    bumps = [np.exp(-((rows - a) ** 2 + (columns - b) ** 2) / 60) for a, b in ((15, 14), (12, 18), (20, 16))]
    digits = InfiniteMNIST(
        0.05, images=np.array(bumps), labels=[0, 1, 2], clip=False, dtype=torch.float64, published=False
    )  # fmt: skip
    indices = digits.index([0, 1, 2], [[1], [2], [9]]).reshape(-1)
    originals = digits.batch(digits.index([0, 1, 2] * 3, 0))[0]
    change = warp(originals, digits.field(indices), interpolation="cubic") - originals
    error = (digits.tangent(indices) - change).flatten(1).norm(dim=1) / change.flatten(1).norm(dim=1)
    assert error.max() < 0.05
    assert not digits.field([0, 2]).any()


def test_the_size_of_the_field_is_the_calibration():
    digits = made(side=28)
    tau = digits.field(digits.index(0, np.arange(1, 400)))
    sup = (tau**2).sum(1).amax((1, 2)).sqrt()
    assert abs(float(sup.mean()) - 1) < 0.05
    assert torch.equal(digits.at(0.5).field([100]), digits.field([100]) / 2)


def sums(batch):
    return hashlib.blake2b(batch.numpy().tobytes(), digest_size=8).hexdigest()


def test_the_same_for_ever():
    """Whole numbers only: should one of these change, digits that users have referred to by index have changed."""
    grey = np.add.outer(np.add.outer(37 * np.arange(9), 11 * np.arange(10) ** 2), 5 * np.arange(8) ** 3) % 256
    indices = [*range(40), *LARGE]
    for (seed, translate), frozen in FROZEN.items():
        digits = InfiniteMNIST(
            2.0, translate, "uint8", images=grey.astype(np.uint8), labels=np.arange(9), seed=seed
        )  # fmt: skip
        assert sums(digits.batch(indices)[0]) == frozen


FROZEN = {(0, False): "99d28303e5573ff3", (0, True): "fcb13e794b76b72d", (7, False): "95b529eb3e9deeea"}


def test_copies_have_their_indices():
    digits = small()
    assert digits.index(4, 0) == 7
    assert digits.index([0, 6], [[0], [2]]).tolist() == [[3, 9], [17, 23]]
    x, y = digits.batch(digits.index(4, np.arange(5)))
    assert (y == 4).all()
    assert len({sums(image) for image in x}) == 5


def test_another_alpha_shares_everything():
    digits = small(form="uint8")
    assert torch.equal(digits.at(0).batch([50])[0], digits.batch(digits.index((50 - 3) % 7, [0]))[0])
    assert digits.at(0.2)._pixels is digits._pixels
    assert digits.alpha == 1


def test_in_a_torch_loader():
    digits = small()
    loader = torch.utils.data.DataLoader(digits, batch_size=4, sampler=[3, 50, 2**40, 8, 90])
    (x, y), (rest, _) = list(loader)
    expected = digits.batch([3, 50, 2**40, 8])
    assert torch.equal(x, expected[0])
    assert torch.equal(y, expected[1])
    assert torch.equal(rest, digits.batch([90])[0])
    assert len(digits) == LAST


def test_float_images_stay_what_they_are():
    x = np.random.RandomState(0).rand(4, 1, 5, 5)
    digits = InfiniteMNIST(images=x, labels=[0, 1, 2, 3])
    assert np.allclose(digits.batch(range(4))[0].numpy(), x, atol=1e-7)
    grey = (bytes_((4, 5, 5)) / 255).astype(np.float32)
    whole = InfiniteMNIST(images=torch.from_numpy(grey), labels=torch.arange(4))
    assert whole._pixels.dtype == np.uint8
    assert np.array_equal(whole.batch(range(4))[0].numpy()[:, 0], grey)


def by_the_program(image, down, right):
    """What the published program does to a flat image: see `shift_tables`."""
    height, width = len(image), len(image[0])
    rows = moved(image, down, 0)
    flat = [pixel for row in rows for pixel in row]
    if right == -1:
        flat = [flat[p + 1] if p + 1 < len(flat) else 0 for p in range(len(flat))]
        flat = [0 if p % width == 0 else pixel for p, pixel in enumerate(flat)]
    elif right == 1:
        flat = [flat[p - 1] if p else 0 for p in range(len(flat))]
        flat = [0 if p % width == 1 else pixel for p, pixel in enumerate(flat)]
    return [flat[width * r : width * (r + 1)] for r in range(height)]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The two files, for five digits in place of the 60,000 of MNIST."""
    x, test = bytes_((5, 28, 28), 6), bytes_((2, 28, 28), 7)
    monkeypatch.setattr(infinite_mnist, "mnist_digits", lambda *_: (x, np.arange(5), test, np.arange(2)))
    folder = tmp_path / "infimnist"
    folder.mkdir()
    fields, tangents = 3 * floats((1522, 28, 28), 8), 20 * floats((5, 2, 28, 28), 9)
    fields.astype("<f4").tofile(folder / FIELDS_FILE)
    tangents.astype("<f4").tofile(folder / TANGENTS_FILE)
    monkeypatch.setenv("HILBERTNET_DATA", str(tmp_path))
    return folder, np.concatenate((test, x)), fields, tangents


@pytest.mark.parametrize("translate", [False, True])
def test_published_files(published, translate):
    folder, x, fields, tangents = published
    digits = InfiniteMNIST(1.5, translate, "uint8")
    assert digits.components.origin == "published"
    assert isinstance(digits.components.tangents, np.memmap)
    indices = [*range(12), 70_000, 2**40 + 1, LAST - 1]
    for i, image in zip(indices, digits.batch(indices)[0], strict=True):
        assert image[0].tolist() == by_hand(i, x, fields, tangents, 2, 1.5, translate, by_the_program), i
    assert "1,522 components published" in repr(InfiniteMNIST(folder=folder))
    assert InfiniteMNIST(published=False).components.origin == "made here"
    with pytest.raises(ValueError, match="field: expected tangent images made here, got published"):
        digits.field([100])


def test_published_files_that_are_wrong(published):
    folder = published[0]
    tangents = np.fromfile(folder / TANGENTS_FILE, "<f4")
    tangents[3 * 2 * 784] = np.nan
    tangents.tofile(folder / TANGENTS_FILE)
    digits = InfiniteMNIST()
    digits.batch(digits.index([0, 1, 2, 4], 1))  # the file is not read whole
    with pytest.raises(ValueError, match=f"{TANGENTS_FILE}: expected finite numbers, got NaN or infinity in number 3"):
        digits.batch(digits.index([0, 3], 1))
    tangents[:-1].tofile(folder / TANGENTS_FILE)
    with pytest.raises(ValueError, match=r"tangVec.*: expected 31,360 bytes, 5 x 2 x 28 x 28 .* the file has 31,356"):
        InfiniteMNIST()
    (folder / TANGENTS_FILE).unlink()
    with pytest.raises(ValueError, match=f"{TANGENTS_FILE}: not found beside the other file of Infinite MNIST"):
        InfiniteMNIST()
    (folder / FIELDS_FILE).unlink()
    assert InfiniteMNIST().components.origin == "made here"
    with pytest.raises(ValueError, match="published: expected fields_float.*found neither"):
        InfiniteMNIST(published=True)
    with pytest.raises(ValueError, match="folder: expected fields_float.*found neither"):
        InfiniteMNIST(folder=folder)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"alpha": -0.1}, "alpha: expected a finite number of at least 0, got -0.1"),
        ({"alpha": float("nan")}, "alpha: expected a finite number of at least 0, got nan"),
        ({"alpha": "1"}, "alpha: expected a finite number of at least 0, got '1'"),
        ({"form": "bytes"}, "form: expected 'float' or 'uint8', got 'bytes'"),
        ({"form": "uint8", "dtype": torch.float64}, "dtype: expected torch.float32"),
        ({"dtype": torch.float16}, "dtype: expected torch.float32"),
        ({"seed": -1}, "seed: expected a whole number from 0 to"),
        ({"fields": floats((5, 4, 5))}, r"fields: expected numbers of shape \(m, 6, 5\) with m of at least 2, got"),
        ({"fields": floats((1, 6, 5))}, r"fields: expected numbers of shape \(m, 6, 5\) with m of at least 2, got"),
        ({"fields": np.full((4, 6, 5), np.inf)}, "fields: expected finite numbers, got NaN or infinity in number 0"),
        ({"fields": "no such file"}, "no such file: expected a file of float32 numbers"),
        ({"tangents": floats((6, 2, 6, 5))}, r"tangents: expected numbers of shape \(7, 2, 6, 5\), got shape"),
        ({"published": True}, "published, folder: the published files belong to MNIST alone"),
    ],
)  # fmt: skip
def test_bad_arguments(how, message):
    with pytest.raises(ValueError, match=message):
        small(**how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"images": bytes_((5, 4)), "labels": [0] * 5}, r"images: expected grey images .* got shape \(5, 4\)"),
        ({"images": bytes_((5, 3, 4, 4)), "labels": [0] * 5}, r"images: expected grey images .* shape \(5, 3, 4, 4\)"),
        ({"images": bytes_((5, 1, 1)), "labels": [0] * 5}, "images: expected grey images .* at least 2 x 2"),
        ({"images": np.full((2, 3, 3), 1.5), "labels": [0, 1]}, "images: expected uint8, or numbers from 0 to 1, got"),
        ({"images": np.full((2, 3, 3), np.nan), "labels": [0, 1]}, "images: expected uint8, or numbers from 0 to 1"),
        ({"images": np.ones((2, 3, 3), int), "labels": [0, 1]}, "images: expected uint8, .* got dtype int64"),
        ({"images": bytes_((5, 4, 4))}, "images, labels: expected both or neither"),
        ({"images": bytes_((5, 4, 4)), "labels": [0] * 4}, "labels: expected 5 whole numbers, one for each image"),
        ({"images": bytes_((5, 4, 4)), "labels": [0.5] * 5}, "labels: expected 5 whole numbers, one for each image"),
        ({"labels": [0] * 5}, "images: expected training digits with labels"),
        (
            {"images": bytes_((5, 4, 4)), "labels": [0] * 5, "test_images": bytes_((5, 4, 5)), "test_labels": [0] * 5},
            r"test_images: expected shape \(m, 4, 4\), got \(5, 4, 5\)",
        ),
        ({"images": bytes_((5, 4, 4)), "labels": [0] * 5, "test_labels": [0] * 5}, "test_images, test_labels: expe"),
    ],
)  # fmt: skip
def test_bad_digits(how, message):
    with pytest.raises(ValueError, match=message):
        InfiniteMNIST(**how)


@pytest.mark.parametrize(
    ("indices", "got"),
    [([3, -1], "got -1"), ([LAST], "got 2305843009213693952"), ([10**30], "got numbers beyond 64 bits"),
     ([1.5], "got dtype float64"), ([True], "got dtype bool"), ([[1]], r"shape \(1, 1\)"), (["a"], "got dtype <U1")],
)  # fmt: skip
def test_bad_indices(indices, got):
    digits = small()
    for method in (digits.batch, digits.tangent):
        with pytest.raises(ValueError, match=f"indices: expected whole numbers from 0 to .*{got}"):
            method(indices)
    with pytest.raises(ValueError, match="indices: expected whole numbers from 0 to .*got -5"):
        digits[-5]
    with pytest.raises(ValueError, match="digit: expected whole numbers from 0 to 6, got 7"):
        digits.index(7, 1)
    with pytest.raises(ValueError, match="alpha: expected a finite number"):
        digits.at(-1)


def test_contact_sheet():
    digits = small(form="float")
    sheet = contact_sheet(digits, [2, 5], (0, 1, 2), copies=4, gap=3)
    assert sheet.shape == (2 * HEIGHT + 3, 3 * WIDTH + 6)
    cell = sheet[HEIGHT + 3 :, WIDTH + 3 : 2 * WIDTH + 3]
    assert np.allclose(cell, digits[int(digits.index(5, 4))][0][0].numpy())
    assert np.allclose(sheet[:HEIGHT, :WIDTH], digits[int(digits.index(2, 0))][0][0].numpy())
    assert (sheet[HEIGHT : HEIGHT + 3] == 0.5).all()
    assert contact_sheet(small(form="uint8"), gap=0).shape == (7 * HEIGHT, 5 * WIDTH)
    for how, message in (
        ({"alphas": ()}, "alphas: expected at least one"),
        ({"copies": 0}, "copies: expected a whole"),
    ):
        with pytest.raises(ValueError, match=message):
            contact_sheet(digits, **how)


def test_mnist(data_folder):
    digits = InfiniteMNIST(published=False)
    x, y = digits.batch([0, 9_999, 10_000, 69_999, 70_000, 10_000 + 60_000 * 10**6])
    assert y.tolist() == [7, 6, 5, 8, 5, 5]
    ink = x.sum((1, 2, 3))
    assert torch.allclose(ink[4:], ink[2].expand(2), rtol=0.1)
    indices = digits.index(np.arange(0, 60_000, 60), 1)
    originals = digits.batch(digits.index(np.arange(0, 60_000, 60), 0))[0]
    distance = (digits.batch(indices)[0] - originals).flatten(1).norm(dim=1) / originals.flatten(1).norm(dim=1)
    assert 0.1 < distance.mean() < 0.25  # a one-pixel shift moves a digit by 0.6
