"""Projected ascent against maxima known in closed form, on balls, boxes and simplices, for every example of a batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.ascent import projected_ascent, unit_direction


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ball(radius):
    """Projection onto the l2 ball."""
    return lambda z: z * (radius / z.flatten(1).norm(dim=1).clamp(min=radius)).reshape(-1, *(1,) * (z.ndim - 1))


def box(radius):
    return lambda z: z.clamp(-radius, radius)


def simplex(z):
    """Projection onto {z >= 0, sum z = 1}, by sorting."""
    ordered = z.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - 1) / torch.arange(1, z.shape[1] + 1, dtype=z.dtype)
    last = (ordered > excess).sum(1) - 1
    return (z - excess.gather(1, last[:, None])).clamp(min=0)


@pytest.mark.parametrize(("direction", "project", "dual"), [("2", ball, 2.0), ("inf", box, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_functions_reach_the_dual_norm(direction, project, dual, dtype):
    weight = draw(4, 3, 5, dtype=dtype)
    found = projected_ascent(
        lambda z: (weight * z).sum((1, 2)),
        project(0.7),
        torch.zeros(4, 3, 5, dtype=dtype),
        steps=20,
        step_size=0.2,
        direction=direction,
    )
    expected = 0.7 * weight.flatten(1).norm(p=dual, dim=1)
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close((weight * found.point).sum((1, 2)), found.value)
    assert found.point.dtype == dtype


def test_a_quadratic_form_on_the_ball_reaches_its_largest_eigenvalue():
    factor = draw(3, 6, 6)
    matrix = factor @ factor.mT
    found = projected_ascent(
        lambda z: torch.einsum("ni,nij,nj->n", z, matrix, z), ball(1.0), draw(3, 6, seed=1), steps=500, step_size=1.0
    )
    torch.testing.assert_close(found.value, torch.linalg.eigvalsh(matrix)[:, -1], rtol=1e-4, atol=0)


def test_the_nearest_point_of_a_simplex():
    target = draw(5, 4)
    found = projected_ascent(
        lambda z: -(z - target).square().sum(1), simplex, torch.full((5, 4), 0.25).double(), steps=300, step_size=0.5
    )
    torch.testing.assert_close(found.point, simplex(target), atol=2e-3, rtol=0)


def bumps(z):
    """Two maxima on a line: 1 at -1 and 3 at 2."""
    z = z[:, 0]
    return torch.exp(-4 * (z + 1) ** 2) + 3 * torch.exp(-4 * (z - 2) ** 2)


def test_restarts_find_the_higher_of_two_maxima_and_each_example_keeps_its_own():
    one = projected_ascent(bumps, box(3.0), torch.tensor([[-1.2], [1.8]]), steps=50, step_size=0.2)
    torch.testing.assert_close(one.value, torch.tensor([1.0, 3.0]), atol=1e-4, rtol=0)

    def start(generator):
        return 6 * torch.rand(8, 1, generator=generator, dtype=torch.float64) - 3

    many = projected_ascent(bumps, box(3.0), start, steps=50, step_size=0.2, restarts=12, generator=0)
    torch.testing.assert_close(many.point, torch.full((8, 1), 2.0, dtype=torch.float64), atol=1e-3, rtol=0)
    assert many.history.shape == (12, 51, 8)
    assert (many.history[:, 0].max(0).values < 2.9).any()  # drawn starts alone did not find it
    torch.testing.assert_close(many.value, many.history.amax((0, 1)))
    again = projected_ascent(bumps, box(3.0), start, steps=50, step_size=0.2, restarts=12, generator=0)
    assert torch.equal(many.point, again.point)
    assert torch.equal(many.history, again.history)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    step=st.floats(1e-3, 1e3),
    radius=st.floats(0.01, 10),
    norm=st.sampled_from(["2", "inf"]),
)
def test_never_worse_than_the_start_and_never_outside(seed, step, radius, norm):
    centre, start = draw(3, 4, seed=seed), draw(3, 4, seed=seed + 1)

    def rough(z):
        return (5 * (z - centre)).sin().sum(1) + (z * centre).sum(1)

    project = ball(radius)
    found = projected_ascent(rough, project, start, steps=5, step_size=step, direction=norm)
    assert (found.value >= rough(project(start))).all()
    assert (found.point.norm(dim=1) <= radius * (1 + 1e-12)).all()
    assert (found.history.diff(dim=1) >= 0).all()
    torch.testing.assert_close(rough(found.point), found.value)


def test_examples_do_not_see_each_other():
    """A batch gives what its examples give alone, though all share the loop."""
    centre = draw(4, 3)

    def objective(rows):
        return lambda z: (3 * (z - centre[rows])).cos().sum(1)

    options = {"steps": 15, "step_size": 0.5}
    together = projected_ascent(objective(slice(None)), ball(1.0), torch.zeros(4, 3).double(), **options)
    for i in range(4):
        alone = projected_ascent(objective(slice(i, i + 1)), ball(1.0), torch.zeros(1, 3).double(), **options)
        torch.testing.assert_close(together.point[i], alone.point[0], rtol=1e-12, atol=1e-12)


def test_steps_may_differ_by_example():
    step = torch.tensor([0.25, 0.5])
    found = projected_ascent(lambda z: z.sum(1), box(10.0), torch.zeros(2, 1), steps=1, step_size=step)
    assert found.point[:, 0].tolist() == [0.25, 0.5]


def test_stops_where_nothing_moves():
    calls = []

    def objective(z):
        calls.append(len(z))
        return z.sum(1)

    found = projected_ascent(objective, box(1.0), torch.zeros(2, 3), steps=1000, step_size=1.0, direction="inf")
    assert found.value.tolist() == [3.0, 3.0]
    assert len(calls) <= 3
    assert found.history.shape == (1, 1001, 2)
    flat = projected_ascent(lambda z: 0 * z.sum(1), box(1.0), torch.zeros(2, 3), steps=1000, step_size=1.0)
    assert flat.value.tolist() == [0.0, 0.0]


def test_other_gradients_are_left_alone_and_no_grad_does_not_matter():
    weight = draw(3).requires_grad_()
    with torch.no_grad():
        found = projected_ascent(lambda z: z @ weight, ball(1.0), torch.zeros(2, 3).double(), steps=3, step_size=1.0)
    assert weight.grad is None
    assert not found.point.requires_grad
    assert not found.value.requires_grad


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_unit_directions(scale):
    gradient = torch.cat([scale * draw(2, 3, 4), torch.zeros(1, 3, 4).double()])
    two = unit_direction(gradient, "2").flatten(1).norm(dim=1)
    torch.testing.assert_close(two, torch.tensor([1.0, 1.0, 0.0]).double())
    assert unit_direction(gradient, "inf").flatten(1).abs().amax(1).tolist() == [1.0, 1.0, 0.0]


def nan_gradient(z):
    return (z.sum(1) * 0).sqrt()  # the value is 0, the derivative 0 * inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"restarts": 2.0}, "restarts: expected a whole number"),
        ({"restarts": 2}, "start: expected a function that draws points, as restarts is 2"),
        ({"step_size": 0.0}, "step_size: expected a positive finite number"),
        ({"step_size": math.inf}, "step_size: expected a positive finite number"),
        ({"step_size": torch.ones(3)}, "step_size: expected a positive finite number, or 2 of them"),
        ({"direction": "l2"}, "direction: expected '2', 'inf' or a function, got 'l2'; did you mean '2'"),
        ({"objective": lambda z: z.sum()}, r"objective: expected a tensor of 2 values, .* got shape \(\)"),
        ({"objective": lambda z: 1.0}, "objective: expected a tensor of 2 values, .* got float"),
        ({"objective": lambda z: z.detach().sum(1)}, "objective: expected values that depend differentiably"),
        ({"objective": lambda z: z.sum(1) / 0 * 0}, "objective: expected finite values, got others at example 0"),
        ({"objective": nan_gradient}, "objective: expected finite gradients"),
        ({"project": lambda z: z[:1]}, r"project: expected points of shape \(2, 3\), got \(1, 3\)"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "objective": lambda z: z.sum(1),
        "project": box(1.0),
        "start": torch.zeros(2, 3),
        "steps": 3,
        "step_size": 0.1,
    } | change
    with pytest.raises(ValueError, match=message):
        projected_ascent(**arguments)
