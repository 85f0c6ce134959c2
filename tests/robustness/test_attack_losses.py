"""Losses of attacks against naive loops over examples, and what two and three classes make of the ratio."""

import math

import pytest
import torch
from torch.nn import functional

from hilbertnet.complexity.margins import margins
from hilbertnet.robustness.goals import Best, Goal, attack_loss


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ratio(z, y, target=None):
    """Equations (6) and (7) of Croce and Hein, for one example with four classes or more."""
    top = sorted(z.tolist(), reverse=True)
    if target is None:
        return -(z[y] - max(z[j] for j in range(len(z)) if j != y)) / (top[0] - top[2])
    return -(z[y] - z[target]) / (top[0] - (top[2] + top[3]) / 2)


def test_the_ratio_of_logits_as_published():
    scores, y = draw(40, 6), torch.arange(40) % 6
    target = (y + 1 + torch.arange(40) % 5) % 6
    dlr = attack_loss("dlr")
    for aim in (None, target):
        found = dlr(scores, y, aim)
        expected = [ratio(scores[i], int(y[i]), None if aim is None else int(aim[i])) for i in range(40)]
        torch.testing.assert_close(found, torch.stack(expected))
        torch.testing.assert_close(dlr(1e4 * scores + 7, y, aim), found)
        torch.testing.assert_close(dlr(1e-200 * scores, y, aim), found)


def test_the_ratio_of_few_classes():
    dlr, y = attack_loss("dlr"), torch.tensor([0, 1, 1, 0])
    for outputs in (1, 2):
        scores = draw(4, outputs)
        assert torch.equal(dlr(scores, y, None), -margins(scores, y))
        torch.testing.assert_close(dlr(scores, y, 1 - y), margins(scores, 1 - y))
    scores = draw(4, 3)
    top = scores.sort(1).values
    expected = (scores[:, 2] - scores.gather(1, y[:, None])[:, 0]) / (top[:, 2] - top[:, 0])
    torch.testing.assert_close(dlr(scores, y, torch.full((4,), 2)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1.0])
def test_logits_that_are_all_alike_have_finite_slopes(level, dtype):
    """All are 0 where every unit of a network without constants is off."""
    for target in (None, torch.tensor([1, 2, 3])):
        scores = torch.full((3, 5), level, dtype=dtype, requires_grad=True)
        value = attack_loss("dlr")(scores, torch.tensor([0, 1, 2]), target)
        (slope,) = torch.autograd.grad(value.sum(), scores)
        assert torch.equal(value, torch.zeros(3, dtype=torch.float64))
        assert torch.isfinite(slope).all()
        assert (slope.abs().amax(1) > 0).all()


def test_losses_of_targets_are_those_of_the_target_class_made_small():
    scores, y, target = draw(10, 4), torch.zeros(10, dtype=torch.int64), torch.arange(10) % 3 + 1
    torch.testing.assert_close(
        attack_loss("logistic")(scores, y, None), functional.cross_entropy(scores, y, reduction="none")
    )
    torch.testing.assert_close(
        attack_loss("logistic")(scores, y, target), -functional.cross_entropy(scores, target, reduction="none")
    )
    torch.testing.assert_close(attack_loss("margin")(scores, y, target), margins(scores, target))
    own = attack_loss(lambda z, labels: z[:, 0] * labels)
    torch.testing.assert_close(own(scores, y, target), -scores[:, 0] * target)


def test_cross_entropy_of_a_model_that_is_sure():
    """``log(1 + 2 exp(-80))``, and its slope, where the usual form is 0."""
    scores = torch.tensor([[80.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = attack_loss("logistic")(scores, torch.tensor([0]), None)
    (slope,) = torch.autograd.grad(value.sum(), scores)
    tiny = math.exp(-80)
    assert value.item() == pytest.approx(2 * tiny, rel=1e-12)
    assert slope[0].tolist() == pytest.approx([-2 * tiny, tiny, tiny], rel=1e-12)


def test_towards_is_the_lead_of_the_target():
    scores, y = draw(10, 4), torch.zeros(10, dtype=torch.int64)
    target = torch.arange(10) % 3 + 1
    goal = Goal(lambda z: z, y, attack_loss("logistic"))
    torch.testing.assert_close(goal.towards(target).of(scores), scores[torch.arange(10), target] - scores[:, 0])
    order = goal.likely(scores, 9)
    assert len(order) == 3
    for i in range(10):
        assert [int(row[i]) for row in order] == [j for j in scores[i].argsort(descending=True).tolist() if j != 0]
    assert goal.likely(draw(10, 1), 5) == []


def test_points_that_reach_the_goal_go_before_larger_losses():
    """Cross-entropy may be larger where the label still has the largest logit of many."""
    undecided, wrong = torch.tensor([[0.1, 0.0, 0.0]]).double(), torch.tensor([[2.0, 2.1, -9.0]]).double()
    y = torch.zeros(1, dtype=torch.int64)
    best = Best(Goal(lambda z: z, y, attack_loss("logistic")), undecided, undecided)
    assert functional.cross_entropy(undecided, y) > functional.cross_entropy(wrong, y)
    best.offer(wrong, wrong)
    assert torch.equal(best.point, wrong)
    best.offer(undecided, undecided)
    assert torch.equal(best.point, wrong)


def test_margins_tell_equal_losses_apart():
    """Sure of itself by 900 and by 800: both cross-entropies are 0."""
    surer, sure, y = torch.tensor([[900.0, 0.0]]).double(), torch.tensor([[800.0, 0.0]]).double(), torch.tensor([0])
    for first, second in ((surer, sure), (sure, surer)):
        best = Best(Goal(lambda z: z, y, attack_loss("logistic")), first, first)
        best.offer(second, second)
        assert torch.equal(best.point, sure)


def test_an_unknown_loss():
    with pytest.raises(ValueError, match="loss: expected 'margin', .* got 'drl'; did you mean 'dlr'"):
        attack_loss("drl")
