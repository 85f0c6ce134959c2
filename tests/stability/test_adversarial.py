"""Worst fields against exhaustive search, closed forms and random fields; they stay within both norms."""

import functools
import math
import warnings

import pytest
import torch
from torch import nn

from hilbertnet.deformations import FoldWarning, displacement_norm, gradient_norm, warp
from hilbertnet.deformations.field_set import FieldSet
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks import CKN
from hilbertnet.stability.adversarial import worst_field
from hilbertnet.stability.representations import as_representation


def blobs(n=3, space=(12, 12), dtype=torch.float64, seed=0):
    """Smooth bright spots away from the edges."""
    rng = torch.Generator().manual_seed(seed)
    grids = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in space), indexing="ij")
    images = torch.zeros(n, 1, *space, dtype=torch.float64)
    for image in images:
        for _ in range(3):
            centre = [length * (0.3 + 0.4 * torch.rand((), generator=rng)) for length in space]
            apart = sum((grid - middle) ** 2 for grid, middle in zip(grids, centre, strict=True))
            image += torch.exp(-apart / (2 * 1.2**2))
    return images.to(dtype)


@functools.cache
def network(axes=2):
    x = blobs(20, (12,) * axes, torch.float32)
    net = CKN("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", 1, (8, 12), axes=axes, generator=0)
    return net.fit_filters_(x, patches=1000, generator=0, allow_fewer=True, progress=False)


def check_inside(field, displacement, gradient, *, periodic=False):
    assert displacement_norm(field).max() <= displacement * (1 + 1e-6)
    assert gradient_norm(field, periodic=periodic).max() <= gradient * (1 + 1e-6)


@pytest.mark.parametrize(
    ("boundary", "axes", "displacement", "gradient"),
    [
        ("zero", 2, 1.0, 0.3),
        ("zero", 1, 3.0, 0.05),
        ("edge", 2, 0.2, math.inf),
        ("edge", 1, 1.0, 0.3),
        ("circular", 2, 3.0, 0.05),
        ("circular", 2, 0.5, 0.0),
        ("circular", 1, 0.1, 0.4),
    ],
)
def test_fields_are_within_both_norms(boundary, axes, displacement, gradient):
    x = blobs(2, (10, 11)[:axes], torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FoldWarning)  # of no bound on the gradient
        found = worst_field(
            "pixels",
            x,
            displacement=displacement,
            gradient=gradient,
            steps=4,
            restarts=2,
            generator=0,
            boundary=boundary,
        )
    check_inside(found.field, displacement, gradient, periodic=boundary == "circular")
    assert found.field.shape == (2, axes, *x.shape[2:])
    assert found.field.dtype == torch.float32
    assert found.distance.dtype == torch.float64
    # the distances are those of the fields, measured anew
    moved = warp(x, found.field, boundary=boundary)
    torch.testing.assert_close(found.distance, (moved.double() - x.double()).flatten(1).norm(dim=1))
    torch.testing.assert_close(found.relative, found.distance / x.double().flatten(1).norm(dim=1))


@pytest.mark.parametrize("axes", [1, 2])
def test_at_least_as_bad_as_random_fields_of_the_budget(axes):
    """The starts, always; 90 others that use up one of the two norms, to a few percent: ascents are local."""
    x, phi = blobs(2, (12,) * axes, torch.float32), as_representation(network(axes))
    found = worst_field(phi, x, displacement=1.0, gradient=0.3, steps=20, generator=0)
    assert found.history.shape == (4, 21, 2)
    assert (found.distance >= found.history[:, 0].max(0).values).all()
    assert (found.history[:, -1] > 1.05 * found.history[:, 0]).any()  # ascents do climb
    fields, rng = FieldSet(1.0, 0.3, (12,) * axes), torch.Generator().manual_seed(1)
    others = []
    for kind in ("zoom", "affine", "noise") * 30:
        field = fields.draw(x, kind, rng)
        check_inside(field, 1.0, 0.3)
        others.append(phi.distance(x, warp(x, field)))
    assert (found.distance > 0.97 * torch.stack(others).amax(0)).all()
    assert (found.distance > 1.3 * torch.stack(others).median(0).values).all()


