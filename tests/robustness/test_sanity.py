"""Every warning where its fault was put in, none where a model is sound."""

import warnings

import pytest
import torch
from torch import nn

from hilbertnet.robustness.sanity import (
    MaskingWarning,
    ProbabilityWarning,
    RandomnessWarning,
    SanityWarning,
    TrainingModeWarning,
    ZeroGradientWarning,
    sanity_checks,
)
from hilbertnet.robustness.threats import Ball, Deformations

THREAT = Ball("2", 0.2)


def data(n=40, d=8, seed=0):
    """Two classes in [0, 1], apart along the first axis."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=rng)
    y = torch.arange(n) % 2
    x[:, 0] = 0.3 + 0.4 * y + 0.1 * (x[:, 0] - 0.5)
    return x, y


def linear(scale=10.0, outputs=2):
    net = nn.Linear(8, outputs, bias=True)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()
        net.weight[-1, 0] = scale
        net.bias[-1] = -scale / 2
    return net.eval()


def checked(model, threat=THREAT, **options):
    """The kinds of warnings, each given once."""
    x, y = data()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = sanity_checks(model, x, y, threat, **options)
    assert [one.message for one in caught] == list(found)
    return [type(one) for one in found], found


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_a_sound_model_is_not_warned_of(norm, outputs):
    assert checked(linear(outputs=outputs), Ball(norm, 0.1))[0] == []
    assert checked(nn.Sequential(linear(outputs=outputs), nn.Dropout(0.5)).eval(), Ball(norm, 0.1))[0] == []


def test_a_small_trained_network_is_not_warned_of():
    x, y = data()
    torch_rng = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch_rng))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert checked(net.eval())[0] == []


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(linear(), nn.Softmax(1)).eval(),
        nn.Sequential(linear(), nn.Sigmoid(), nn.Softmax(1)).eval(),
        nn.Sequential(linear(outputs=1), nn.Sigmoid()).eval(),
    ],
    ids=["softmax", "soft softmax", "sigmoid"],
)
def test_probabilities(model):
    kinds, found = checked(model)
    assert kinds[0] is ProbabilityWarning
    assert "look like probabilities" in str(found[0])


def test_logits_between_0_and_1_are_no_probabilities():
    assert ProbabilityWarning not in checked(lambda z: torch.stack([0.6 - z[:, 0] / 2, z[:, 0]], 1))[0]


def test_zero_gradients():
    """Saturated probabilities have none; a model that rounds has none at all."""
    kinds, found = checked(linear(1e4))
    assert kinds == [ZeroGradientWarning]
    assert "the margin's are not" in str(found[0])
    kinds, found = checked(lambda z: torch.stack([(0.5 - z[:, 0]).sign() + 0 * z[:, 0], torch.zeros(len(z))], 1))
    assert kinds[0] is ZeroGradientWarning
    assert "attacks along gradients do not move" in str(found[0])
    for outside in (lambda z: linear()(z).detach(), lambda z: linear()(torch.from_numpy(z.numpy())).detach()):
        kinds, found = checked(outside)
        assert kinds == [ZeroGradientWarning]
        assert "cannot be differentiated" in str(found[0])


def test_randomness():
    kinds, found = checked(lambda z: nn.functional.dropout(linear()(z), 0.5, training=True))
    assert RandomnessWarning in kinds
    assert any("two calls differ" in str(one) for one in found)


def test_training_mode():
    net = nn.Sequential(linear(), nn.Dropout(0.5))
    net.eval()
    net[1].train()
    assert checked(net)[0] == [TrainingModeWarning]
    assert net[1].training
    assert not net[0].training


class Detour(torch.autograd.Function):
    """The identity, whose gradient points elsewhere."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.roll(1, -1)


def test_masked_gradients_leave_accuracy_where_none_can_be():
    net = linear()
    kinds, found = checked(lambda z: net(Detour.apply(z)))
    assert kinds == [MaskingWarning]
    assert "withstand 20 steps" in str(found[0])


def test_steps_that_do_less_than_one_and_radii_that_do_less_when_larger(monkeypatch):
    """The attack that is asked is made to fail: half of the examples at the radius, all at twice of it."""
    import hilbertnet.robustness.sanity as module

    threat = Ball("2", 0.3)
    one, many = [], []

    def weak(model, x, y, threat, **options):
        many.append(threat.radius)
        moved = module_pgd(model, x, y, threat, **options)
        stays = torch.arange(len(x)) >= len(x) // 2 if threat.radius == 0.3 else torch.ones(len(x), dtype=torch.bool)
        return torch.where(stays[:, None], x, moved) if threat.radius <= 0.6 else moved

    module_pgd = module.pgd
    monkeypatch.setattr(module, "pgd", weak)
    kinds, found = checked(linear(), threat)
    assert kinds[:2] == [MaskingWarning] * 2
    assert "one step breaks 32 and 10 steps 16" in str(found[0])
    assert "16 are broken at radius 0.3 and 0 at 0.6" in str(found[1])
    assert one == []
    assert many[:2] == [0.3, 0.6]


def test_deformations_are_checked_for_what_does_not_need_a_ball():
    x, y = data(d=16)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Softmax(1)).eval()
    with pytest.warns(ProbabilityWarning):
        found = sanity_checks(net, x.reshape(-1, 1, 4, 4), y, Deformations(1.0, 0.5))
    assert not any(isinstance(one, MaskingWarning) for one in found)


def test_nothing_is_left_behind():
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    net[2].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    checked(net)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_kinds_are_one_family_and_bad_input_is_refused():
    kinds = (MaskingWarning, ProbabilityWarning, RandomnessWarning, TrainingModeWarning, ZeroGradientWarning)
    assert all(issubclass(kind, SanityWarning) and issubclass(kind, UserWarning) for kind in kinds)
    x, y = data()
    with pytest.raises(ValueError, match="examples: expected a whole number"):
        sanity_checks(linear(), x, y, THREAT, examples=0)
    with pytest.raises(ValueError, match="y: expected numbers of classes from 0 to 1, got 3"):
        sanity_checks(linear(), x, y + 3, THREAT)
