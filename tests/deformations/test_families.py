"""Families of deformations: directions on the screen, norms in closed form, statistics of random fields, text forms."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from hilbertnet.deformations import (
    BandLimitedField,
    GaussianField,
    Rotation,
    Scaling,
    Shear,
    SplineField,
    Translation,
    Zoom,
    displacement_norm,
    folds,
    gradient_norm,
    jacobian,
    warp,
)

SMOOTH = [GaussianField(2), BandLimitedField(3), SplineField(6)]
SMOOTH += [dataclasses.replace(family, norm="displacement") for family in SMOOTH]
FIXED = [
    Translation("right"),
    Translation(200.0),
    Rotation(),
    Zoom(),
    Zoom("out"),
    Scaling(),
    Scaling("vertical"),
    Shear(),
]
RANDOM = [Translation(), Rotation("random"), Zoom("random"), Scaling(direction="random"), Shear("random"), *SMOOTH]
EVERY = FIXED + RANDOM
SIGNALS = [Translation(), Translation("left"), Translation(180), Zoom(), Zoom("random", (3,)), Scaling(), *SMOOTH]


def images(n=2, side=9):
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def where_to(family, size, row, column, space=(15, 17)):
    """Where the picture of one blob at a pixel goes, to half a pixel."""
    r, c = torch.meshgrid(*[torch.arange(n).double() for n in space], indexing="ij")
    blob = torch.exp(-((r - row) ** 2 + (c - column) ** 2) / 4)[None, None]
    found = warp(blob, family.field(size, 1, space, generator=0), interpolation="cubic")[0, 0]
    return divmod(int(found.argmax()), space[1])


# --- directions on the screen (row 0 is the top; the middle is row 7, column 8)


@pytest.mark.parametrize(
    ("family", "size", "before", "after"),
    [
        (Translation("right"), 3, (7, 8), (7, 11)),
        (Translation("left"), 3, (7, 8), (7, 5)),
        (Translation("up"), 3, (7, 8), (4, 8)),
        (Translation("down"), 3, (7, 8), (10, 8)),
        (Translation(90), 3, (7, 8), (4, 8)),
        (Translation(-45), 3 * math.sqrt(2), (7, 8), (10, 11)),
        (Rotation(), 90, (7, 12), (3, 8)),  # right goes to the top
        (Rotation("clockwise"), 90, (7, 12), (11, 8)),
        (Rotation(), 45, (3, 8), (4, 5)),  # the top leans to the left
        (Rotation(centre=(3, 8)), 90, (3, 11), (0, 8)),
        (Zoom(), 1, (6, 10), (5, 12)),
        (Zoom("out"), 1, (3, 12), (5, 10)),
        (Zoom(centre=(0, 0)), 1, (5, 6), (10, 12)),
        (Scaling(), 1, (6, 10), (6, 12)),
        (Scaling("vertical"), 1, (6, 10), (5, 10)),
        (Scaling("vertical", "out"), 1, (3, 12), (5, 12)),
        (Shear(), 0.5, (3, 8), (3, 10)),
        (Shear("left"), 0.5, (3, 8), (3, 6)),
        (Shear("down"), 0.5, (7, 12), (9, 12)),
        (Shear("up"), 0.5, (7, 12), (5, 12)),
    ],
    ids=str,
)
def test_where_the_picture_goes(family, size, before, after):
    assert where_to(family, size, *before) == after


@pytest.mark.parametrize("side", [7, 8])
def test_quarter_turns_are_those_of_torch(side):
    x = images(side=side)
    for quarters in range(1, 4):
        for interpolation in ("bilinear", "cubic"):
            field = Rotation().field(90 * quarters, 1, (side, side))
            assert torch.equal(warp(x, field, interpolation=interpolation), torch.rot90(x, quarters, (2, 3)))
            field = Rotation("clockwise").field(90 * quarters, 1, (side, side))
            assert torch.equal(warp(x, field, interpolation=interpolation), torch.rot90(x, -quarters, (2, 3)))


def test_whole_translations_are_rolls():
    x = images()
    rolled = x.roll((-2, 0), (2, 3))
    assert torch.equal(warp(x, Translation("up").field(2, 1, (9, 9)), boundary="circular"), rolled)
    signal = x.flatten(2)
    moved = warp(signal, Translation("right").field(5, 1, (81,)), boundary="circular")
    assert torch.equal(moved, signal.roll(5, 2))


@pytest.mark.parametrize("size", [0.0, 0.3, 2.5])
def test_affine_fields_undo_their_map(size):
    """That is u - tau(u) = c + M^-1 (u - c), with M as a geometer writes it for (x to the right, y up)."""
    cosine, sine = math.cos(math.radians(size)), math.sin(math.radians(size))
    maps = {
        Rotation(): [[cosine, -sine], [sine, cosine]],
        Rotation("clockwise", (2, 5)): [[cosine, sine], [-sine, cosine]],
        Zoom(centre=(1.5, -3)): [[1 + size, 0], [0, 1 + size]],
        Zoom("out"): [[1 / (1 + size), 0], [0, 1 / (1 + size)]],
        Scaling(): [[1 + size, 0], [0, 1]],
        Scaling("vertical", "out"): [[1, 0], [0, 1 / (1 + size)]],
        Shear(): [[1, size], [0, 1]],
        Shear("up", (0, 0)): [[1, 0], [size, 1]],
    }
    for family, matrix in maps.items():
        row, column = family.centre or (4.5, 6.0)
        tau = family.field(size, 1, (10, 13))[0].numpy()
        r, c = np.indices((10, 13))
        x, y = np.einsum("kl,lrc->krc", np.linalg.inv(matrix), np.stack([c - column, row - r]))
        np.testing.assert_allclose(r - tau[0], row - y, atol=1e-12, err_msg=str(family))
        np.testing.assert_allclose(c - tau[1], column + x, atol=1e-12, err_msg=str(family))


# --- norms in closed form


@pytest.mark.parametrize("size", [0.0, 1e-9, 0.02, 0.7, 3.0, 90.0, 130.0, 360.0])
def test_gradient_norms_in_closed_form(size):
    expected = {
        Translation(): 0.0,
        Rotation(): 2 * abs(math.sin(math.radians(size) / 2)),
        Rotation("clockwise"): 2 * abs(math.sin(math.radians(size) / 2)),
        Zoom(): size / (1 + size),
        Zoom("out"): size,
        Scaling("vertical"): size / (1 + size),
        Scaling(direction="out", centre=(0, 0)): size,
        Shear("left"): size,
        Shear("random"): size,
    }
    for family, norm in expected.items():
        field = family.field(size, 4, (6, 9), generator=0)
        assert gradient_norm(field).tolist() == pytest.approx([norm] * 4, rel=1e-12, abs=1e-13 * size), family
        matrix = jacobian(field)
        torch.testing.assert_close(matrix, matrix[:, :1, :1].expand_as(matrix), rtol=0, atol=1e-13 * max(size, 1))


def test_affine_maps_never_fold():
    for family in [*FIXED, Shear("random"), Zoom("random")]:
        assert not folds(family.field(0.9, 2, (6, 7), generator=0)).any()


@pytest.mark.parametrize("size", [1e-6, 0.3, 7.0])
def test_translations_have_their_length(size):
    for family in (Translation(), Translation("up"), Translation(33)):
        assert displacement_norm(family.field(size, 5, (4, 6), generator=0)).tolist() == pytest.approx([size] * 5)
    assert displacement_norm(Translation().field(size, 5, (6,), generator=0)).tolist() == pytest.approx([size] * 5)


@pytest.mark.parametrize("family", SMOOTH, ids=str)
@pytest.mark.parametrize("space", [(30,), (12, 17)], ids=str)
def test_random_fields_have_the_wanted_norm(family, space):
    norm = gradient_norm if family.norm == "gradient" else displacement_norm
    for size in (1e-5, 0.4, 3):
        assert norm(family.field(size, 4, space, generator=1)).tolist() == pytest.approx([size] * 4, rel=1e-12)
        single = family.field(size, 4, space, generator=1, dtype=torch.float32)
        assert norm(single).tolist() == pytest.approx([size] * 4, rel=2e-6)


# --- what random fields are


def test_random_directions_are_all_alike():
    vectors = Translation().field(1, 20_000, (1, 1), generator=0)[:, :, 0, 0]
    angles = torch.atan2(vectors[:, 0], vectors[:, 1])
    for harmonic in range(1, 5):
        assert torch.polar(torch.ones_like(angles), harmonic * angles).mean().abs() < 5 / math.sqrt(20_000)
    signs = Translation().field(1, 20_000, (1,), generator=0).flatten()
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / math.sqrt(20_000)


@pytest.mark.parametrize(
    ("family", "ways"),
    [
        (Rotation("random"), [Rotation(), Rotation("clockwise")]),
        (Zoom("random", (1, 2)), [Zoom("in", (1, 2)), Zoom("out", (1, 2))]),
        (Shear("random"), [Shear(way) for way in ("right", "left", "up", "down")]),
    ],
    ids=str,
)
def test_random_ways_are_all_alike(family, ways):
    found = family.field(0.5, 4000, (3, 4), generator=0)
    same = torch.stack([(found == way.field(0.5, 1, (3, 4))).flatten(1).all(1) for way in ways])
    assert (same.sum(0) == 1).all()
    expected = 4000 / len(ways)
    assert (same.sum(1) - expected).abs().max() < 5 * math.sqrt(expected)


def rng():
    return torch.Generator().manual_seed(0)


def test_smoothed_noise_has_the_covariance_of_its_gaussian():
    """Noise smoothed by a Gaussian of std s has correlation exp(-d^2 / (4 s^2)), at the edges as in the middle."""
    draws = GaussianField(1.5)._draw(4000, (8, 7), rng())
    assert draws.shape == (4000, 2, 8, 7)
    flat = draws.flatten(1)
    found = flat.T @ flat / len(flat)
    place = torch.cartesian_prod(torch.arange(8), torch.arange(7)).double()
    same = torch.exp(-torch.cdist(place, place).square() / (4 * 1.5**2))
    expected = torch.block_diag(same, same)
    assert (found - expected).abs().max() < 6 / math.sqrt(4000)


@pytest.mark.parametrize("space", [(20,), (12, 15)], ids=str)
def test_band_limited_fields_have_their_band(space):
    field = BandLimitedField(3.2)._draw(2000, space, rng())
    energy = torch.fft.fftn(field, dim=tuple(range(2, field.ndim))).abs().square().mean((0, 1))
    cycles = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(n) * n for n in space], indexing="ij")).norm(dim=0)
    band = (cycles > 0) & (cycles <= 3.2)
    assert energy[~band].max() < 1e-20 * energy.max()
    assert energy[band].min() > 0.7 * energy[band].max()


@pytest.mark.parametrize(("length", "knots"), [(28, 5), (9, 4), (50, 11), (1, 4)])
def test_splines_are_those_of_scipy(length, knots):
    found = SplineField(knots)._draw(3, (length,), rng())[:, 0].numpy()
    coefficients = torch.randn(3, 1, knots, dtype=torch.float64, generator=rng())[:, 0].numpy()
    spline = BSpline(np.arange(-3, knots + 1), coefficients.T, 3)
    at = np.linspace(0, knots - 3, length) if length > 1 else np.zeros(1)
    np.testing.assert_allclose(found, spline(at).T, atol=1e-13)


def test_splines_of_images_are_products():
    field = SplineField(6)._draw(1, (9, 13), rng())[0, 1].numpy()
    coefficients = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=rng())[0, 1].numpy()
    rows = BSpline(np.arange(-3, 7), coefficients, 3)(np.linspace(0, 3, 9))
    np.testing.assert_allclose(field, BSpline(np.arange(-3, 7), rows.T, 3)(np.linspace(0, 3, 13)).T, atol=1e-13)


# --- what holds for every family


@pytest.mark.parametrize("family", EVERY, ids=str)
def test_size_zero_is_no_deformation(family):
    x = images()
    field = family.field(0, 2, (9, 9), generator=0)
    assert (field == 0).all()
    assert torch.equal(warp(x, field), x)


@pytest.mark.parametrize("family", EVERY, ids=str)
def test_sizes_are_one_deformation_more_or_less_far(family):
    small, large = (family.field(size, 3, (8, 9), generator=torch.Generator().manual_seed(4)) for size in (1e-4, 1e-2))
    for a, b in zip(small.flatten(1), large.flatten(1), strict=True):
        assert torch.dot(a, b) > 0.999 * a.norm() * b.norm()
        assert b.norm() > 90 * a.norm()


@pytest.mark.parametrize("family", EVERY, ids=str)
def test_seeds_shapes_dtypes(family):
    field = family.field(0.3, 3, (8, 9), generator=5)
    assert field.shape == (3, 2, 8, 9)
    assert field.dtype == torch.float64
    assert field.is_contiguous()
    assert torch.equal(field, family.field(0.3, 3, [8, 9], generator=torch.Generator().manual_seed(5)))
    single = family.field(0.3, 3, torch.Size((8, 9)), generator=5, dtype=torch.float32, device="cpu")
    assert torch.equal(single, field.float())
    state = torch.get_rng_state()
    other = family.field(0.3, 3, (8, 9), generator=6)
    family.field(0.3, 3, (8, 9))
    assert torch.equal(state, torch.get_rng_state())
    if family in RANDOM:
        fresh = family.field(0.3, 20, (8, 9))
        assert not torch.equal(fresh, family.field(0.3, 20, (8, 9)))
    else:
        assert torch.equal(field, other)
        assert torch.equal(field[0], field[2])


@pytest.mark.parametrize("family", SIGNALS, ids=str)
def test_signals(family):
    field = family.field(0.3, 3, (20,), generator=0)
    assert field.shape == (3, 1, 20)
    assert torch.isfinite(field).all()
    assert (field != 0).any(2).all()
