"""Attacks against optima in closed form; they stay inside their balls; certificates are never above what they leave."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertnet.complexity.certificates import LipschitzConstants, certified_radii
from hilbertnet.complexity.functions import KernelMachine
from hilbertnet.complexity.margins import margins
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_below import lower_bounds
from hilbertnet.data import load
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.ridge import ridge_solve
from hilbertnet.losses import decide
from hilbertnet.robustness import Ball, attacked_accuracy, pgd


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def linear(weight):
    return lambda z: z.flatten(1) @ weight


def digits(n, classes=10):
    data = load("digits")
    rows = torch.from_numpy(data.y < classes).nonzero()[:n, 0]
    return torch.from_numpy(data.x)[rows], torch.from_numpy(data.y)[rows]


def trained(net, x, y, steps=60, seed=0):
    """Weights from a seed, then some full-batch steps."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 1e6
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * math.sqrt(2 / fan))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


# --- optima in closed form


@pytest.mark.parametrize(("norm", "dual"), [("2", 2.0), ("inf", 1.0)])
def test_many_classes_of_a_linear_model(norm, dual):
    """Least over j of the gap less radius times the dual norm of w_y - w_j; aimed at one by one, classes are found."""
    weight, x, y = draw(8, 5), draw(30, 8, seed=1), torch.arange(30) % 5
    adversarial = pgd(linear(weight), x, y, Ball(norm, 0.4, None), steps=100, targets=9)
    scores = x @ weight
    gaps = scores.gather(1, y[:, None]) - scores
    lengths = (weight[:, y].T[:, :, None] - weight[None]).norm(p=dual, dim=1)
    expected = (gaps - 0.4 * lengths).scatter(1, y[:, None], math.inf).amin(1)
    found = margins(adversarial @ weight, y)
    assert (found >= expected - 1e-9).all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_bounds_of_pixels_in_closed_form():
    """l_inf in a box: every pixel goes to the nearer of its two limits in its direction."""
    weight, x = draw(16, 1), draw(4, 1, 4, 4, seed=1).sigmoid()
    y = torch.ones(4, dtype=torch.int64)
    adversarial = pgd(linear(weight), x, y, Ball("inf", 0.3))
    expected = (x - 0.3 * weight.reshape(1, 1, 4, 4).sign()).clamp(0, 1)
    torch.testing.assert_close(adversarial, expected)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), norm=st.sampled_from(["2", "inf"]), radius=st.floats(1e-3, 1), loss=st.sampled_from(
    ["margin", "logistic", "squared_hinge"]))  # fmt: skip
def test_attacks_stay_inside_and_never_lower_the_loss(seed, norm, radius, loss):
    weight, x, y = draw(12, 3, seed=seed, dtype=torch.float32), draw(5, 12, seed=seed + 1).sigmoid().float(), None
    y, threat = torch.arange(5) % 3, Ball(norm, radius)

    def model(z):
        return (3 * z).sin() @ weight

    adversarial = pgd(model, x, y, threat, steps=5, restarts=2, step_size=5.0, loss=loss, generator=seed)
    assert (threat.length(adversarial.double() - x.double()) <= radius).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    if loss == "margin":
        assert (margins(model(adversarial), y) <= margins(model(x), y)).all()


def test_a_radius_of_zero_and_a_model_without_slope():
    x, y = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0])
    assert torch.equal(pgd(linear(torch.ones(4, 1)), x, y, Ball("2", 0.0)), x)
    assert torch.equal(pgd(lambda z: 0 * z[:, :1] + 1, x, y, Ball("2", 0.5)), x)


@pytest.mark.parametrize("loss", ["margin", "logistic", "squared_hinge", "dlr", lambda z, y: z.sum(1) - z[:, y[0]]])
def test_targets_are_reached_where_they_can_be(loss):
    """Linear functions: the target's lead over the label can grow by radius times the norm of their difference."""
    weight, x, y = draw(8, 4), 0.1 * draw(30, 8, seed=1), torch.zeros(30, dtype=torch.int64)
    target = torch.arange(30) % 3 + 1
    moved = pgd(linear(weight), x, y, Ball("2", 2.0, None), target=target, loss=loss, adapt=False, steps=60)
    if callable(loss):  # labels and targets are its own business: less of the loss of the first target
        assert (loss(moved @ weight, target) <= loss(x @ weight, target)).all()
        return
    scores = moved @ weight
    least = margins(scores, target)  # of the target over all others, which a point of the ball must have
    some = Ball("2", 2.0, None).retract(x + 2 * (weight[:, target].T - weight.mean(1)), x)
    can = margins(some @ weight, target) > 0
    assert can.double().mean() > 0.5
    assert (least[can] > 0).all()


