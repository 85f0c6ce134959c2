"""Evaluations against distances in closed form; worst cases, restarts, certificates, refusals."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from hilbertnet.complexity.certificates import LipschitzConstants, certified_radii
from hilbertnet.losses import decide
from hilbertnet.metrics import accuracy_interval
from hilbertnet.robustness.apgd import apgd
from hilbertnet.robustness.attacks import fgm, pgd
from hilbertnet.robustness.evaluation import attacked_accuracy, evaluate
from hilbertnet.robustness.minimal_norm import MinimalNorm
from hilbertnet.robustness.sanity import CertificateWarning
from hilbertnet.robustness.threats import Ball, Deformations, RadiusWarning

RADII = (0.05, 0.1, 0.2, 0.4)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(n=40, d=6, classes=3, seed=0):
    """A linear classifier, and examples of which some are decided wrongly."""
    weight, x = draw(d, classes, seed=seed), draw(n, d, seed=seed + 1)
    y = (x @ weight + 0.5 * draw(n, classes, seed=seed + 2)).argmax(1)
    return (lambda z: z @ weight), x, y, weight


def distances(weight, x, y, dual=2.0):
    """To the nearest decision that is wrong: least over j of the gap over the dual norm; 0 where it is wrong."""
    scores = x @ weight
    gaps = scores.gather(1, y[:, None]) - scores
    apart = (weight[:, y].T[:, :, None] - weight[None]).norm(p=dual, dim=1)
    return (gaps / apart).nan_to_num(nan=math.inf, posinf=math.inf).amin(1).clamp(min=0.0)


def nearest(model, x, y, *, norm, bounds, generator, steps=1, weight=None):
    """A minimal-norm attack in closed form, for linear models in l2: just past the nearest boundary."""
    scores = x @ weight
    gaps = scores.gather(1, y[:, None]) - scores
    away = weight[:, y].T[:, :, None] - weight[None]
    ratio = (gaps / away.norm(dim=1)).nan_to_num(nan=math.inf)
    j = ratio.argmin(1)
    toward = away[torch.arange(len(x)), :, j]
    step = (gaps.gather(1, j[:, None]) / toward.square().sum(1, keepdim=True)).clamp(min=0.0)
    points = x - 1.000001 * step * toward
    return MinimalNorm(points, (points - x).norm(dim=1))


@pytest.mark.parametrize(("norm", "dual"), [("2", 2.0), ("inf", 1.0)])
def test_accuracy_by_radius_is_that_of_distances_in_closed_form(norm, dual):
    model, x, y, weight = problem()
    attacks = {"pgd": functools.partial(pgd, targets=2, steps=20)}
    found = evaluate(model, x, y, Ball(norm, 1.0, None), RADII, attacks=attacks, generator=0, checks=False)
    exact = distances(weight, x, y, dual)
    gaps = (exact[None] - torch.tensor(RADII).double()[:, None]).abs()
    assert (gaps > 1e-4).all()  # none so near to a radius that steps decide
    assert torch.equal(found.survived, exact > torch.tensor(RADII).double()[:, None])
    assert torch.equal(found.clean, decide(model(x)) == y)
    assert found.clean_accuracy == accuracy_interval(y, decide(model(x)))
    for radius, interval in zip(RADII, found.accuracy, strict=True):
        assert interval == accuracy_interval([True] * len(x), (exact > radius).numpy())
    assert (found.length[found.clean] >= exact[found.clean] - 1e-12).all()


def test_minimal_norm_attacks_give_the_whole_curve_and_save_the_others():
    model, x, y, weight = problem()
    exact, asked = distances(weight, x, y), []

    def counted(model, x, y, threat, *, generator):
        asked.append((threat.radius, len(x)))
        return x

    attacks = {"never": counted, "nearest": functools.partial(nearest, weight=weight)}
    found = evaluate(model, x, y, Ball("2", 1.0, None), RADII, attacks=attacks, checks=False)
    torch.testing.assert_close(found.length, torch.where(found.clean, exact, 0.0), rtol=1e-5, atol=1e-9)
    for radius in torch.linspace(0, 0.5, 23).tolist():
        assert found.accuracy_at(radius).value == float((exact > radius).double().mean())
    assert found.attacks == ("nearest", "never")
    assert asked == [(radius, int((exact > radius).sum())) for radius in RADII]
    assert set(found.by[found.length.isfinite() & found.clean].tolist()) == {0}


def test_worst_case_over_attacks_and_who_broke_what():
    """Two attacks, each of which breaks some; together they break both, and what is lost is not attacked again."""
    model, x, y, weight = problem()
    right, asked = (model(x).argmax(1) == y).nonzero()[:, 0], []
    exact = distances(weight, x, y)

    def only(residue):
        def attack(model, z, labels, threat, *, generator):
            asked.append((threat.radius, residue, len(z)))
            moved = pgd(model, z, labels, threat, targets=2, steps=15, generator=generator)
            place = torch.cdist(z, x).argmin(1)
            return torch.where((place % 2 == residue)[:, None], moved, z)

        return attack

    attacks = {"even": only(0), "odd": only(1)}
    found = evaluate(model, x, y, Ball("2", 1.0, None), RADII, attacks=attacks, checks=False)
    assert torch.equal(found.survived, exact > torch.tensor(RADII).double()[:, None])
    lost = right[exact[right] <= RADII[-1]]
    assert torch.equal(found.by[lost], lost % 2)
    assert (found.by[right[exact[right] > RADII[-1]]] == -1).all()
    assert found.broken == {
        name: [int(((exact[right] <= r) & (right % 2 == k)).sum()) for r in RADII]
        for k, name in enumerate(("even", "odd"))
    }
    even = torch.arange(len(x)) % 2 == 0
    expected = []
    for before, radius in zip((0.0, *RADII), RADII, strict=False):
        left = exact > before
        expected += [(radius, 0, int(left.sum())), (radius, 1, int((left & ~(even & (exact <= radius))).sum()))]
    assert asked == expected
    assert "broken by even" in str(found)
    assert found.to_dict()["broken"] == found.broken


def test_what_is_saved_changes_nothing():
    """Against all attacks at all radii on all examples, one by one."""
    first, second = draw(6, 9), draw(9, 3, seed=1)

    def model(z):
        return (2 * z @ first).tanh() @ second

    x = draw(12, 6, seed=2)
    y = model(x).argmax(1)
    attacks = {"fgm": fgm, "pgd": functools.partial(pgd, steps=7), "ce": functools.partial(apgd, steps=7)}
    robust = torch.ones(len(x), dtype=torch.bool)
    expected = []
    for radius in (0.1, 0.4):
        for attack in attacks.values():
            moved = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], Ball("2", radius, None)) for i in range(12)])
            robust &= model(moved).argmax(1) == y
        expected.append(robust.clone())
    assert 0 < int(expected[-1].sum()) < int(expected[0].sum())
    found = evaluate(model, x, y, Ball("2", 1.0, None), (0.1, 0.4), attacks=attacks, batch_size=5, checks=False)
    assert torch.equal(found.survived, torch.stack(expected))


def test_restarts_try_what_is_left_the_least_margin_first():
    model, x, y, _ = problem()
    seen = []

    def attack(model, z, labels, threat, *, generator, random_start=False):
        seen.append((random_start, z.clone(), torch.rand((), generator=generator).item()))
        return z

    options = {"attacks": [attack], "checks": False, "batch_size": 5, "generator": 3}
    found = evaluate(model, x, y, Ball("2", 0.1, None), restarts=3, restart_share=0.5, **options)
    right = x[found.clean]
    first = math.ceil(len(right) / 5)
    rounds = [torch.cat([z for _, z, _ in part]) for part in (seen[:first], seen[first:])]
    assert torch.equal(rounds[0], right)
    scores, labels = model(right), y[found.clean][:, None]
    gaps = scores.gather(1, labels)[:, 0] - scores.scatter(1, labels, -math.inf).amax(1)
    half = math.ceil(len(right) / 2)
    expected = right[gaps.argsort()[:half]]
    assert torch.equal(rounds[1][:half], expected)
    assert torch.equal(rounds[1][half:], expected)
    assert [r for r, _, _ in seen] == [False] * first + [True] * 2 * math.ceil(half / 5)
    assert len({number for _, _, number in seen}) == len(seen)  # every part has a stream of its own
    seen.clear()
    options["attacks"] = [functools.partial(attack, random_start=False)]
    evaluate(model, x, y, Ball("2", 0.1, None), restarts=2, **options)
    assert {r for r, _, _ in seen} == {False}


def test_a_restart_finds_what_the_first_start_does_not():
    """The slope at x is zero: only random starts see the basin."""

    def model(z):
        return torch.stack([torch.zeros(len(z)), 0.2 - 30 * (z[:, 0].abs() - 0.1).clamp(min=0.0)], 1)

    x, y = torch.zeros(6, 2), torch.ones(6, dtype=torch.int64)
    threat = Ball("2", 0.5, None)
    options = {"attacks": [functools.partial(pgd, steps=5)], "checks": False, "generator": 0}
    assert evaluate(model, x, y, threat, **options).accuracy[0].value == 1
    assert evaluate(model, x, y, threat, restarts=5, **options).accuracy[0].value == 0


def test_a_restart_costs_one_climb_and_one_step_is_not_tried_again():
    model, x, y, _ = problem()
    calls = []

    def counted(z):
        calls.append(len(z))
        return model(z)

    def cost(attack, restarts):
        calls.clear()
        options = {"attacks": [attack], "checks": False, "generator": 0, "progress": False}
        evaluate(counted, x, y, Ball("2", 1e-6, None), restarts=restarts, **options)
        return len(calls)

    for attack in (functools.partial(pgd, steps=9), functools.partial(apgd, steps=9, targets=1)):
        assert cost(attack, 3) - cost(attack, 2) <= cost(attack, 2) - cost(attack, 1) <= cost(attack, 1)
    assert cost("fgm", 3) == cost("fgm", 1)


# --- attacks of the user


class Third:
    """As AutoAttack is used: made for a model and a radius, called with signals and labels."""

    def __init__(self, model, radius):
        self.model, self.radius, self.calls = model, radius, 0

    def run_standard_evaluation(self, x_orig, y_orig, bs=250, return_labels=False):
        self.calls += 1
        return pgd(self.model, x_orig, y_orig, Ball("2", self.radius, None), targets=2)


def test_functions_of_signals_and_labels_are_called_once_and_checked():
    model, x, y, weight = problem()
    exact = distances(weight, x, y)
    own = Third(model, 0.2)
    found = evaluate(
        model, x, y, Ball("2", 1.0, None), RADII, attacks={"auto": own.run_standard_evaluation}, checks=False
    )
    assert own.calls == 1
    # made for 0.2, it breaks at 0.2 what is nearer, whatever the radius
    assert torch.equal(found.survived[2], exact > 0.2)
    assert torch.equal(found.survived[3], found.survived[2])
    with pytest.raises(ValueError, match=r"attack: expected perturbations inside the l2 ball of radius 0.1.*by auto"):
        evaluate(model, x, y, Ball("2", 1.0, None), [0.1], attacks={"auto": own.run_standard_evaluation}, checks=False)


def test_own_functions_see_the_model_in_eval_mode():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    x, y = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3
    modes = []

    def own(x, y):
        modes.append(any(module.training for module in net.modules()))
        return x

    evaluate(net, x, y, Ball("2", 0.1), attacks=[own], checks=False)
    assert modes in ([False], [])  # not asked where all is lost
    assert all(module.training for module in net.modules())


# --- what else is there


def test_points_that_are_kept_are_wrong_and_as_near_as_said():
    model, x, y, _ = problem()
    found = evaluate(
        model, x, y, Ball("2", 1.0, None), RADII, attacks=[functools.partial(pgd, targets=2)], keep=12, checks=False
    )
    assert torch.equal(found.kept, found.clean.nonzero()[:12, 0])
    lost = found.length[found.kept].isfinite()
    assert 0 < int(lost.sum()) < 12
    assert torch.equal(decide(model(found.points)) != y[found.kept], lost)
    apart = (found.points - x[found.kept]).norm(dim=1)
    torch.testing.assert_close(apart, torch.where(lost, found.length[found.kept], 0.0))


def test_deformations_are_a_threat_whose_radius_is_the_shift():
    """A stand-in that shifts by whole pixels: what is broken is known."""
    x = torch.zeros(4, 1, 1, 8)
    x[torch.arange(4), 0, 0, torch.arange(4)] = 1.0
    y = torch.ones(4, dtype=torch.int64)

    def model(z):
        return (z[:, 0, 0, :4].sum(1) - z[:, 0, 0, 4:].sum(1))[:, None]

    def shifts(model, z, labels, threat, *, generator):
        return z.roll(int(threat.max_shift), -1)

    found = evaluate(model, x, y, Deformations(1.0, 0.5), [1.0, 2.0, 3.0], attacks=[shifts], checks=False)
    assert [interval.value for interval in found.accuracy] == [0.75, 0.5, 0.25]
    assert found.length.tolist() == [math.inf, 3, 2, 1]
    assert str(found).splitlines()[1].startswith("shift (pixels)")


def test_long_evaluations_are_announced(caplog, monkeypatch):
    monkeypatch.setattr("hilbertnet.robustness.search.LONG", 1e-9)
    model, x, y, _ = problem()
    evaluate(model, x, y, Ball("2", 0.1, None), checks=False, batch_size=9)
    assert [record.message.split(" if ")[0][:15] for record in caplog.records] == ["evaluate: up to"]


def test_certificates_that_an_attack_refutes_are_named():
    model, x, y, weight = problem()
    products = weight.T @ weight
    good = certified_radii(model(x), y, LipschitzConstants.from_products(products))
    options = {"attacks": [functools.partial(nearest, weight=weight)], "checks": False}
    found = evaluate(model, x, y, Ball("2", 1.0, None), RADII, certificates=good, **options)
    for certified, attacked in zip(found.certified, found.accuracy, strict=True):
        assert certified.value <= attacked.value
    bad = certified_radii(model(x), y, LipschitzConstants.from_products(products, 0.5))
    with pytest.warns(CertificateWarning, match="broken inside their certified radius"):
        evaluate(model, x, y, Ball("2", 1.0, None), RADII, certificates=bad, **options)


def test_one_attack_in_short():
    model, x, y, _ = problem()
    short = attacked_accuracy(model, x, y, Ball("2", 1.0, None), RADII, generator=0)
    whole = evaluate(model, x, y, Ball("2", 1.0, None), RADII, attacks=["pgd"], generator=0, checks=False)
    assert torch.equal(short.length, whole.length)


def test_the_model_is_left_as_it_was_and_the_checks_are_made():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    net[3].eval()
    x, y = draw(12, 6).float(), torch.arange(12) % 3
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(net, x, y, Ball("2", 0.2, None), generator=0)
    assert [str(one.message).split(":")[0] for one in caught if "training mode" in str(one.message)] == ["model"]
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_radii_of_any_kind_each_once():
    model, x, y, _ = problem()
    options = {"checks": False, "generator": 0, "progress": False}
    expected = evaluate(model, x, y, Ball("2", 1.0, None), [0.1, 0.3], **options)
    for radii in (np.array([0.3, 0.1]), torch.tensor([0.1, 0.3], dtype=torch.float64), (0.3, 0.1, 0.3)):
        found = evaluate(model, x, y, Ball("2", 1.0, None), radii, **options)
        assert found.radii == (0.1, 0.3)
        assert torch.equal(found.length, expected.length)


@pytest.mark.parametrize(("norm", "radii"), [("2", [20.0, 30.0]), ("inf", [8.0, 16.0])])
def test_radii_in_other_units_are_warned_of_once(norm, radii):
    model, x, y, _ = problem()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(model, x.sigmoid(), y, Ball(norm, 0.1), radii, attacks=["fgm", "pgd", "fmn"], generator=0)
    assert [str(max(radii))[:-2] in str(one.message) for one in caught if one.category is RadiusWarning] == [True]


def test_in_inference_mode_as_outside_of_it():
    net, x = nn.Linear(6, 3), draw(12, 6).float()
    y = torch.arange(12) % 3
    options = {"attacks": ["pgd", "fmn"], "generator": 0, "progress": False}
    expected = evaluate(net.eval(), x, y, Ball("2", 0.2, None), **options)
    with torch.inference_mode():
        found = evaluate(net, x.clone(), y.clone(), Ball("2", 0.2, None), **options)
    assert torch.equal(found.length, expected.length)


# --- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": []}, "attacks: expected at least one name or function"),
        ({"attacks": "pgd"}, "attacks: expected at least one name or function"),
        ({"attacks": ["pdg"]}, "attacks: unknown attack 'pdg'; did you mean 'pgd'"),
        ({"attacks": [lambda x: x]}, r"attacks: expected attack\(model, x, y, threat"),
        ({"attacks": [3]}, "attacks: expected"),
        ({"attacks": [lambda x, y: x[:1]]}, "attack: expected signals of shape"),
        ({"attacks": [lambda x, y: x.float()]}, "attack: expected signals of shape .*float64"),
        ({"attacks": [lambda x, y: x / 0]}, "attack: expected finite signals"),
        ({"threat": 1.0}, "threat: expected a Ball or Deformations"),
        ({"threat": Deformations(1.0, 0.5)}, "x: expected images"),
        ({"restarts": 0}, "restarts: expected a whole number of at least 1"),
        ({"restart_share": 0}, r"restart_share: expected a number in \(0, 1\]"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number"),
        ({"certificates": 3.0}, "certificates: expected Certificates, as certified_radii gives, got 3.0"),
        ({"keep": -1}, "keep: expected a whole number of at least 0"),
        ({"radii": []}, "radii: expected real numbers"),
        ({"y": torch.full((40,), 7)}, "y: expected numbers of classes from 0 to 2, got 7"),
        ({"threat": Ball("2", 1.0)}, r"x: expected values in \[0, 1\]"),
    ],
)
def test_bad_input(change, message):
    model, x, y, _ = problem()
    arguments = {"model": model, "x": x, "y": y, "threat": Ball("2", 0.1, None), "checks": False} | change
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)
