"""What all attacks promise: shapes, sets, seeds, a model that is left as it was, nothing worse than before."""

import functools
import math

import pytest
import torch
from torch import nn

from hilbertnet.complexity.functions import outputs
from hilbertnet.losses import decide
from hilbertnet.robustness.apgd import apgd
from hilbertnet.robustness.attacks import fgm, pgd
from hilbertnet.robustness.deformation_attack import deformation_attack
from hilbertnet.robustness.goals import attack_loss
from hilbertnet.robustness.minimal_norm import fmn
from hilbertnet.robustness.threats import Ball, Deformations


def nearest_point(model, x, y, threat, **options):
    """A minimal-norm attack as one of a radius: what is farther is not moved at all."""
    found = fmn(model, x, y, norm=threat.norm, bounds=threat.bounds, **options)
    inside = (found.distance <= threat.radius).reshape(-1, *(1,) * (x.ndim - 1))
    return torch.where(inside, found.x_adv, x)


ATTACKS = {  # the attack, and the loss that it raises
    "fgm": (fgm, "logistic"),
    "fgm-targets": (functools.partial(fgm, loss="dlr", targets=2), "dlr"),
    "pgd": (functools.partial(pgd, steps=4, restarts=2), "margin"),
    "pgd-fixed": (functools.partial(pgd, steps=4, restarts=2, adapt=False, loss="squared_hinge"), "squared_hinge"),
    "apgd-ce": (functools.partial(apgd, steps=5, restarts=2), "logistic"),
    "apgd-dlr": (functools.partial(apgd, steps=5, loss="dlr", restarts=2), "dlr"),
    "apgd-t": (functools.partial(apgd, steps=5, loss="dlr", targets=9), "dlr"),
    "fmn": (functools.partial(nearest_point, steps=6, restarts=2), "margin"),
    "deformations": (functools.partial(deformation_attack, steps=3, restarts=1), "margin"),
}
THREATS = {"2": Ball("2", 0.4), "inf": Ball("inf", 0.05), "free": Ball("2", 0.4, None), "warp": Deformations(1.0, 0.3)}
CASES = [
    (name, threat) for name in ATTACKS for threat in THREATS if (name == "deformations") == (threat == "warp")
]  # fmt: skip
ONE_EACH = [case for case in CASES if case[1] in ("2", "warp")]
SOME = [*ONE_EACH, ("pgd", "inf"), ("apgd-t", "inf"), ("fmn", "inf")]
OUTPUTS = [(1, torch.float64), (2, torch.float32), (4, torch.float32)]


def images(n=7, dtype=torch.float32):
    return torch.rand(n, 2, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def network(classes, dtype=torch.float32):
    """Dropout and batch normalization, modes and gradients of all kinds."""
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, classes)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=rng))
    return net.to(dtype)


def attack(name, threat, model, x, y, **options):
    return ATTACKS[name][0](model, x, y, THREATS[threat], **options)


def check_inside(moved, x, threat):
    assert moved.shape == x.shape
    assert moved.dtype == x.dtype
    assert not moved.requires_grad
    assert torch.isfinite(moved).all()
    if isinstance(threat, Ball):
        assert (threat.length(moved.double() - x.double()) <= threat.radius).all()
        threat.check(moved)
    else:  # interpolated, with zeros outside
        assert (moved.amin((2, 3)) >= 0).all()
        assert (moved.amax((2, 3)) <= x.amax((2, 3)) + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "threat", "classes", "dtype"),
    # every attack meets every threat and every number of outputs
    [(*case, *OUTPUTS[(list(ATTACKS).index(case[0]) + list(THREATS).index(case[1])) % 3]) for case in CASES],
)
def test_inside_never_worse_and_seeded(name, threat, classes, dtype):
    net, x = network(classes, dtype), images(dtype=dtype)
    y = torch.arange(7) % max(classes, 2)
    moved = attack(name, threat, net, x, y, generator=7)
    check_inside(moved, x, THREATS[threat])
    assert torch.equal(moved, attack(name, threat, net, x, y, generator=torch.Generator().manual_seed(7)))
    with torch.no_grad():
        net.eval()
        before, after = outputs(net, x), outputs(net, moved)
    loss = attack_loss(ATTACKS[name][1])
    raised = loss(after, y, None) >= loss(before, y, None) - 1e-6
    newly_wrong = (decide(before) == y) & (decide(after) != y)
    assert (raised | newly_wrong).all()
    assert (decide(after) != y)[decide(before) != y].all()


