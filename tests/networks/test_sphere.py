"""Steps on the sphere: they stay there, follow geodesics and carry momentum; other parameters take torch's steps."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertnet import CKN
from hilbertnet.networks import SphereSGD, filters_and_others


def points(rows=6, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(nn.functional.normalize(torch.randn(rows, size, generator=generator, dtype=torch.float64)))


def sphere(parameter, **settings):
    return SphereSGD([{"params": [parameter], "sphere": True}], **settings)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-4, 3.0), st.floats(0.0, 0.99), st.integers(0, 100))
def test_filters_stay_unit_and_momentum_tangent(lr, momentum, seed):
    w = points(seed=seed)
    optimizer = sphere(w, lr=lr, momentum=momentum)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        w.grad = torch.randn(w.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(w.detach().norm(dim=1), torch.ones(6, dtype=torch.float64))
        if momentum:
            m = optimizer.state[w]["momentum"]
            assert (m * w.detach()).sum(1).abs().max() <= 1e-10 * (1 + m.norm())


def test_one_step_goes_along_the_geodesic_by_rate_times_norm():
    w = points()
    before = w.detach().clone()
    grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tangent = grad - (grad * before).sum(1, keepdim=True) * before
    w.grad = grad
    sphere(w, lr=0.3).step()
    angle = (before * w.detach()).sum(1).clamp(-1, 1).acos()
    torch.testing.assert_close(angle, 0.3 * tangent.norm(dim=1))
    # it lies in the plane of the filter and its gradient, on the other side
    assert ((w.detach() * tangent).sum(1) < 0).all()
    plane = torch.stack([before, tangent], dim=2)
    solved = torch.linalg.lstsq(plane, w.detach()[:, :, None])
    torch.testing.assert_close(plane @ solved.solution, w.detach()[:, :, None])


def test_momentum_without_gradient_goes_on_along_the_same_great_circle():
    w = points(1)
    optimizer = sphere(w, lr=0.1, momentum=0.5)
    w.grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = w.detach().clone()
    optimizer.step()
    first = w.detach().clone()
    speed = optimizer.state[w]["momentum"].norm()
    w.grad = torch.zeros_like(w)
    optimizer.step()
    second = w.detach()
    # three points of one great circle have rank 2, and the second arc has half the length of the first
    assert torch.linalg.svdvals(torch.cat([start, first, second]))[2] < 1e-12
    assert torch.acos((first * second).sum()) == pytest.approx(0.1 * 0.5 * float(speed))
    torch.testing.assert_close(optimizer.state[w]["momentum"].norm(), 0.5 * speed)


def test_it_finds_the_top_eigenvector():
    a = torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    a = a @ a.T
    w = points(1, 8)
    optimizer = sphere(w, lr=0.01, momentum=0.9)
    for _ in range(500):
        optimizer.zero_grad()
        (-(w @ a @ w.T).sum()).backward()
        optimizer.step()
    top = torch.linalg.eigh(a).eigenvectors[:, -1]
    assert float((w.detach() @ top).abs()) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_other_parameters_take_the_steps_of_torch(momentum, decay):
    ours, theirs = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))
    one = SphereSGD([ours], lr=0.1, momentum=momentum, weight_decay=decay)
    two = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, weight_decay=decay)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ours.grad = torch.randn(4, 3, generator=generator)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(ours, theirs)


def test_filters_and_others_of_a_model():
    net = CKN("3 exp(0.6) gauss2 | 1 poly2 -", 1, (4, 6), generator=0).requires_grad_()
    model = nn.Sequential(nn.Conv2d(1, 1, 1), net, nn.Flatten(), nn.Linear(6, 2))
    filters, others = filters_and_others(model)
    assert [tuple(f.shape) for f in filters] == [(4, 1, 3, 3), (6, 4, 1, 1)]
    assert len(others) == 4
    net.requires_grad_(False)
    assert filters_and_others(model)[0] == []


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight"),
    ],
)
def test_bad_numbers_are_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        sphere(points(), **{"lr": 0.1, **wrong})