def test_published_steps_are_those_of_a_plain_loop():
    """Steps of one length, each from where the last has led; the largest loss of the path is kept."""
    x, y = digits(12)
    net = trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)), x, y).double()
    x, point = x.double(), x.double()
    best, largest = x, nn.functional.cross_entropy(net(x), y, reduction="none")
    wrong = net(x).argmax(1) != y
    for _ in range(5):
        variable = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(variable), y), variable)
        delta = point + 0.3 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None] - x
        point = x + delta * (0.5 / delta.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
        found, missed = nn.functional.cross_entropy(net(point), y, reduction="none"), net(point).argmax(1) != y
        won = (missed & ~wrong) | ((missed == wrong) & (found > largest))
        best, largest = torch.where(won[:, None, None, None], point, best), torch.where(won, found, largest)
        wrong = wrong | missed
    moved = pgd(net, x, y, Ball("2", 0.5, None), steps=5, step_size=0.3, adapt=False, loss="logistic")
    torch.testing.assert_close(moved, best, rtol=1e-9, atol=1e-9)


def test_stronger_than_chance_and_than_one_step():
    x, y = digits(80)
    net = trained(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)), x, y, 80)
    threat = Ball("2", 0.7)
    found = margins(net(pgd(net, x, y, threat, steps=20)), y)
    variable = x.clone().requires_grad_()
    margins(net(variable), y).sum().backward()
    slope = variable.grad / variable.grad.flatten(1).norm(dim=1)[:, None, None, None]
    once = margins(net(threat.retract(x - 0.7 * slope, x)), y)
    assert (found <= once + 1e-5).double().mean() > 0.97
    assert found.mean() < once.mean() < margins(net(x), y).mean()
    for seed in range(20):
        chance = threat.retract(x + draw(*x.shape, seed=seed, dtype=torch.float32), x)
        assert (found <= margins(net(chance), y)).all()


# --- certified <= attacked


def spectral_product(net, shape):
    """Product of the exact spectral norms of linear layers and convolutions, from their matrices."""
    product, x = 1.0, torch.zeros(1, *shape)
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.AvgPool2d):
            bias = layer(torch.zeros_like(x))
            matrix = torch.stack([(layer(e.reshape(x.shape)) - bias).flatten() for e in torch.eye(x.numel())])
            product *= float(torch.linalg.matrix_norm(matrix.double(), 2))
        x = layer(x)
    return product * (1 + 1e-5)  # float32


def cnn(x, y, classes):
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(32, classes),
    )  # fmt: skip
    net = trained(net, x, y)
    return net, LipschitzConstants(vector=spectral_product(net, (1, 8, 8)))


def mlp(x, y, classes):
    net = trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, classes)), x, y)
    hidden = float(torch.linalg.matrix_norm(net[1].weight.double(), 2)) * (1 + 1e-5)
    last = net[3].weight.double()
    return net, LipschitzConstants.from_products(last @ last.T, hidden)


def linear_net(x, y, classes):
    net = trained(nn.Sequential(nn.Flatten(), nn.Linear(64, classes)), x, y, 200)
    weight = net[1].weight.double()
    return net, LipschitzConstants.from_products(weight @ weight.T, 1 + 1e-5)


def machine(kernel, x, targets):
    gram = kernel.gram(x)
    solved = ridge_solve(gram, targets.double(), 1e-2 * float(gram.diagonal().mean()))
    found = KernelMachine(kernel, x, solved.coefficients)
    lipschitz = embedding_lipschitz(kernel.arch, tuple(x.shape[2:]))
    return found, LipschitzConstants.from_products(found.products(), lipschitz)


def kernel_machine(x, y, classes):
    return machine(ConvKernel("3 exp(0.6) gauss2"), x, nn.functional.one_hot(y, classes) - 1 / classes)


def one_logit_machine(x, y, classes):
    return machine(ConvKernel("2 arccos1 gauss2 | 2 arccos1 global"), x, 2 * y[:, None] - 1)


