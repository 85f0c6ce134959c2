"""Measured distances against closed forms and loops, their table, and refusals."""

import json
import math

import numpy as np
import pytest
import torch

from hilbertnet import ConvKernel
from hilbertnet.deformations import GaussianField, InfiniteMNIST, Translation, scale_field, warp
from hilbertnet.stability import (
    FieldDeformation,
    Handwriting,
    Measurement,
    as_representation,
    bounds_beside,
    grid_bound,
    landmarks,
    measure,
)
from hilbertnet.stability.sphere import OnSphere, sphere_points


@pytest.fixture
def images(generator):
    return torch.rand(4, 1, 9, 8, generator=generator, dtype=torch.float64)


class Torus(FieldDeformation):
    """Shifts downwards on the torus."""

    def __init__(self):
        super().__init__(Translation("down"), boundary="circular")


def test_translations_of_pixels_are_distances_of_rolled_images(images):
    found = measure("pixels", images, Torus(), [0, 1, 3], draws=2, progress=False)
    for row, size in enumerate(found.sizes):
        moved = images.roll(int(size), 2)
        expected = (images - moved).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
        for draw in range(2):
            np.testing.assert_allclose(found.relative[row, :, draw], expected, rtol=1e-12)
    assert (found.relative[0] == 0).all()


def test_all_representations_see_the_same_deformations(images):
    seen = []

    def features(x):
        seen.append(x)
        return x

    for _ in range(2):
        measure(as_representation(features), images, GaussianField(2), [0.1, 0.2], draws=3, generator=7, progress=False)
    half = len(seen) // 2
    for first, second in zip(seen[:half], seen[half:], strict=True):
        assert (first == second).all()
    other = measure("pixels", images, GaussianField(2), [0.1], draws=3, generator=8, progress=False)
    same = measure("pixels", images, GaussianField(2), [0.1], draws=3, generator=7, progress=False)
    assert not np.allclose(other.relative, same.relative)


def test_a_draw_is_one_deformation_at_all_sizes(images):
    deformation = FieldDeformation(GaussianField(2))
    for size in (0.1, 0.3):
        state = torch.Generator().manual_seed(3)
        direction = GaussianField(2).field(0.2, 4, (9, 8), generator=torch.Generator().manual_seed(3))
        expected = warp(images, scale_field(direction, gradient=size))
        torch.testing.assert_close(deformation(images, size, state), expected, rtol=1e-9, atol=1e-12)


def test_an_exact_kernel_is_measured_through_its_distances(images):
    kernel = ConvKernel("3 exp(0.6) gauss2")
    found = measure(kernel, images, "translation(down)", [1.0], draws=1, progress=False)
    moved = warp(images, Translation("down").field(1.0, 4, (9, 8)))
    np.testing.assert_allclose(found.relative[0, :, 0], kernel.distance(images, moved) / kernel.norm(images), rtol=1e-9)


def test_slopes_means_quantiles_and_the_text():
    sizes = (0.0, 0.1, 1.0, 10.0)
    power = np.array(sizes)[:, None, None] ** 0.5 * np.array([[1.0, 2.0], [3.0, 4.0]])
    found = Measurement("phi", "rotation", "degrees", sizes, power, same_label=0.5)
    assert found.slope() == pytest.approx(0.5)
    assert found.slope(1.0) == pytest.approx(0.5)
    np.testing.assert_allclose(found.mean, 2.5 * np.sqrt(sizes))
    np.testing.assert_allclose(found.worst, 4 * np.sqrt(sizes))
    np.testing.assert_allclose(found.quantile(0.5), 2.5 * np.sqrt(sizes))
    with pytest.raises(ValueError, match="at least two sizes"):
        found.slope(0.1)
    lines = str(found).splitlines()
    assert lines[0] == "phi, rotation: relative distances, 2 images x 2 draws"
    assert lines[1].split() == ["size", "(degrees)", "mean", "10%", "50%", "90%", "worst"]
    assert lines[-2].split()[0] == "10"
    assert lines[-1] == "to other images of same label: 0.5"
    again = Measurement.from_dict(json.loads(json.dumps(found.to_dict())))
    assert (again.relative == found.relative).all()
    assert str(again) == str(found)


