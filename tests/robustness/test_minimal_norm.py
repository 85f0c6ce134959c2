"""Minimal-norm attacks where the distance is known: spheres, boundaries that bend, seeds, bad input."""

import math

import pytest
import torch
from torch import nn

from hilbertnet.losses import decide
from hilbertnet.robustness.attacks import pgd
from hilbertnet.robustness.minimal_norm import MinimalNorm, fmn
from hilbertnet.robustness.threats import Ball


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sphere(z):
    """Class 1 inside the unit sphere."""
    return 1 - z.flatten(1).norm(dim=1)


def test_the_distance_to_a_sphere():
    x = draw(20, 6)
    x = x / x.norm(dim=1, keepdim=True) * torch.linspace(0.2, 0.95, 20)[:, None]
    y = torch.ones(20, dtype=torch.int64)
    found = fmn(sphere, x, y, norm="2", bounds=None)
    expected = 1 - x.norm(dim=1)
    torch.testing.assert_close(found.distance, expected, rtol=1e-3, atol=1e-4)
    assert (sphere(found.x_adv) <= 0).all()
    assert (sphere(x + 0.999 * (found.x_adv - x)) > 0).all()  # just past the boundary


def test_the_cube_about_a_point_that_reaches_a_sphere():
    """l_inf: the sphere is left when the corner in the point's own directions is outside."""
    x = draw(20, 6).sign() * torch.linspace(0.02, 0.3, 20)[:, None]
    found = fmn(sphere, x, torch.ones(20, dtype=torch.int64), norm="inf", bounds=None)
    expected = 1 / math.sqrt(6) - x.abs()[:, 0]
    torch.testing.assert_close(found.distance, expected, rtol=1e-3, atol=1e-4)


def test_what_is_wrong_already_what_cannot_be_and_what_is_in_another_class():
    x = torch.tensor([[0.1, 0.1], [0.9, 0.9], [0.5, 0.5]])
    weight = torch.eye(2)

    def model(z):
        return z @ weight - torch.tensor([0.0, 0.0]) + torch.tensor([0.0, 1e-3])

    found = fmn(lambda z: model(z) + torch.tensor([5.0, 0.0]), x, torch.tensor([0, 1, 0]))
    assert isinstance(found, MinimalNorm)
    assert found.distance.tolist() == [math.inf, 0.0, math.inf]
    assert torch.equal(found.x_adv, x)
    points, distances = fmn(model, x, torch.tensor([1, 0, 1]), norm="inf")
    assert distances[1] == 0
    torch.testing.assert_close(distances[[0, 2]], torch.full((2,), 5e-4, dtype=torch.float64), rtol=1e-2, atol=1e-6)
    assert (decide(model(points)) == torch.tensor([0, 1, 0])).all()


def test_targets_lie_farther():
    weight, x = draw(8, 4), draw(25, 8, seed=1)
    y = (x @ weight).argmax(1)
    target = (y + 2) % 4

    def model(z):
        return z @ weight

    anywhere = fmn(model, x, y, bounds=None, targets=3)
    there = fmn(model, x, y, bounds=None, target=target, steps=200)
    assert (decide(model(there.x_adv)) == target).all()
    assert (there.distance >= anywhere.distance * (1 - 1e-3)).all()
    # one of several half-spaces to be in: no nearer than the plane between the two classes
    gap = (x @ weight).gather(1, y[:, None])[:, 0] - (x @ weight).gather(1, target[:, None])[:, 0]
    plane = gap / (weight[:, y] - weight[:, target]).norm(dim=0)
    assert (there.distance >= plane * (1 - 1e-5)).all()
    alone = anywhere.x_adv[(decide(model(anywhere.x_adv)) == target)]
    assert len(alone) > 2
    same = decide(model(anywhere.x_adv)) == target
    torch.testing.assert_close(there.distance[same], anywhere.distance[same], rtol=1e-2, atol=1e-4)


def network():
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 4))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=rng))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_no_attack_of_a_smaller_radius_succeeds_more_often(norm):
    """Nine tenths of the distance found is not enough for projected gradients, whatever class they aim at."""
    net, x = network(), draw(60, 10, seed=1).float().sigmoid()
    y = decide(net(x))
    found = fmn(net, x, y, norm=norm, restarts=2, generator=0)
    assert found.distance.isfinite().double().mean() > 0.5
    wrong = []
    for i in range(0, 60, 12):
        radius = 0.9 * float(found.distance[i].clamp(max=0.9))
        moved = pgd(net, x[i : i + 1], y[i : i + 1], Ball(norm, radius), steps=20, targets=3)
        wrong.append(bool(decide(net(moved))[0] != y[i]))
    assert not any(wrong)


def test_seeds_restarts_and_other_units():
    net, x = network(), draw(30, 10, seed=1).float().sigmoid()
    y = decide(net(x))
    one = fmn(net, x, y, restarts=1)
    two, again = (fmn(net, x, y, restarts=3, generator=5) for _ in range(2))
    assert torch.equal(two.x_adv, again.x_adv)
    assert (two.distance <= one.distance * (1 + 1e-4)).all()
    # pixels of 0 to 255: the same points, in these units
    wide = fmn(lambda z: net(z / 255), 255 * x, y, bounds=(0, 255))
    torch.testing.assert_close(wide.distance / 255, one.distance, rtol=1e-2, atol=1e-4)


def test_examples_at_a_tie_and_models_without_slope():
    x, y = torch.full((2, 3), 0.5), torch.tensor([0, 1])
    tie = fmn(lambda z: torch.stack([z.sum(1), 3 - z.sum(1)], 1), x, y)
    assert tie.distance[0] < 1e-4  # decided for 0: a tie is right, and a hair beyond is not
    assert tie.distance[1] == 0
    flat = fmn(lambda z: 0 * z[:, :2] + torch.tensor([1.0, 0.0]), x, torch.tensor([0, 0]), bounds=None)
    assert flat.distance.tolist() == [math.inf, math.inf]
    assert torch.equal(flat.x_adv, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "1"}, "norm: expected '2' or 'inf', got '1'"),
        ({"bounds": (1, 0)}, "bounds: expected two increasing finite numbers"),
        ({"x": torch.full((3, 3), 2.0)}, r"x: expected values in \[0, 1\]"),
        ({"x": torch.ones(3, 3, dtype=torch.int64)}, "x: expected a float32 or float64 tensor"),
        ({"y": torch.tensor([0, 1, 3])}, "y: expected numbers of classes from 0 to 2, got 3"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"restarts": 0.5}, "restarts: expected a whole number of at least 1, got 0.5"),
        ({"targets": -1}, "targets: expected a whole number of at least 0, got -1"),
        ({"target": torch.tensor([0, 0, 0])}, "target: expected classes other than those of y, got 0 at example 0"),
        ({"target": torch.tensor([1, 2, 0]), "targets": 2}, "targets: expected 0 when the target of each"),
        ({"batch_size": 0}, "batch_size: expected a whole number"),
    ],
)
def test_bad_input(change, message):
    arguments = {"model": lambda z: z, "x": torch.ones(3, 3), "y": torch.tensor([0, 1, 2])} | change
    with pytest.raises(ValueError, match=message):
        fmn(**arguments)