@pytest.mark.parametrize("make", [cnn, mlp, linear_net])
def test_what_networks_do_is_below_what_their_layers_allow(make):
    """Slopes and differences on data and in balls against the constants of the same networks."""
    x, y = digits(40, 4)
    net, constants = make(x, y, 4)
    most = math.sqrt(2) * constants.vector if constants.difference is None else float(constants.difference[1, 2])
    found = lower_bounds(net, x, radii=[0.3], lipschitz=1.0, output=(1, 2), exact=most, steps=5, generator=0)
    assert all(0 < bound.value <= most * (1 + 1e-4) for bound in found.bounds), str(found)
    if make is linear_net:
        assert found["gradient"].value == pytest.approx(most, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "n", "classes"),
    [(cnn, 40, 4), (mlp, 40, 4), (linear_net, 40, 4), (kernel_machine, 10, 4), (one_logit_machine, 8, 2)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_certified_accuracy_is_never_above_attacked_accuracy(make, n, classes):
    x, y = digits(n, classes)
    if "machine" in make.__name__:
        x = nn.functional.avg_pool2d(x, 2).double()
    model, constants = make(x, y, classes)
    certificates = certified_radii(model(x).reshape(n, -1), y, constants)
    median = float(certificates.best.median())
    radii = [0.0, *(factor * median for factor in (0.5, 0.99)), 1.0, 3.0]
    found = attacked_accuracy(
        model, x, y, Ball("2", 1.0), radii, certificates=certificates, generator=0,
        attack=lambda *args, **options: pgd(*args, steps=6, **options),
    )  # fmt: skip
    assert median > 0
    for i, radius in enumerate(found.radii):
        certified = certificates.certified(radius)
        assert (found.survived[i] | ~certified).all(), f"radius {radius}\n{found}"  # example by example
        assert found.certified[i].value <= found.accuracy[i].value
    assert 0 < found.certified[2].value < 1
    assert found.accuracy[-1].value < found.accuracy[0].value  # the attack does something
    assert torch.equal(found.survived[0], decide(model(x).reshape(n, -1)) == y)
    assert [interval.value for interval in found.accuracy] == sorted((i.value for i in found.accuracy), reverse=True)
    assert str(found).splitlines()[1].split() == ["l2", "radius", "attacked", "(%)", "certified", "(%)"]


def test_tight_for_linear_models_of_two_classes():
    """The certified radius is the distance to the boundary, which the attack crosses just beyond."""
    x, y = digits(60, 2)
    net = trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), x, y, 100).double()
    x, weight = x.double(), net[1].weight
    certificates = certified_radii(net(x), y, LipschitzConstants.from_products(weight @ weight.T))
    for radius in certificates.best.quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist():
        below, beyond = (
            attacked_accuracy(net, x, y, Ball("2", radius * factor, None), certificates=certificates)
            for factor in (0.999, 1.001)
        )
        assert below.accuracy[0].value == below.certified[0].value
        assert beyond.accuracy[0].value == beyond.certified[0].value


# --- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 4, dtype=torch.int64)}, "x: expected a float32 or float64 tensor"),
        ({"x": torch.ones(3, 4).half()}, "x: expected a float32 or float64 tensor"),
        ({"x": torch.full((3, 4), math.nan)}, "x: expected finite numbers, got others at example 0"),
        ({"x": torch.full((3, 4), 1.5)}, r"x: expected values in \[0, 1\], the threat's bounds, got 1.5 to 1.5"),
        ({"y": torch.tensor([0, 1])}, "y: expected 3 numbers of classes"),
        ({"y": torch.tensor([0, 1, 2])}, "y: expected numbers of classes from 0 to 1, got 2"),
        ({"y": torch.tensor([0.0, 1.0, 1.0])}, "y: expected 3 whole numbers"),
        ({"threat": 0.5}, "threat: expected a Ball, got 0.5"),
        ({"steps": 0}, "steps: expected a whole number"),
        ({"restarts": 0}, "restarts: expected a whole number"),
        ({"targets": -1}, "targets: expected a whole number of at least 0, got -1"),
        ({"step_size": -1.0}, "step_size: expected a positive finite number"),
        ({"loss": "margins"}, "loss: expected .* did you mean 'margin'"),
        ({"loss": lambda scores, y: scores}, "loss: expected a tensor of 3 values, one for each example, got shape"),
        ({"target": torch.tensor([1, 0])}, "target: expected 3 numbers of classes"),
        ({"target": torch.tensor([1, 0, 0])}, "target: expected classes other than those of y, got 0 at example 2"),
        ({"target": torch.tensor([1, 0, 3])}, "target: expected numbers of classes from 0 to 1, got 3"),
        ({"target": torch.tensor([1, 0, 1]), "targets": 1}, "targets: expected 0 when the target of each example"),
        ({"batch_size": 0}, "batch_size: expected a whole number"),
        ({"model": lambda z: z.detach()[:, :1]}, "objective: expected values that depend differentiably"),
        ({"model": lambda z: z[:, :1] / 0}, "model: expected finite values, got others at example 0"),
        ({"model": lambda z: z[:2, :1]}, "model: expected a real tensor"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "model": linear(torch.ones(4, 2)),
        "x": torch.ones(3, 4),
        "y": torch.tensor([0, 1, 0]),
        "threat": Ball("2", 0.5),
    } | change
    with pytest.raises(ValueError, match=message):
        pgd(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: evaluate(radii=[]), "radii: expected real numbers"),
        (
            lambda: evaluate(attack=lambda model, x, y, threat, generator: x - 1),
            "attack: expected perturbations inside",
        ),
        (lambda: evaluate(attack=lambda model, x, y, threat, generator: x[:1]), "attack: expected signals of shape"),
        (lambda: evaluate(threat=Ball("inf", 0.1), certificates=some()), "certificates: expected an l2 threat"),
        (lambda: evaluate(certificates=some()), "certificates: expected those of this model"),
    ],
)
def test_bad_threats_and_evaluations(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def evaluate(threat=None, radii=None, **options):
    model, x, y = linear(torch.arange(8.0).reshape(4, 2)), torch.ones(3, 4), torch.tensor([1, 1, 0])
    return attacked_accuracy(model, x, y, threat or Ball("2", 0.5), radii, **options)


def some():
    return certified_radii(torch.ones(3, 2), torch.tensor([0, 1, 0]), LipschitzConstants(vector=1.0))
