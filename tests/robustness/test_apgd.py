"""Auto-PGD against a plain loop of the paper's algorithm, its checkpoints, and functions that plain steps fail on."""

import math

import pytest
import torch
from torch import nn

from hilbertnet.complexity.margins import margins
from hilbertnet.robustness.apgd import apgd, checkpoints
from hilbertnet.robustness.attacks import fgm, pgd
from hilbertnet.robustness.threats import Ball


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_checkpoints_are_those_of_the_paper():
    """P = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9]
    assert checkpoints(1) == []


def naive(function, x, radius, norm, steps):
    """Algorithm 1 for one example without bounds, word by word; returns the point of the largest value."""

    def project(z):
        delta = z - x
        return x + (
            delta.clamp(-radius, radius) if norm == "inf" else delta * min(1.0, radius / (delta.norm() + 1e-300))
        )

    def look(z):
        variable = z.clone().requires_grad_()
        value = function(variable)
        (slope,) = torch.autograd.grad(value, variable)
        return float(value.detach()), slope.sign() if norm == "inf" else slope / slope.norm()

    points, (value, slope) = [x], look(x)
    values, slopes, eta = [value], [slope], 2 * radius
    points.append(project(x + eta * slope))
    value, slope = look(points[1])
    values.append(value)
    slopes.append(slope)
    first = int(values[1] > values[0])
    f_max, x_max, s_max = values[first], points[first], slopes[first]
    halved, f_before, w_before, rises = False, values[0], 0, [values[1] > values[0]]
    for k in range(1, steps):
        if k in checkpoints(steps):
            few = sum(rises[w_before:k]) < 0.75 * (k - w_before)
            same = not halved and f_max == f_before
            halved = few or same
            if halved:
                eta /= 2
                points[k], values[k], slopes[k] = x_max, f_max, s_max
            f_before, w_before = f_max, k
        z = project(points[k] + eta * slopes[k])
        points.append(project(points[k] + 0.75 * (z - points[k]) + 0.25 * (points[k] - points[k - 1])))
        value, slope = look(points[k + 1])
        values.append(value)
        slopes.append(slope)
        rises.append(values[k + 1] > values[k])
        if value > f_max:
            f_max, x_max, s_max = value, points[k + 1], slope
    return x_max, f_max


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("steps", [3, 25])
def test_the_algorithm_word_by_word(norm, steps):
    """On a wavy margin of two classes, where the largest margin is the best point."""
    weight, x = draw(5, 3), draw(4, 5, seed=1)

    def model(z):
        return (2 * (z @ weight).sin()).sum(1) + 0.5 * (z * z).sum(1)

    y = torch.zeros(4, dtype=torch.int64)
    found = apgd(model, x, y, Ball(norm, 1.0, None), steps=steps, loss="margin")
    for i in range(4):
        point, value = naive(lambda z: model(z[None])[0], x[i], 1.0, norm, steps)
        assert float(model(found[i : i + 1])) == pytest.approx(value, rel=1e-9)
        torch.testing.assert_close(found[i], point, rtol=1e-7, atol=1e-7)


def test_a_maximum_inside_the_ball_is_found():
    """Curvature differs by 25: steps must shrink, which the published ones without adaptation do not."""
    x, y = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    top = torch.tensor([[0.6, 0.3], [-0.2, 0.5], [0.1, -0.7]], dtype=torch.float64)

    def model(z):
        return -((z - top) ** 2 * torch.tensor([1.0, 25.0])).sum(1)

    found = {
        name: float(-model(attack(model, x, y, Ball("2", 1.0, None), loss="margin", **options)).min())
        for name, attack, options in [
            ("fgm", fgm, {}), ("fixed", pgd, {"adapt": False, "steps": 100}), ("apgd", apgd, {"steps": 100})
        ]
    }  # fmt: skip
    assert found["apgd"] < 1e-3 < 0.1 < found["fgm"]
    assert found["apgd"] < found["fixed"]


def test_scaled_logits_blind_cross_entropy_and_not_the_ratio():
    """Croce and Hein, section 4: logits times a large number have no slope left in float32's cross-entropy."""
    weight, x = draw(10, 4).float(), 0.1 * draw(20, 10, seed=1).float()
    y = (x @ weight).argmax(1)

    def model(z):
        return 1e4 * (z @ weight)

    threat = Ball("2", 0.2, None)
    ratio, margin = (apgd(model, x, y, threat, steps=20, loss=loss, targets=3) for loss in ("dlr", "margin"))
    wrong = [(model(z).argmax(1) != y).double().mean() for z in (ratio, margin)]
    assert wrong[0] == wrong[1] > 0.5
    half = apgd(lambda z: 1e-4 * model(z), x, y, threat, steps=20, loss="dlr", targets=3)
    torch.testing.assert_close(half, ratio, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_ratio_of_few_classes_attacks_the_margin(outputs):
    weight, x = draw(10, outputs), 0.1 * draw(20, 10, seed=1)
    y = torch.arange(20) % max(outputs, 2)
    found = apgd(lambda z: z @ weight, x, y, Ball("2", 0.3, None), steps=20, loss="dlr", targets=4)
    if outputs < 3:
        expected = apgd(lambda z: z @ weight, x, y, Ball("2", 0.3, None), steps=20, loss="margin")
        torch.testing.assert_close(margins(found @ weight, y), margins(expected @ weight, y))
    assert (margins(found @ weight, y) < margins(x @ weight, y)).all()


def test_restarts_help_where_the_first_start_has_no_slope():
    """Nothing changes within 0.05 of x: only random starts see the class beyond."""
    x, y = torch.full((8, 3), 0.5, dtype=torch.float64), torch.ones(8, dtype=torch.int64)

    def model(z):
        away = (z - 0.5).norm(dim=1, keepdim=True)
        return 0.01 - nn.functional.relu(away - 0.05)

    threat = Ball("2", 0.2)
    assert torch.equal(apgd(model, x, y, threat, steps=20), x)
    moved = apgd(model, x, y, threat, steps=20, restarts=4, generator=0)
    assert (model(moved) < 0).double().mean() > 0.8
    assert math.isclose(float((moved - x).norm(dim=1).max()), 0.2, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"restarts": 0}, "restarts: expected a whole number of at least 1, got 0"),
        ({"targets": -1}, "targets: expected a whole number of at least 0, got -1"),
        ({"loss": "drl"}, "loss: expected .* did you mean 'dlr'"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        apgd(lambda z: z, torch.ones(3, 4), torch.tensor([0, 1, 2]), Ball("2", 0.5), **change)
