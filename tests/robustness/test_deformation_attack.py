"""Deformation attacks against exhaustive translations and random fields; targets, boundaries, folds."""

import functools

import pytest
import torch
from torch import nn

from hilbertnet.complexity.margins import margins
from hilbertnet.deformations import FoldWarning, warp
from hilbertnet.deformations.field_set import FieldSet
from hilbertnet.robustness.deformation_attack import deformation_attack
from hilbertnet.robustness.threats import Deformations


def blobs(n=4, space=(9, 10), seed=0):
    """Smooth bright spots away from the edges."""
    rng = torch.Generator().manual_seed(seed)
    grids = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in space), indexing="ij")
    images = torch.zeros(n, 1, *space, dtype=torch.float64)
    for image in images:
        centre = [length * (0.35 + 0.3 * torch.rand((), generator=rng)) for length in space]
        image += torch.exp(-sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) / 4)
    return images


def network(classes=3, axes=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d if axes == 2 else nn.Conv1d
    net = nn.Sequential(conv(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(classes)).double()
    net(blobs(1, (9, 10)[:axes]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return net.eval().requires_grad_(False)


def test_translations_against_all_of_a_grid():
    x, net = blobs(), network()
    y = net(x).argmax(1)
    moved = deformation_attack(net, x, y, Deformations(1.5, 0.0), restarts=2, generator=0)
    steps = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)
    worst = torch.full((4,), torch.inf, dtype=torch.float64)
    for dy in steps:
        for dx in steps[dy**2 + steps**2 <= 1.5**2]:
            field = torch.stack([dy, dx])[None, :, None, None].expand(4, 2, 9, 10)
            worst = torch.minimum(worst, margins(net(warp(x, field)), y))
    clean = margins(net(x), y)
    lost = (clean - margins(net(moved), y)) / (clean - worst)
    assert (lost > 0.98).all()
    assert (lost < 1.02).all()


@pytest.mark.parametrize("axes", [1, 2])
def test_as_bad_as_the_worst_of_many_random_fields(axes):
    space = (9, 10)[:axes]
    x, net = blobs(space=space), network(axes=axes)
    y = net(x).argmax(1)
    clean = margins(net(x), y)
    moved = deformation_attack(net, x, y, Deformations(1.2, 0.4), steps=25, restarts=2, generator=0)
    found = clean - margins(net(moved), y)
    fields, rng = FieldSet(1.2, 0.4, space), torch.Generator().manual_seed(1)
    draws = [margins(net(warp(x, fields.draw(x, kind, rng))), y) for kind in ("zoom", "affine", "noise") * 10]
    worst = clean - torch.stack(draws).amin(0)
    assert found.mean() > 0.97 * worst.mean()
    assert (found > 0.8 * worst).all()
    assert found.mean() > 1.5 * (clean - torch.stack(draws)).mean(0).mean()


def test_larger_sets_allow_more():
    x, net = blobs(), network()
    y = net(x).argmax(1)
    losses = [
        margins(
            net(deformation_attack(net, x, y, Deformations(shift, gradient), restarts=1, steps=8, generator=0)), y
        ).mean()
        for shift, gradient in [(0.0, 0.3), (0.3, 0.1), (1.0, 0.3), (2.0, 0.5)]
    ]
    assert losses[0] == margins(net(x), y).mean()
    assert losses == sorted(losses, reverse=True)


def test_targets_boundaries_and_interpolation():
    x, net = blobs(), network(4)
    y = net(x).argmax(1)
    target = (y + 1) % 4
    threat = Deformations(1.5, 0.5)
    for options in ({}, {"boundary": "circular"}, {"interpolation": "cubic", "loss": "logistic"}):
        run = functools.partial(
            deformation_attack, net, x, y, threat, target=target, generator=0, restarts=1, steps=4, **options
        )
        moved = run()
        assert (net(moved).log_softmax(1) - net(x).log_softmax(1)).gather(1, target[:, None]).gt(0).all()
        assert torch.equal(moved, run())


def test_folds_are_warned_of():
    x, net = blobs(), network()
    with pytest.warns(FoldWarning):
        deformation_attack(net, x, net(x).argmax(1), Deformations(4.0, 6.0), generator=0, steps=5, restarts=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 4)}, r"x: expected images .* got shape \(3, 4\)"),
        ({"threat": 1.0}, "threat: expected Deformations, got 1.0"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"interpolation": "linear"}, "interpolation: expected"),
        ({"boundary": "zeros"}, "boundary: expected .*zero"),
        ({"loss": "margins"}, "did you mean 'margin'"),
    ],
)
def test_bad_input(change, message):
    arguments = {"model": network(), "x": blobs(3), "y": torch.tensor([0, 1, 2]), "threat": Deformations(1.0, 0.3)}
    with pytest.raises(ValueError, match=message):
        deformation_attack(**arguments | change)