def test_landmarks_are_means_over_pairs(images):
    labels = np.array([0, 1, 0, 2])
    norms = images.flatten(1).norm(dim=1)
    every, same = [], []
    for i in range(4):
        for j in range(4):
            if i != j:
                relative = float((images[i] - images[j]).norm() / norms[i])
                every.append(relative)
                if labels[i] == labels[j]:
                    same.append(relative)
    assert landmarks("pixels", images, labels) == (pytest.approx(np.mean(same)), pytest.approx(np.mean(every)))
    assert landmarks("pixels", images, range(4))[0] is None
    others = (images[:2] + 1, [1, 5])
    expected = np.mean([float((images[i] - others[0][j]).norm() / norms[i]) for i in range(4) for j in range(2)])
    assert landmarks("pixels", images, labels, others=others)[1] == pytest.approx(expected)
    found = measure("pixels", images, "rotation", [1.0], labels=labels, pairs=2, draws=1, progress=False)
    assert min(same) <= found.same_label <= max(same)


def test_tangent_kernels_move_as_the_square_root_and_others_linearly(generator):
    """On a torus, where nothing is lost at the border; Bietti and Mairal, 2019, section 4."""
    x = torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64)
    x = warp(x, torch.zeros(1, 2, 16, 16, dtype=torch.float64))
    deformation = FieldDeformation(GaussianField(3), boundary="circular")
    from hilbertnet.architecture import Architecture

    arch = Architecture.parse("3 arccos1 gauss2 | 3 arccos1 gauss2", boundary="circular")
    sizes = [0.0003, 0.001, 0.003, 0.01]
    ckn, ntk = (
        measure(ConvKernel(arch, kind), x, deformation, sizes, draws=3, progress=False) for kind in ("ckn", "ntk")
    )
    assert ckn.slope() == pytest.approx(1, abs=0.05)
    assert ntk.slope() == pytest.approx(0.5, abs=0.1)
    ratio = ntk.mean / ckn.mean
    assert (np.diff(ratio) < 0).all()
    assert ratio.min() > 1