def test_grows_with_either_budget():
    x, net = blobs(2, dtype=torch.float32), network()
    options = {"steps": 8, "restarts": 1, "generator": 0}
    for budgets in ([(0.1, 0.2), (0.5, 0.2), (2.0, 0.2)], [(1.0, 0.02), (1.0, 0.1), (1.0, 0.5)]):
        found = [worst_field(net, x, displacement=d, gradient=g, **options).distance for d, g in budgets]
        assert (found[0] < found[1]).all()
        assert (found[1] < found[2]).all()


def test_translations_against_exhaustive_search():
    """Without a gradient the set is a disc, searched at 4,000 points; the ascent is within a thousandth of the best."""
    x, displacement = blobs(3), 2.0
    angles, radii = torch.arange(200) * (2 * math.pi / 200), torch.linspace(0.1, displacement, 20)
    shifts = (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], 1)).reshape(-1, 2).double()
    best = torch.zeros(3, dtype=torch.float64)
    for shift in shifts.split(500):
        fields = shift[:, :, None, None].expand(-1, -1, 12, 12)
        for i, image in enumerate(x):
            moved = warp(image.expand(len(shift), 1, 12, 12), fields)
            best[i] = max(best[i], (moved - image).flatten(1).norm(dim=1).max())
    found = worst_field("pixels", x, displacement=displacement, gradient=0, generator=0)
    assert (found.distance > 0.999 * best).all()
    assert (found.distance < 1.01 * best).all()  # the grid is fine enough for a check
    assert gradient_norm(found.field).max() == 0


def test_a_small_translation_on_the_torus_in_closed_form():
    """|c| <= d: x(u - c) - x(u) is -J c to first order, whose norm is at most d times J's largest singular value."""
    x, d = blobs(3, (9, 10)), 1e-4
    slopes = [(x.roll(-1, axis) - x.roll(1, axis)) / 2 for axis in (2, 3)]  # the derivative of cubic interpolation
    jacobian = torch.stack([slope.flatten(1) for slope in slopes], 2)
    expected = d * torch.linalg.matrix_norm(jacobian, 2)
    found = worst_field(
        "pixels", x, displacement=d, gradient=0, interpolation="cubic", boundary="circular", generator=0
    )
    torch.testing.assert_close(found.distance, expected, rtol=1e-3, atol=0)


def test_one_feature_without_a_bound_on_the_gradient_in_closed_form():
    """Pixels then move by themselves, each to -d or d or not at all: a sum of maxima.

    One that starts on the wrong side of where it may go either way stays there, so ascent reaches most of it.
    """
    x, d = blobs(2, (40,)), 0.3
    weight = 0.5 + torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right, left = (d * (x.roll(by, 2) - x)[:, 0] * weight for by in (1, -1))
    upward = torch.maximum(right, left).clamp(min=0).sum(1)
    downward = torch.minimum(right, left).clamp(max=0).sum(1)
    expected = torch.maximum(upward, -downward)

    def feature(y):
        return (y[:, 0] * weight).sum(1, keepdim=True)

    found = worst_field(
        feature, x, displacement=d, gradient=math.inf, boundary="circular", smoothness=0.2, steps=100, generator=0
    )
    assert (found.distance <= expected * (1 + 1e-9)).all()
    assert (found.distance > 0.85 * expected).all()
    assert (found.distance > 1.4 * found.history[:, 0].amax(0)).all()


def test_an_exact_kernel_moves_as_its_own_distance_says():
    kernel, x = ConvKernel("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2"), blobs(2, (7, 8))
    found = worst_field(kernel, x, displacement=0.8, gradient=0.3, steps=8, restarts=2, generator=0)
    torch.testing.assert_close(found.distance, kernel.distance(x, warp(x, found.field)), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.relative, found.distance / kernel.norm(x))
    assert (found.history[:, -1] > 1.02 * found.history[:, 0]).any()


