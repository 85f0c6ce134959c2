"""Small ReLU networks, whose nearest wrong points are known: attacks come near, certificates stay below.

In each pattern of which hidden units are on, logits are linear on a polyhedron. The nearest point of each that is
decided wrongly is a least distance problem in l2 (C. Lawson and R. Hanson, "Solving least squares problems", 1974,
chapter 23) and a linear program in l_inf; the nearest of all patterns is the nearest of all.
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from torch import nn

from hilbertnet.complexity import norm_bounds
from hilbertnet.complexity.certificates import LipschitzConstants, certified_radii
from hilbertnet.losses import decide
from hilbertnet.robustness import Ball, apgd, evaluate, fmn, pgd

PIXELS, HIDDEN, EXAMPLES = 4, 5, 8


@functools.cache
def network(outputs):
    """A net of 4 pixels and 6 hidden units, and points that are decided as they are labelled."""
    rng = torch.Generator().manual_seed(outputs)
    net = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        x = torch.rand(EXAMPLES, PIXELS, generator=rng, dtype=torch.float64)
        net[2].bias -= net(x).mean(0)
    net.eval().requires_grad_(False)
    return net, x, decide(net(x))


def nearest_in_l2(rows, offsets, x):
    """The least ``||z - x||`` with ``rows z >= offsets``, infinite where there is none."""
    least = offsets - rows @ x
    system, aim = np.vstack([rows.T, least]), np.zeros(len(x) + 1)
    aim[-1] = 1.0
    weights, gap = nnls(system, aim, maxiter=1000)
    rest = system @ weights - aim
    return math.inf if gap < 1e-9 else float(np.linalg.norm(rest[:-1] / rest[-1]))


def nearest_in_sup(rows, offsets, x):
    """The same in l_inf: the least t with ``|z - x| <= t`` in every pixel."""
    eye, one = np.eye(len(x)), np.ones((len(x), 1))
    above = np.block([[-rows, np.zeros((len(rows), 1))], [eye, -one], [-eye, -one]])
    bounds = [(None, None)] * len(x) + [(0, None)]
    found = linprog(np.append(np.zeros(len(x)), 1.0), above, np.concatenate([-offsets, x, -x]), bounds=bounds)
    return float(found.fun) if found.status == 0 else math.inf


@functools.cache
def exact_distances(outputs, norm):
    """Of every example to the nearest point of the unit box that another class has at least the label's logit in."""
    net, x, y = network(outputs)
    first, shift, last, constant = (p.numpy() for p in net.parameters())
    box = np.vstack([np.eye(PIXELS), -np.eye(PIXELS)])
    walls = np.concatenate([np.zeros(PIXELS), -np.ones(PIXELS)])
    solve, found = (nearest_in_l2 if norm == "2" else nearest_in_sup), []
    for point, label in zip(x.numpy(), y.tolist(), strict=True):
        rivals = [j for j in range(max(outputs, 2)) if j != label]
        each = []
        for pattern in itertools.product([0.0, 1.0], repeat=HIDDEN):
            on = np.array(pattern)
            sides = 2 * on - 1
            values, levels = last * on @ first, last * on @ shift + constant
            for j in rivals:
                # one logit: above 0 is class 1
                lead, level = (
                    ((1 - 2 * label) * values[0], (1 - 2 * label) * levels[0])
                    if outputs == 1
                    else (values[j] - values[label], levels[j] - levels[label])
                )
                rows = np.vstack([sides[:, None] * first, box, lead])
                each.append(solve(rows, np.concatenate([-sides * shift, walls, [-level]]), point))
        found.append(min(each))
    return torch.tensor(found, dtype=torch.float64)


CASES = pytest.mark.parametrize(("outputs", "norm"), [(1, "2"), (3, "2"), (3, "inf")])


@CASES
def test_minimal_norms_come_near_the_exact_distance_and_never_below(outputs, norm):
    net, x, y = network(outputs)
    exact = exact_distances(outputs, norm)
    assert exact.isfinite().all()
    ratio = fmn(net, x, y, norm=norm, restarts=3, targets=2, generator=0).distance / exact
    assert ratio.min() >= 1 - 1e-6
    assert ratio.median() < 1.001
    assert ratio.max() < 1.03


@CASES
@pytest.mark.parametrize("attack", [pgd, apgd])
def test_attacks_break_what_can_be_broken_and_nothing_else(outputs, norm, attack):
    """At radii between the exact distances, where attacks of a given size have a few percent to spare."""
    net, x, y = network(outputs)
    exact = exact_distances(outputs, norm)
    ordered = exact.sort().values
    apart = ordered[1:] / ordered[:-1]
    radii = (ordered[1:] * ordered[:-1]).sqrt()[apart > 1.05][::2]
    assert len(radii) > 2
    one = functools.partial(attack, steps=20, targets=2)
    found = evaluate(net, x, y, Ball(norm, 0.0), radii, attacks=[one], generator=0, checks=False, progress=False)
    assert torch.equal(found.survived, exact > radii[:, None])


@CASES
def test_certificates_are_below_the_exact_distance(outputs, norm):
    net, x, y = network(outputs)
    bounds = norm_bounds(net, (PIXELS,))
    constants = LipschitzConstants.from_layers(bounds, pixels=PIXELS if norm == "inf" else None)
    share = certified_radii(net(x), y, constants, unit=Ball(norm, 0.0).name).best / exact_distances(outputs, norm)
    assert share.max() <= 1
    assert share.min() > 0
    assert share.max() > 0.2