def test_on_the_sphere_the_kernel_maps_of_the_arc_cosine_kernels(generator):
    x, sizes = sphere_points(5, 6, generator), [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 2.0]
    moved = OnSphere()(x, 0.3, generator)
    torch.testing.assert_close((moved - x).flatten(1).norm(dim=1), torch.full((5,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))
    first, zeroth = (
        measure(ConvKernel(f"1 {name} -"), x, OnSphere(), sizes, draws=2, progress=False)
        for name in ("arccos1", "arccos0")
    )
    assert (first.worst <= np.array(sizes) * (1 + 1e-6)).all()
    assert first.slope(0.01) == pytest.approx(1, abs=0.01)
    assert zeroth.slope(0.01) == pytest.approx(0.5, abs=0.01)
    angles = 2 * np.arcsin(np.array(sizes) / 2)  # ||phi_0(z) - phi_0(z')||^2 = 2 angle / pi
    np.testing.assert_allclose(zeroth.mean, np.sqrt(2 * angles / math.pi), rtol=1e-5)


def test_handwriting_is_that_of_infinite_mnist(generator):
    digits = torch.rand(5, 1, 12, 12, generator=generator)
    source = InfiniteMNIST(images=digits, labels=range(5), dtype=torch.float64)
    handwriting = Handwriting(source, [3, 1])
    x = handwriting.originals
    torch.testing.assert_close(x, digits[[3, 1]].double(), atol=1e-6, rtol=0)
    state = torch.Generator().manual_seed(5)
    small, large = (handwriting(x, size, torch.Generator().manual_seed(5)) for size in (1e-4, 2e-4))
    inside = (x > 0.01) & (x < 0.99)  # nothing is clipped
    torch.testing.assert_close(2 * (small - x)[inside], (large - x)[inside], rtol=1e-6, atol=1e-12)
    copies = torch.randint(1, 2**40, (2,), generator=state).numpy()
    expected = source.at(2.0).batch(source.index([3, 1], copies))[0]
    assert (handwriting(x, 2.0, torch.Generator().manual_seed(5)) == expected).all()
    assert (handwriting(x, 0.0, torch.Generator()) == x).all()
    whole = Handwriting.of(digits, form="uint8", translate=True)
    assert str(whole) == "handwriting, translated"
    levels = 255 * whole(whole.originals, 1.0, generator)
    torch.testing.assert_close(levels, levels.round(), atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="the digits that are deformed, shape \\(2, 1, 12, 12\\), got \\(5, 1"):
        handwriting(digits, 1.0, generator)


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_bounds_beside_are_of_the_worst_draw(images, kind):
    kernel = ConvKernel("3 exp(1) gauss2", kind)
    deformation, sizes = FieldDeformation(GaussianField(2), interpolation="cubic", boundary="edge"), [0.05, 0.2]
    found = measure(kernel, images, deformation, sizes, draws=3, generator=5, progress=False)
    beside = bounds_beside(kernel, images, deformation, found, generator=5, progress=False)
    units = kernel.norm(images) / images.flatten(1).norm(dim=1)
    np.testing.assert_allclose(beside.measured, (found.relative * units.numpy()[:, None]).max((1, 2)))
    np.testing.assert_allclose(beside.gradient, sizes, rtol=1e-9)
    image, draw = np.unravel_index((found.relative[1] * units.numpy()[:, None]).argmax(), (4, 3))
    seed = int(torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(5))[draw])
    tau = GaussianField(2).field(0.2, 4, (9, 8), generator=torch.Generator().manual_seed(seed))[image : image + 1]
    expected = grid_bound(kernel.arch, tau, kind=kind, interpolation="cubic", boundary="edge").value
    np.testing.assert_allclose(beside.grid[1], expected)
    assert (beside.measured <= beside.grid).all()
    assert (beside.measured <= beside.theorem).all()
    assert len(str(beside).splitlines()) == 5
    with pytest.raises(ValueError, match="found: expected a measurement of 2 images"):
        bounds_beside(kernel, images[:2], deformation, found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": []}, "sizes: expected increasing finite numbers, at least 0, got \\[\\]"),
        ({"sizes": [1, 0.5]}, "sizes: expected increasing"),
        ({"sizes": [-1.0]}, "sizes: expected increasing"),
        ({"sizes": [math.nan]}, "sizes: expected increasing"),
        ({"draws": 0}, "draws: expected a whole number, at least 1, got 0"),
        ({"deformation": "rotaton"}, "did you mean 'rotation'"),
        ({"deformation": 3}, "deformation: expected a family of fields"),
        ({"deformation": lambda x, size, generator: x}, "deformation: expected a family"),
        ({"representation": 3}, "expected 'pixels', an exact kernel"),
        ({"images": torch.zeros(2, 1, 5, 5)}, "images: expected representations of positive norm, got 0 at index 0"),
        ({"images": torch.full((2, 1, 5, 5), math.nan)}, "images: expected finite numbers"),
        ({"labels": [1, 2, 3]}, "labels: expected 2 labels"),
        ({"labels": [1, 2], "pairs": 0}, "pairs: expected a whole number, at least 1, got 0"),
        ({"labels": [1, 2], "others": (torch.ones(3, 1, 5, 5), [1])}, "others: expected 3 labels"),
        ({"labels": [1, 2], "others": (torch.ones(3, 1, 5, 4), [1, 2, 3])}, "others: "),
    ],
)
def test_bad_input_is_refused(change, message):
    how = {"representation": "pixels", "images": torch.ones(2, 1, 5, 5), "deformation": "rotation", "sizes": [1.0]}
    how |= {"draws": 1, "progress": False} | change
    with pytest.raises(ValueError, match=message):
        measure(how.pop("representation"), how.pop("images"), how.pop("deformation"), how.pop("sizes"), **how)


def test_points_off_the_sphere_are_refused(generator):
    for x in (torch.ones(2, 3, 1), torch.ones(2, 1, 1), torch.ones(2, 3, 4)):
        with pytest.raises(ValueError, match="x: expected points of the unit sphere"):
            OnSphere()(x, 0.1, generator)
    with pytest.raises(ValueError, match="sizes: expected at most 2"):
        OnSphere()(sphere_points(2, 3, generator), 2.5, generator)
