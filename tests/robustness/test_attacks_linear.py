"""All attacks against optima in closed form, or of scipy: linear models of two and more classes, in a box and not."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize

from hilbertnet.complexity.margins import margins
from hilbertnet.robustness.apgd import apgd
from hilbertnet.robustness.attacks import fgm, pgd
from hilbertnet.robustness.minimal_norm import fmn
from hilbertnet.robustness.threats import Ball

ATTACKS = {
    "fgm": functools.partial(fgm, targets=9),
    "fgm-margin": functools.partial(fgm, loss="margin", targets=9),
    "pgd": functools.partial(pgd, targets=9, steps=20),
    "pgd-logistic": functools.partial(pgd, loss="logistic", targets=9, steps=20),
    "pgd-fixed": functools.partial(pgd, targets=9, adapt=False, steps=20),
    "pgd-5": functools.partial(pgd, targets=9, adapt=False, steps=5),
    "apgd": functools.partial(apgd, targets=9, steps=20),
    "apgd-margin": functools.partial(apgd, loss="margin", targets=9, steps=20),
}
BOUNDS = [None, (0.0, 1.0)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(outputs):
    """Signals that are decided rightly, some pixels of which are near their bounds."""
    weight, x = draw(12, outputs), (2 * draw(8, 1, 3, 4, seed=1)).sigmoid()
    constant = -(x.flatten(1) @ weight).mean(0)
    scores = x.flatten(1) @ weight + constant
    y = (scores[:, 0] > 0).long() if outputs == 1 else scores.argmax(1)
    return weight, constant, x, y


def directions(weight, y):
    """Per example and rival class, the weights whose linear function the adversary makes large."""
    if weight.shape[1] == 1:
        return [[(1 - 2 * int(label)) * weight[:, 0]] for label in y]
    return [[weight[:, j] - weight[:, label] for j in range(weight.shape[1]) if j != label] for label in y]


def most(w, x, norm, radius, bounds):
    """``max <w, delta>`` over the ball and the box: a pixel's part is clip(t w), with t by bisection for l2."""
    low, high = (-math.inf, math.inf) if bounds is None else (bounds[0] - x, bounds[1] - x)
    if norm == "inf":
        return float(w @ np.clip(radius * np.sign(w), low, high))
    if bounds is None:
        return float(radius * np.linalg.norm(w))

    def beyond(t):
        return np.linalg.norm(np.clip(t * w, low, high)) - radius

    t = 1e6 if beyond(1e6) < 0 else brentq(beyond, 0, 1e6, xtol=1e-14, rtol=1e-14)
    return float(w @ np.clip(t * w, low, high))


@functools.cache
def least_margins(outputs, norm, radius, bounds):
    weight, constant, x, y = problem(outputs)
    rows = x.flatten(1)
    scores = rows @ weight + constant
    found = []
    for i, rivals in enumerate(directions(weight, y)):
        label = int(y[i])
        if weight.shape[1] == 1:
            starts = [float((2 * label - 1) * scores[i, 0])]
        else:
            starts = [float(scores[i, label] - scores[i, j]) for j in range(scores.shape[1]) if j != label]
        gains = [most(w.numpy(), rows[i].numpy(), norm, radius, bounds) for w in rivals]
        found.append(min(start - gain for start, gain in zip(starts, gains, strict=True)))
    return torch.tensor(found, dtype=torch.float64)


def model_of(weight, constant):
    return lambda z: z.flatten(1) @ weight.to(z) + constant.to(z)


@pytest.mark.parametrize("bounds", BOUNDS, ids=["free", "box"])
@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_the_largest_loss_within_a_radius(name, outputs, norm, bounds):
    """Margins fall by at least 99% of the most that is possible, and by no more; what can be wrong is."""
    weight, constant, x, y = problem(outputs)
    model, radius = model_of(weight, constant), 0.8 if norm == "2" else 0.2
    before = margins(model(x), y)
    expected = least_margins(outputs, norm, radius, bounds)
    found = margins(model(ATTACKS[name](model, x, y, Ball(norm, radius, bounds), generator=0)), y)
    assert (found >= expected - 1e-9).all()
    lost = (before - found) / (before - expected)
    assert (found[expected < 0] < 0).all()
    if outputs == 1 or not ("logistic" in name or name in ("fgm", "apgd")):
        # cross-entropies of many classes are largest elsewhere
        assert (lost >= 0.99).all()


# --- minimal norms


def least_distance(w, gap, x, norm, bounds):
    """The least length of delta with ``<w, delta> >= gap`` within bounds, infinity where there is none."""
    if bounds is None:
        return gap / np.linalg.norm(w, 2 if norm == "2" else 1)
    if norm == "inf":

        def lacking(radius):
            return most(w, x, "inf", radius, bounds) - gap

        return math.inf if lacking(1.0) < 0 else brentq(lacking, 0, 1.0, xtol=1e-14)
    if most(w, x, "inf", 1.0, bounds) < gap:
        return math.inf
    start = np.where(w > 0, bounds[1] - x, bounds[0] - x)
    found = minimize(
        lambda d: d @ d, start, jac=lambda d: 2 * d, method="SLSQP", options={"maxiter": 500, "ftol": 1e-15},
        bounds=list(zip(bounds[0] - x, bounds[1] - x, strict=True)),
        constraints=[{"type": "ineq", "fun": lambda d: w @ d - gap, "jac": lambda d: w}],
    )  # fmt: skip
    assert found.success
    return float(np.linalg.norm(found.x))


@pytest.mark.parametrize("bounds", BOUNDS, ids=["free", "box"])
@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize(("outputs", "dtype"), [(1, torch.float64), (2, torch.float32), (5, torch.float64)])
def test_the_nearest_misclassified_point(outputs, norm, bounds, dtype):
    weight, constant, x, y = problem(outputs)
    model, rows = model_of(weight, constant), x.flatten(1)
    scores, expected = rows @ weight + constant, []
    for i, rivals in enumerate(directions(weight, y)):
        label = int(y[i])
        others = [j for j in range(outputs) if j != label] if outputs > 1 else [0]
        gaps = [abs(float(scores[i, 0])) if outputs == 1 else float(scores[i, label] - scores[i, j]) for j in others]
        each = [least_distance(w.numpy(), g, rows[i].numpy(), norm, bounds) for w, g in zip(rivals, gaps, strict=True)]
        expected.append(min(each))
    expected = torch.tensor(expected, dtype=torch.float64)
    found = fmn(model, x.to(dtype), y, norm=norm, bounds=bounds, targets=9, generator=0)
    assert found.x_adv.dtype == dtype
    reachable = expected.isfinite()
    assert reachable.double().mean() > 0.5
    assert torch.equal(found.distance.isfinite(), reachable)
    assert (margins(model(found.x_adv)[reachable], y[reachable]) <= 0).all()
    assert torch.equal(found.x_adv[~reachable], x.to(dtype)[~reachable])
    length = Ball(norm, 0.0, bounds).length(found.x_adv.double() - x.to(dtype).double())
    torch.testing.assert_close(found.distance[reachable], length[reachable])
    ratio = found.distance[reachable] / expected[reachable]
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() <= 1.001
