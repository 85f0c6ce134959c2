"""Components and tangent images of Infinite MNIST, where they are made here."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from hilbertnet.deformations.components import image_tangents, made_fields, mean_sup, shift_tables, sup_at_one
from hilbertnet.records import digest


def test_fields_are_calibrated():
    assert mean_sup(made_fields(28, 28)) == pytest.approx(1, abs=1e-3)
    assert mean_sup(made_fields(8, 8)) == pytest.approx(8 / 28, abs=1e-3)
    assert sup_at_one(8, 8) == pytest.approx(8 / 28)
    fields = made_fields(12, 20, seed=3, count=50)
    pairs = [np.hypot(one, other).max() for one, other in itertools.pairwise(fields)]
    assert np.mean(pairs) == pytest.approx(np.sqrt(240) / 28, abs=1e-3)


def test_fields_are_stationary_and_gaussian_smooth():
    """White noise smoothed by a Gaussian of standard deviation s has the correlation exp(-d^2 / (4 s^2))."""
    fields = made_fields(28, 28).astype(np.float64)
    variance = (fields**2).mean(0)
    assert variance.std() / variance.mean() < 0.1  # the sampling error of 1,522 fields is 0.04
    assert abs(fields.mean()) < 0.03 * fields.std()
    for lag in (2, 4, 8):
        along_rows = (fields[:, lag:] * fields[:, :-lag]).mean() / variance.mean()
        along_columns = (fields[:, :, lag:] * fields[:, :, :-lag]).mean() / variance.mean()
        assert along_rows == pytest.approx(np.exp(-(lag**2) / 64), abs=0.03)
        assert along_columns == pytest.approx(np.exp(-(lag**2) / 64), abs=0.03)


def test_fields_never_change():
    assert digest((4096 * made_fields(28, 28)).astype(np.int32)) == FROZEN
    assert not np.array_equal(made_fields(8, 8), made_fields(8, 8, seed=1))
    with pytest.raises(ValueError, match="read-only"):
        made_fields(8, 8)[0] = 0


FROZEN = "a3efa5c6a9e9fab1a137b06373ffb595"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tangents_are_sobels(dtype):
    x = np.random.RandomState(0).randint(0, 256, (3, 7, 9)).astype(dtype)
    found = image_tangents(x)
    assert found.dtype == dtype
    for axis in (1, 2):
        expected = [ndimage.sobel(image.astype(np.float64), axis - 1, mode="constant") / 8 for image in x]
        assert np.array_equal(found[axis - 1], expected)


def test_tangents_of_a_ramp_are_its_slopes():
    rows, columns = np.mgrid[:9, :8].astype(np.float64)
    tangents = image_tangents((3 * rows - 2 * columns)[None])[:, 0, 1:-1, 1:-1]
    assert np.array_equal(tangents, np.stack([np.full((7, 6), 3.0), np.full((7, 6), -2.0)]))


def test_shifts():
    image = np.arange(1, 13.0).reshape(3, 4)
    padded = np.pad(image, 1)
    found = np.append(image, 0)[shift_tables(3, 4, False)].reshape(9, 3, 4)
    moves = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)]
    for option, (down, right) in zip(found, moves, strict=True):
        assert np.array_equal(option, padded[1 - down : 4 - down, 1 - right : 5 - right])


def test_published_shifts_differ_at_the_edges_alone():
    image = np.random.RandomState(0).rand(6, 7)
    clean, published = (np.append(image, 0)[shift_tables(6, 7, edges)].reshape(9, 6, 7) for edges in (False, True))
    assert np.array_equal(clean[:, :, 2:-1], published[:, :, 2:-1])
    assert np.array_equal(clean[[0, 1, 8]], published[[0, 1, 8]])
    assert not np.array_equal(clean, published)
    inside = np.where(np.pad(np.ones((6, 3), bool), ((0, 0), (2, 2))), image, 0)
    assert np.array_equal(*(np.append(inside, 0)[shift_tables(6, 7, edges)] for edges in (False, True)))