@pytest.mark.parametrize(("name", "threat"), ONE_EACH)
def test_the_model_is_left_as_it_was(name, threat):
    net, x, y = network(3), images(), torch.arange(7) % 3
    net[0].weight.requires_grad_(False)
    net.train()
    net[3].eval()
    net(x).sum().backward()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    modes, wanted = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    given = x.clone().requires_grad_()
    attack(name, threat, net, given, y, generator=0)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert given.grad is None
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert gradient is None if parameter.grad is None else torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize(("name", "threat"), SOME)
def test_one_example_and_batches(name, threat):
    """Examples do not see each other: alone, in batches and in another order they end in the same place."""
    net, x, y = network(3, torch.float64), images(dtype=torch.float64), torch.arange(7) % 3
    run = functools.partial(attack, name, threat, net)
    if "restarts" in getattr(ATTACKS[name][0], "keywords", {}):
        check_inside(run(x[:1], y[:1], generator=0), x[:1], THREATS[threat])  # random starts differ by batch
        return
    together = run(x, y)
    torch.testing.assert_close(run(x[2:3], y[2:3]), together[2:3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(run(x, y, batch_size=3), together, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(run(x.flip(0), y.flip(0)).flip(0), together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "threat"), SOME)
def test_no_slope_or_hardly_any(name, threat):
    net, x, y = network(3), images(), torch.arange(7) % 3

    def flat(z):
        return 0 * z.flatten(1)[:, :3] + torch.tensor([0.3, 0.2, 0.1])

    assert torch.isfinite(attack(name, threat, flat, x, y, generator=0)).all()
    # a slope of 1e-30 is one: the same decisions in other units
    net.eval().double()
    moved = attack(name, threat, lambda z: 1e-30 * net(z), x.double(), y, generator=0)
    check_inside(moved, x.double(), THREATS[threat])
    if ATTACKS[name][1] in ("margin", "dlr"):
        expected = attack(name, threat, net, x.double(), y, generator=0)
        torch.testing.assert_close(net(moved), net(expected), rtol=1e-3, atol=1e-3)
    else:
        before, after = net(x.double()), net(moved)
        loss = attack_loss("margin")
        assert (loss(after, y, None) > loss(before, y, None)).double().mean() > 0.8


@pytest.mark.parametrize(("name", "threat"), ONE_EACH)
def test_nothing_is_moved_by_a_threat_of_nothing(name, threat):
    none = Deformations(0.0, 0.3) if threat == "warp" else Ball(THREATS[threat].norm, 0.0)
    net, x, y = network(3), images(), torch.arange(7) % 3
    net.eval()
    found = ATTACKS[name][0](net, x, decide(net(x)) if name == "fmn" else y, none, generator=0)
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()


@pytest.mark.parametrize(("name", "threat"), ONE_EACH)
def test_targets_raise_their_class(name, threat):
    net, x = network(4), images()
    net.eval()
    y = decide(net(x))
    target = (y + 1 + torch.arange(7) % 3) % 4
    options = {} if "targets" not in getattr(ATTACKS[name][0], "keywords", {}) else {"targets": 0}
    moved = attack(name, threat, net, x, y, target=target, generator=0, **options)
    before, after = net(x).log_softmax(1), net(moved).log_softmax(1)
    rows = torch.arange(7)
    better = (after[rows, target] > before[rows, target]) | (decide(net(moved)) == target)
    # a nearest point is not looked for beyond the radius
    assert better.all() if name != "fmn" else (better | (moved == x).flatten(1).all(1)).all()


@pytest.mark.parametrize(("name", "threat"), ONE_EACH)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 2, 6, 5, dtype=torch.int64)}, "x: expected a float32 or float64 tensor"),
        ({"x": torch.full((3, 2, 6, 5), math.nan)}, "x: expected finite numbers, got others at example 0"),
        ({"y": torch.tensor([0, 1])}, "y: expected 3 numbers of classes"),
        ({"y": torch.tensor([0, 1, 3])}, "y: expected numbers of classes from 0 to 2, got 3"),
        ({"y": torch.tensor([0.0, 1.0, 1.0])}, "y: expected 3 whole numbers"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1"),
        ({"model": lambda z: z.detach().flatten(1)[:, :3]}, "objective: expected values that depend differentiably"),
        ({"model": lambda z: z.flatten(1)[:, :3] / 0}, "model: expected finite values, got others at example 0"),
        ({"model": lambda z: z}, "model: expected a real tensor"),
    ],
)
def test_bad_input(name, threat, change, message):
    arguments = {"model": network(3), "x": images(3), "y": torch.tensor([0, 1, 2])} | change
    with pytest.raises(ValueError, match=message):
        ATTACKS[name][0](threat=THREATS[threat], **arguments)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "fmn"])
def test_threats_of_the_other_kind(name):
    other = Ball("2", 0.4) if name == "deformations" else Deformations(1.0, 0.3)
    with pytest.raises(ValueError, match="threat: expected (a Ball|Deformations), got"):
        ATTACKS[name][0](network(3), images(), torch.arange(7) % 3, other)


@pytest.mark.parametrize(("name", "threat"), ONE_EACH)
def test_callers_in_inference_mode_and_tensors_from_there(name, threat):
    """Neither can be differentiated through as it is."""
    net, x, y = network(3), images(), torch.arange(7) % 3
    expected = attack(name, threat, net, x, y, generator=0)
    with torch.inference_mode():
        made, labels = x.clone(), y.clone()
        inside = attack(name, threat, net, x, y, generator=0)
    assert torch.equal(inside, expected)
    assert torch.equal(attack(name, threat, net, made, labels, generator=0), expected)
    with torch.no_grad():
        assert torch.equal(attack(name, threat, net, x, y, generator=0), expected)
        assert not torch.is_grad_enabled()


@pytest.mark.slow
def test_a_compiled_model():
    net, x, y = network(3), images(), torch.arange(7) % 3
    net.eval()
    compiled = torch.compile(net, backend="aot_eager")
    expected = apgd(net, x, y, Ball("2", 0.4), steps=5)
    torch.testing.assert_close(apgd(compiled, x, y, Ball("2", 0.4), steps=5), expected, rtol=1e-4, atol=1e-4)


def test_models_in_half_precision():
    net, x, y = network(3), images(), torch.arange(7) % 3

    def half(z):
        with torch.autocast("cpu", torch.bfloat16):
            return net.eval()(z)

    for name, threat in [("pgd", "2"), ("apgd-dlr", "inf"), ("fmn", "2"), ("deformations", "warp")]:
        check_inside(attack(name, threat, half, x, y, generator=0), x, THREATS[threat])