def test_the_seed_decides_and_the_module_is_left_alone():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    options = {"displacement": 0.5, "gradient": 0.2, "steps": 4, "restarts": 2}
    first = worst_field(net, blobs(2), generator=3, **options)
    second = worst_field(net, blobs(2), generator=torch.Generator().manual_seed(3), **options)
    other = worst_field(net, blobs(2), generator=4, **options)
    assert torch.equal(first.field, second.field)
    assert not torch.equal(first.field, other.field)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert net.training


def test_fields_that_may_fold_are_warned_of():
    x = blobs(1)
    options = {"displacement": 2.0, "steps": 2, "restarts": 1, "generator": 0}
    worst_field("pixels", x, gradient=0.99, **options)  # warnings are errors here
    with pytest.warns(FoldWarning, match="worst field"):
        worst_field("pixels", x, gradient=3.0, **options)


# --- the set


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("space", [(9,), (8, 9)])
def test_the_retraction_lands_in_the_set_and_keeps_its_points(space, periodic):
    fields = FieldSet(1.5, 0.4, space, periodic=periodic)
    rough = 5 * torch.randn(20, len(space), *space, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = fields.retract(rough)
    check_inside(inside, 1.5, 0.4, periodic=periodic)
    torch.testing.assert_close(fields.retract(inside), inside, rtol=1e-12, atol=1e-12)
    assert (fields.gauge(inside) <= 1 + 1e-12).all()
    small = inside * 0.5
    assert torch.equal(fields.retract(small), small)
    # a translation within the budget is not lost where the gradient is too large
    wiggles = 0.05 * (rough - rough.flatten(2).mean(2).reshape(20, -1, *(1,) * len(space)))
    shifted = fields.retract(wiggles + 0.4)
    assert (gradient_norm(wiggles, periodic=periodic) > 0.4).sum() > 15
    assert ((shifted.flatten(2).mean(2) - 0.4).abs() < 0.05).all()


def test_steps_have_gauge_one_and_point_upwards():
    fields = FieldSet(1.5, 0.4, (8, 9))
    gradient = torch.randn(10, 2, 8, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = fields.direction(gradient)
    torch.testing.assert_close(fields.gauge(step), torch.ones(10, dtype=torch.float64))
    assert ((step * gradient).flatten(1).sum(1) > 0).all()
    assert fields.direction(torch.zeros_like(gradient)).abs().max() == 0
    constant = FieldSet(1.5, 0.0, (8, 9)).direction(gradient)
    assert gradient_norm(constant).max() == 0
    torch.testing.assert_close(displacement_norm(constant), torch.full((10,), 1.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"displacement": 0.0}, "displacement: expected a positive finite number, got 0.0"),
        ({"displacement": math.inf}, "displacement: expected a positive finite number"),
        ({"displacement": "1"}, "displacement: expected a positive finite number, got '1'"),
        ({"gradient": -0.1}, "gradient: expected a number of at least 0, got -0.1"),
        ({"gradient": math.nan}, "gradient: expected a number of at least 0, got nan"),
        ({"smoothness": 0}, "smoothness: expected a positive finite number, got 0"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"boundary": "zeros"}, "boundary: expected one of"),
        ({"interpolation": "cubik"}, "interpolation: expected one of .* did you mean 'cubic'"),
        ({"x": torch.ones(3, 5)}, "x: expected images .* got rows"),
        (
            {"x": torch.zeros(2, 1, 5, 5)},
            "x: expected signals whose representation has a positive norm, got 0 for signal 0",
        ),
        ({"representation": lambda z: z.detach()}, "objective: expected values that depend differentiably"),
        ({"representation": "pixel"}, "did you mean 'pixels'"),
    ],
)
def test_bad_input(change, message):
    arguments = {"representation": "pixels", "x": blobs(1, (5, 5)), "displacement": 1.0, "gradient": 0.1} | change
    with pytest.raises(ValueError, match=message):
        worst_field(arguments.pop("representation"), arguments.pop("x"), **arguments)


def test_what_cannot_be_differentiated_gives_one_error():
    phi = as_representation(lambda z: z, arrays="numpy", name="mine")
    with pytest.raises(
        ValueError, match="representation: expected one that can be differentiated, which 'mine' cannot"
    ):
        worst_field(phi, blobs(1), displacement=1.0, gradient=0.1)
