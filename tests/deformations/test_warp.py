"""Warping against loops over pixels, scipy's interpolation, rolls and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from hilbertnet.deformations import BOUNDARIES, INTERPOLATIONS, warp

SPACES = [(9,), (7, 6), (1,), (1, 5)]
EVERY = list(itertools.product(INTERPOLATIONS, BOUNDARIES))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def signals(space, n=3, channels=2, seed=0, dtype=torch.float64):
    return torch.randn(n, channels, *space, generator=rng(seed), dtype=dtype)


def random_field(space, n=3, size=3.0, seed=1):
    return size * torch.randn(n, len(space), *space, generator=rng(seed), dtype=torch.float64)


def constant_field(space, *shift, n=1, dtype=torch.float64):
    return torch.tensor(shift, dtype=dtype).view(1, -1, *[1] * len(space)).expand(n, -1, *space).clone()


# --- the reference: one pixel and one neighbour at a time


def kernel(interpolation, distance):
    d = abs(distance)
    if interpolation == "bilinear":
        return max(0.0, 1 - d)
    if d <= 1:  # Keys 1981, equation 4 with a = -1/2
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def pixel(signal, at, boundary):
    found = []
    for p, length in zip(at, signal.shape, strict=True):
        if boundary == "zero" and not 0 <= p < length:
            return 0.0
        found.append(p % length if boundary == "circular" else min(max(p, 0), length - 1))
    return float(signal[tuple(found)])


def naive_warp(x, field, interpolation, boundary):
    result = torch.zeros(max(len(x), len(field)), *x.shape[1:], dtype=torch.float64)
    for i, channel, *u in itertools.product(*map(range, result.shape)):
        tau = field[i % len(field)][(slice(None), *u)]
        point = [a - float(t) for a, t in zip(u, tau, strict=True)]
        for steps in itertools.product(range(-1, 3), repeat=len(u)):
            at = [math.floor(p) + s for p, s in zip(point, steps, strict=True)]
            weight = math.prod(kernel(interpolation, p - a) for p, a in zip(point, at, strict=True))
            result[(i, channel, *u)] += weight * pixel(x[i % len(x), channel], at, boundary)
    return result


@pytest.mark.parametrize(("interpolation", "boundary"), EVERY)
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_against_loops(space, interpolation, boundary):
    x, field = signals(space), random_field(space)
    found = warp(x, field, interpolation=interpolation, boundary=boundary)
    torch.testing.assert_close(found, naive_warp(x, field, interpolation, boundary), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("boundary", "mode"), [("zero", "grid-constant"), ("circular", "grid-wrap"), ("edge", "nearest")]
)
def test_bilinear_against_scipy(boundary, mode):
    x, field = signals((11, 8)), random_field((11, 8), size=5.0)
    points = np.indices((11, 8)) - field.numpy()
    expected = [
        [map_coordinates(channel, p, order=1, mode=mode) for channel in image]
        for image, p in zip(x.numpy(), points, strict=True)
    ]
    np.testing.assert_allclose(warp(x, field, boundary=boundary).numpy(), expected, atol=1e-12)


# --- exact to the last bit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("interpolation", "boundary"), EVERY)
def test_the_zero_field_changes_no_bit(interpolation, boundary, dtype):
    for space in SPACES:
        x = signals(space).to(dtype)
        field = torch.zeros(len(x), len(space), *space, dtype=dtype)
        found = warp(x, field, interpolation=interpolation, boundary=boundary)
        assert found.dtype == dtype
        assert torch.equal(found, x)
        assert torch.equal(warp(x, -field, interpolation=interpolation, boundary=boundary), x)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_whole_shifts_on_the_torus_are_rolls(interpolation, dtype):
    images, sounds = signals((7, 6), dtype=torch.float64).to(dtype), signals((300,)).to(dtype)
    for rows, columns in [(1, 0), (0, -1), (3, -2), (-9, 40)]:
        found = warp(images, constant_field((7, 6), rows, columns), interpolation=interpolation, boundary="circular")
        assert torch.equal(found, images.roll((rows, columns), (2, 3)))
        found = warp(sounds, constant_field((300,), rows), interpolation=interpolation, boundary="circular")
        assert torch.equal(found, sounds.roll(rows, 2))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("boundary", ["zero", "edge"])
def test_whole_shifts_bring_in_the_boundary(interpolation, boundary):
    x = signals((5, 6))
    wide = torch.nn.functional.pad(x, (9,) * 4, mode="constant" if boundary == "zero" else "replicate")
    for rows, columns in [(2, 0), (-1, 3), (-4, -9), (0, 8)]:
        found = warp(x, constant_field((5, 6), rows, columns), interpolation=interpolation, boundary=boundary)
        assert torch.equal(found, wide[:, :, 9 - rows : 14 - rows, 9 - columns : 15 - columns])


def test_whole_shifts_by_a_field_that_varies():
    x = signals((40,), n=1, channels=1, dtype=torch.float32)
    field = torch.randint(-5, 6, (1, 1, 40), generator=rng()).float()
    source = (torch.arange(40) - field[0, 0].long()).remainder(40)
    for interpolation in INTERPOLATIONS:
        assert torch.equal(warp(x, field, interpolation=interpolation, boundary="circular"), x[..., source])


def test_fractions_are_not_rounded_far_from_the_origin():
    x = torch.randn(1, 1, 200_001, generator=rng())
    field = torch.full_like(x, 0.3)  # u - 0.3 in float32 is 0.297 away from u where u is 200,000
    expected = torch.lerp(x[..., 1:], x[..., :-1], field[..., 1:])
    assert (warp(x, field)[..., 1:] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("far", [1e6, -1e12, 1e30, -1e300])
def test_points_very_far_away(far, interpolation, boundary):
    x, field = signals((4, 5)), constant_field((4, 5), far, 0.0)
    found = warp(x, field, interpolation=interpolation, boundary=boundary)
    if boundary == "circular":
        assert torch.equal(found, x.roll(int(far) % 4, 2))
    else:
        edge = x[:, :, :1] if far > 0 else x[:, :, -1:]
        expected = torch.zeros_like(x) if boundary == "zero" else edge.expand_as(x)
        torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)


def test_a_displacement_of_next_to_nothing():
    x = signals((4, 5))
    for tiny in (1e-300, -1e-300, 1e-20, -1e-20):
        for interpolation in INTERPOLATIONS:
            assert torch.equal(warp(x, constant_field((4, 5), tiny, tiny), interpolation=interpolation), x)


# --- closed forms


def test_what_each_interpolation_reproduces():
    rows, columns = torch.meshgrid(torch.arange(12.0).double(), torch.arange(10.0).double(), indexing="ij")

    def bilinear(r, c):
        return 1 + 2 * r - 3 * c + 0.5 * r * c

    def quadratic(r, c):
        return bilinear(r, c) + r**2 - 0.3 * c**2 + 0.1 * r**2 * c**2

    field = torch.rand(1, 2, 12, 10, generator=rng(), dtype=torch.float64) * 2 - 1
    inside = (slice(None), slice(None), slice(3, 9), slice(3, 7))
    for interpolation, function in (("bilinear", bilinear), ("cubic", quadratic)):
        expected = function(rows - field[0, 0], columns - field[0, 1])[None, None]
        found = warp(function(rows, columns)[None, None], field, interpolation=interpolation)
        torch.testing.assert_close(found[inside], expected[inside], rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("interpolation", "order"), [("bilinear", 2), ("cubic", 3)])
def test_errors_fall_as_they_should(interpolation, order):
    errors = []
    for length in (64, 128):
        u = torch.arange(length).double() * (2 * math.pi / length)
        field = 0.37 + 0.5 * (u.sin() + 1)
        found = warp(u.cos()[None, None], field[None, None], interpolation=interpolation, boundary="circular")
        errors.append(float((found - (u - field * (2 * math.pi / length)).cos()).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_linear_in_the_signal():
    x, y, field = signals((6, 7)), signals((6, 7), seed=5), random_field((6, 7))
    for interpolation, boundary in EVERY:
        options = {"interpolation": interpolation, "boundary": boundary}
        both = warp(2 * x - 3 * y, field, **options)
        torch.testing.assert_close(both, 2 * warp(x, field, **options) - 3 * warp(y, field, **options))


# --- batches, dtypes, devices


def test_one_field_for_all_and_one_signal_for_all():
    x, field = signals((6, 5)), random_field((6, 5))
    for interpolation in INTERPOLATIONS:
        alone = [warp(x[i : i + 1], field[:1], interpolation=interpolation) for i in range(3)]
        assert torch.equal(warp(x, field[:1], interpolation=interpolation), torch.cat(alone))
        alone = [warp(x[:1], field[i : i + 1], interpolation=interpolation) for i in range(3)]
        assert torch.equal(warp(x[:1], field, interpolation=interpolation), torch.cat(alone))


@pytest.mark.parametrize("field_dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_results_have_the_dtype_of_the_signal(dtype, field_dtype):
    x, field = signals((6, 5)).to(dtype), random_field((6, 5)).to(field_dtype)
    for interpolation in INTERPOLATIONS:
        found = warp(x, field, interpolation=interpolation)
        assert found.dtype == dtype
        expected = warp(x.double(), field.double(), interpolation=interpolation)
        assert (found.double() - expected).abs().max() < 40 * max(torch.finfo(d).eps for d in (dtype, torch.float32))


def test_arguments_are_left_as_they_were_and_layout_does_not_matter():
    x, field = signals((6, 5)), random_field((6, 5))
    turned, turned_field = x.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0), field.flip(0).flip(0)[:]
    before = x.clone(), field.clone()
    assert torch.equal(warp(turned, turned_field), warp(x, field))
    assert torch.equal(x, before[0])
    assert torch.equal(field, before[1])


@pytest.mark.gpu
@pytest.mark.parametrize(("interpolation", "boundary"), EVERY)
def test_the_same_on_a_gpu(interpolation, boundary):
    for space in SPACES:
        x, field = signals(space), random_field(space)
        options = {"interpolation": interpolation, "boundary": boundary}
        found = warp(x.cuda(), field.cuda(), **options)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), warp(x, field, **options), rtol=0, atol=1e-12)
        whole = field.round()
        assert torch.equal(warp(x.cuda(), whole.cuda(), **options).cpu(), warp(x, whole, **options))


# --- derivatives


@pytest.mark.parametrize(("interpolation", "boundary"), EVERY)
@pytest.mark.parametrize("space", [(6,), (4, 3)], ids=str)
def test_gradients(space, interpolation, boundary):
    x = signals(space, n=2).requires_grad_()
    floor = torch.randint(-3, 3, (2, len(space), *space), generator=rng(3))
    part = torch.rand(floor.shape, generator=rng(4), dtype=torch.float64)
    field = (floor + 0.1 + 0.8 * part).requires_grad_()  # away from the lines of pixels

    def function(x, field):
        return warp(x, field, interpolation=interpolation, boundary=boundary)

    assert torch.autograd.gradcheck(function, (x, field))
    assert torch.autograd.gradcheck(function, (x[:1].detach(), field))
    assert torch.autograd.gradgradcheck(function, (x, field))


# --- bad input


def bad_cases():
    x, field = signals((4, 5)), random_field((4, 5))
    nan = field.clone()
    nan[1, 0, 2, 3] = math.nan
    infinite = x.clone()
    infinite[0, 1, 2, 3] = -math.inf
    return {
        "channels as axes": (x, x.new_zeros(3, 1, 4, 5), r"^field: expected a field .* got shape \(3, 1, 4, 5\)"),
        "space": (x, random_field((5, 4)), r"^field: expected shape \(3 or 1, 2, 4, 5\), got \(3, 2, 5, 4\)"),
        "count": (x, field[:2], r"^field: expected shape \(3 or 1, 2, 4, 5\), got \(2, 2, 4, 5\)"),
        "one for each": (x, field[0], r"^field: expected a field .* got shape \(2, 4, 5\)"),
        "signal's field": (x, random_field((4,)), r"^field: expected shape \(3 or 1, 2, 4, 5\), got \(3, 1, 4\)"),
        "empty": (x, field[:0], r"^field: expected a field .* got shape \(0, 2, 4, 5\)"),
        "nan": (x, nan, r"^field: expected finite numbers, got nan at index \[1, 0, 2, 3\]"),
        "complex field": (x, field + 0j, r"^field: expected real floating-point numbers, got dtype torch.complex128"),
        "whole field": (x, field.long(), r"^field: expected real floating-point numbers, got dtype torch.int64"),
        "array": (x, field.numpy(), r"^field: expected a tensor, .* got ndarray"),
        "device": (x, field.to("meta"), r"^field: expected it on cpu, as the signals, got meta"),
        "infinite x": (infinite, field, r"^x: expected finite numbers, got -inf at index \[0, 1, 2, 3\]"),
        "whole x": (x.to(torch.uint8), field, r"^x: expected real floating-point numbers, got dtype torch.uint8"),
        "complex x": (x + 0j, field, r"^x: expected real floating-point numbers, got dtype torch.complex128"),
        "rows": (x.flatten(1), field, r"^x: expected images .* got shape \(3, 40\)"),
        "empty x": (x[:, :0], field, r"^x: expected images .* got shape \(3, 0, 4, 5\)"),
        "list": ([[1.0]], field, r"^x: expected a tensor, .* got list"),
    }


@pytest.mark.parametrize("case", bad_cases().items(), ids=lambda case: case[0])
def test_bad_input(case):
    x, field, message = case[1]
    with pytest.raises(ValueError, match=message):
        warp(x, field)


def test_unknown_names():
    x, field = signals((4, 5)), random_field((4, 5))
    with pytest.raises(ValueError, match=r"^interpolation: .* got 'bicubic'; did you mean 'cubic'\?"):
        warp(x, field, interpolation="bicubic")
    with pytest.raises(ValueError, match=r"^boundary: .* got 'edges'; did you mean 'edge'\?"):
        warp(x, field, boundary="edges")
    with pytest.raises(ValueError, match=r"^boundary: .* got 0"):
        warp(x, field, boundary=0)
