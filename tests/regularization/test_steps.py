"""The inner ascent of training: its steps, and the balls and boxes that hold its points."""

import math

import pytest
import torch

from hilbertnet.regularization.steps import ball, fixed_steps


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_steps_go_along_normalized_gradients_and_are_projected():
    target = torch.tensor([[3.0, 4.0], [0.1, 0.0], [0.0, 0.0]], dtype=torch.float64)
    start = torch.zeros_like(target)

    def closeness(z):
        return -(z - target).square().sum(1)

    found = fixed_steps(closeness, start, ball(start, 1.0), 0.3, 5)
    expected = [[0.6, 0.8], [0.3, 0.0], [0.0, 0.0]]  # the second jumps to and fro, the third has a gradient of 0
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    found = fixed_steps(closeness, start, ball(start, 1.0, "linf"), 0.3, 2, "linf")
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.6], dtype=torch.float64))
    assert torch.equal(fixed_steps(closeness, start, ball(start, 1.0), 0.3, 0), start)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_balls_hold_their_points(norm, box):
    centre = draw(50, 2, 7)
    project = ball(centre, 0.4, norm, box)
    far = centre + 3 * (draw(50, 2, 7, seed=1) - 0.5)
    found = project(far)
    lengths = (found - centre).flatten(1).norm(dim=1, p=2.0 if norm == "l2" else math.inf)
    assert (lengths <= 0.4 + 1e-12).all()
    torch.testing.assert_close(project(found), found)
    if box:
        assert found.min() >= 0
        assert found.max() <= 1
    else:
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.4))
    assert torch.equal(project(centre), centre)


@pytest.mark.parametrize("radius", [1e-30, 1e30])
def test_balls_of_any_size(radius):
    centre = torch.zeros(3, 2)
    far = radius * torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = radius * torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(ball(centre, radius)(far) / radius, expected / radius)


def test_a_centre_out_of_the_box_stays_where_it_is():
    centre = torch.tensor([[-0.3, 0.5, 1.2]], dtype=torch.float64)
    project = ball(centre, 0.4, "linf", (0.0, 1.0))
    assert torch.equal(project(centre), centre)
    far = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[-0.3, 0.9, 0.8], [0.1, 0.1, 1.2]], dtype=torch.float64)
    torch.testing.assert_close(project(far), expected)


def test_steps_refuse_what_has_no_gradient():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="model: expected logits that depend differentiably"):
        fixed_steps(lambda z: torch.ones(3), x, lambda z: z, 0.1, 1)
    with pytest.raises(ValueError, match="model: expected logits that depend differentiably"):
        fixed_steps(lambda z: torch.ones(3, requires_grad=True) * 2, x, lambda z: z, 0.1, 1)
    with pytest.raises(ValueError, match="objective: expected 3 values"):
        fixed_steps(lambda z: z, x, lambda z: z, 0.1, 1)
