"""Robust losses against optima of linear models, naive loops over examples and steps, and torch's own divergences."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from hilbertnet.losses import divergences
from hilbertnet.regularization.robust_losses import PgdL2, PgdLinf, Trades
from hilbertnet.robustness.threats import RadiusWarning
from hilbertnet.states import load_state, save_state
from hilbertnet.training import Recipe, train

TERMS = [PgdL2(0.3), PgdLinf(0.03), Trades(0.1), Trades(0.3, norm="l2")]
LABELS = torch.tensor([0, 1, 1, 0, 1])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(features=6, outputs=1):
    torch.manual_seed(3)
    return nn.Linear(features, outputs).double()


def smooth_net(features, outputs):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


class Recorder(nn.Module):
    """Keeps what a model is called on, and in which mode."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append((x.detach().clone(), self.training))
        return self.model(x)


# --- the values


@pytest.mark.parametrize("clip", ["unit", None])
def test_linear_models_of_one_logit_reach_the_optimum(clip):
    x, model = draw(5, 6), linear()
    w, signs = model.weight[0], 2.0 * LABELS - 1
    margins = signs * model(x)[:, 0]
    if clip is None:
        loss, logits = PgdL2(0.7, clip=clip).bind(x, 0)(model, x, LABELS)
        torch.testing.assert_close(loss, functional.softplus(-margins + 0.7 * w.norm()).mean())
        torch.testing.assert_close(signs * logits[:, 0], margins - 0.7 * w.norm())
    # in a box each coordinate is at one of its ends
    worst = x - 0.02 * signs[:, None] * w.sign()
    worst = worst.clamp(0, 1) if clip else worst
    loss, logits = PgdLinf(0.02, clip=clip).bind(x, 0)(model, x, LABELS)
    torch.testing.assert_close(logits, model(worst))
    torch.testing.assert_close(loss, functional.binary_cross_entropy_with_logits(model(worst)[:, 0], LABELS.double()))


def naive_l2(model, x, y, radius, steps, loss, box):
    """One example and one step after the other."""
    points = []
    for row, label in zip(x, y, strict=True):
        moved = torch.zeros_like(row)
        for _ in range(steps):
            variable = (row + moved).requires_grad_()
            (gradient,) = torch.autograd.grad(loss(model(variable[None]), label[None]), variable)
            moved = moved + 1.5 * radius / steps * gradient / gradient.norm()
            moved = moved * min(1.0, radius / moved.norm().item())
            if box:
                moved = (row + moved).clamp(0, 1) - row
        points.append(row + moved)
    return torch.stack(points)


@pytest.mark.parametrize("clip", ["unit", "none"])
def test_pgd_l2_takes_the_published_steps(clip):
    x, model, y = draw(5, 6), smooth_net(6, 3), torch.tensor([0, 1, 2, 0, 1])
    loss, logits = PgdL2(0.8, 4, clip).bind(x, 0)(model, x, y)
    points = naive_l2(model, x, y, 0.8, 4, functional.cross_entropy, clip == "unit")
    torch.testing.assert_close(logits, model(points), rtol=1e-10, atol=0)
    torch.testing.assert_close(loss, functional.cross_entropy(model(points), y), rtol=1e-10, atol=0)
    assert loss > functional.cross_entropy(model(x), y) + 0.1


def test_other_losses_can_be_robust():
    x, model, signs = draw(5, 6), linear(), 2.0 * LABELS - 1
    with torch.no_grad():
        model.weight.div_(4)  # no margin is above 1, where the hinge has no slope
    logits, far = model(x)[:, 0], 0.2 * model.weight.norm()
    assert (signs * logits < 1).all()
    hinge, _ = PgdL2(0.2, clip="none", loss="squared_hinge").bind(x, 0)(model, x, LABELS)
    torch.testing.assert_close(hinge, (1 - signs * logits + far).square().mean() / 2)
    ridge, _ = PgdL2(0.2, clip="none", loss="ridge").bind(x, 0)(model, x, LABELS)
    torch.testing.assert_close(ridge, ((signs - logits).abs() + far).square().mean() / 2)


def test_divergences_are_those_of_torch():
    first, second = draw(7, 4) * 9, draw(7, 4, seed=1) * 9
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=first), torch.distributions.Categorical(logits=second)
    )
    torch.testing.assert_close(divergences(first, second), expected)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=first[:, 0]), torch.distributions.Bernoulli(logits=second[:, 0])
    )
    torch.testing.assert_close(divergences(first[:, :1], second[:, :1]), expected)


def test_trades_moves_probabilities_as_far_as_the_ball_lets_it():
    """For one logit the divergence is largest at one of the two ends of the ball along w."""
    x, model = draw(5, 6), linear()
    w, logits = model.weight[0], model(x)
    for norm, dual in (("l2", w.norm()), ("linf", w.abs().sum())):
        ends = torch.stack([divergences(logits, logits + side * 0.3 * dual) for side in (-1, 1)])
        for beta in (0.0, 2.0):
            model_loss, clean = Trades(0.3, beta, norm, clip="none").bind(x, 0)(model, x, LABELS)
            assert torch.equal(clean, logits)
            moved = (model_loss - functional.binary_cross_entropy_with_logits(logits[:, 0], LABELS.double())).item()
            means = [ends[list(side), range(5)].mean().item() for side in torch.cartesian_prod(*[torch.arange(2)] * 5)]
            assert min(abs(moved - beta * mean) for mean in means) < 2e-4 * moved + 1e-9  # l2 keeps some noise


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_trades_takes_the_published_steps(norm):
    x, model, y = draw(5, 6), smooth_net(6, 3), torch.tensor([0, 1, 2, 0, 1])
    term = Trades(0.2, norm=norm, steps=4)
    loss, _ = term.bind(x, 0)(model, x, y)
    noise = 0.001 * torch.randn(5, 6, dtype=torch.float64, generator=term.bind(x, 0).rng)
    step = 0.2 * 7 / 31 if norm == "linf" else 0.2 * 1.5 / 4
    point, probabilities = (x + noise).clamp(0, 1), model(x).softmax(1).detach()
    for _ in range(4):
        variable = point.detach().requires_grad_()
        value = functional.kl_div(model(variable).log_softmax(1), probabilities, reduction="batchmean")
        (slope,) = torch.autograd.grad(value, variable)
        moved = point + step * (slope.sign() if norm == "linf" else functional.normalize(slope)) - x
        shrink = moved.clamp(-0.2, 0.2) if norm == "linf" else moved / (moved.norm(dim=1, keepdim=True) / 0.2).clamp(1)
        point = (x + shrink).clamp(0, 1).detach()
    robust = functional.kl_div(model(point).log_softmax(1), model(x).softmax(1), reduction="batchmean")
    torch.testing.assert_close(loss, functional.cross_entropy(model(x), y) + 6 * robust, rtol=1e-6, atol=0)
    assert robust > 1e-3


@pytest.mark.parametrize("term", [PgdL2(0.3, clip="none"), PgdLinf(0.02), Trades(0.1)])
def test_gradients_in_the_parameters(term):
    """Where the worst points of a linear model are, they move along the boundary alone: the gradient is exact."""
    x, model = draw(5, 6), linear()

    class Value(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return term.bind(x, 0)(self.model, x, LABELS)[0]

    def loss(weight, bias):
        return torch.func.functional_call(Value(), {"model.weight": weight, "model.bias": bias}, ())

    assert torch.autograd.gradcheck(loss, tuple(model.parameters()))


# --- what is asked of all


@pytest.mark.parametrize("term", TERMS)
def test_points_stay_in_the_ball_and_in_the_box(term):
    x = draw(30, 2, 5, 5, dtype=torch.float32)
    x[:10], x[10:20] = 0, 1
    torch.manual_seed(0)
    model = Recorder(nn.Sequential(nn.Flatten(), nn.Linear(50, 3)))
    term.bind(x, 0)(model, x, torch.arange(30) % 3)
    moved = 0.0
    for point, _ in model.seen:
        assert point.min() >= 0
        assert point.max() <= 1
        p = math.inf if isinstance(term, PgdLinf) or getattr(term, "norm", "") == "linf" else 2.0
        lengths = (point - x).flatten(1).norm(dim=1, p=p)
        assert (lengths <= term.radius * (1 + 1e-5)).all()
        moved = max(moved, lengths.max().item())
    assert moved > 0.5 * term.radius


@pytest.mark.parametrize("term", TERMS)
def test_points_are_found_in_eval_mode_and_used_in_the_models_own(term):
    x = draw(5, 6, dtype=torch.float32)
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    model = Recorder(inner)
    inner[0].bias.requires_grad_(False)
    inner[3].eval()
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    loss, logits = term.bind(x, 0)(model, x, LABELS)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    last = 2 if isinstance(term, Trades) else 1  # trades looks at the examples too
    assert [mode for _, mode in model.seen[-last:]] == [True] * last
    assert not any(mode for _, mode in model.seen[:-last])
    assert inner[1].num_batches_tracked == last  # the search left the statistics alone
    loss.backward()
    assert inner[4].weight.grad.abs().sum() > 0
    assert inner[0].bias.grad is None
    if not isinstance(term, Trades):
        inner[1].reset_running_stats()
        again = inner(model.seen[-1][0])
        torch.testing.assert_close(logits, again)
        torch.testing.assert_close(loss, functional.cross_entropy(again, LABELS))


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_mixed_precision_and_models_of_one_axis(term, outputs):
    x = draw(5, 6, dtype=torch.float32)
    model = nn.Sequential(smooth_net(6, outputs).float(), nn.Flatten(0) if outputs == 1 else nn.Identity())
    exact, _ = term.bind(x, 0)(model, x, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logits = term.bind(x, 0)(model, x, LABELS)
    assert loss.dtype == logits.dtype == torch.float32
    assert logits.shape == (5, outputs)
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    loss.backward()
    assert model[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("term", [PgdL2(0.3)])
def test_the_order_of_the_batch(term):
    x, model, order = draw(5, 6), smooth_net(6, 2), torch.tensor([3, 1, 4, 0, 2])
    loss, logits = term.bind(x, 0)(model, x, LABELS)
    other, moved = term.bind(x, 0)(model, x[order], LABELS[order])
    torch.testing.assert_close(loss, other)
    torch.testing.assert_close(logits[order], moved)


@pytest.mark.parametrize("term", TERMS)
def test_starts_go_on_from_their_state(term, tmp_path):
    x, model = draw(5, 6), smooth_net(6, 2)
    loss = term.bind(x, 0)
    loss(model, x, LABELS)
    save_state(tmp_path / "state", loss.state_dict(), "loss")
    later = loss(model, x, LABELS)[0].item()
    other = term.bind(x, 5)
    other.load_state_dict(load_state(tmp_path / "state", "loss"))
    assert other(model, x, LABELS)[0].item() == later
    with pytest.raises(ValueError, match="state: expected"):
        other.load_state_dict({})


@pytest.mark.parametrize("term", TERMS)
def test_extremes(term):
    x, model = draw(5, 6), linear()
    with torch.no_grad():
        assert term.bind(x, 0)(model, x, LABELS)[0].grad_fn is None  # validation
        model.weight.zero_()
    loss, _ = term.bind(x, 0)(model, x, LABELS)
    loss.backward()
    clean = functional.binary_cross_entropy_with_logits(model(x)[:, 0], LABELS.double())
    torch.testing.assert_close(loss, clean)
    assert torch.isfinite(model.weight.grad).all()
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    assert math.isnan(term.bind(x, 0)(model, x, LABELS)[0].item())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on import of its compiler
@pytest.mark.parametrize("term", TERMS)
def test_a_compiled_model(term):
    x, model = draw(5, 6), smooth_net(6, 2)
    loss, _ = term.bind(x, 0)(torch.compile(model), x, LABELS)
    torch.testing.assert_close(loss, term.bind(x, 0)(model, x, LABELS)[0])


def test_training_on_the_worst_case_makes_it_better():
    """Small coordinates tell two classes apart well, a large one roughly: at radius 0.1 only that one holds."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    large = 0.5 + 0.25 * (2 * y - 1) + 0.15 * torch.randn(200, generator=rng)
    small = 0.5 + 0.05 * (2 * y - 1)
    x = torch.stack([large, *[small] * 40], 1).clamp(0, 1)
    worst = {}
    for name, term in (("plain", None), ("robust", PgdLinf(0.1, 3, step=0.05))):
        torch.manual_seed(0)
        model = nn.Linear(41, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        objective = None if term is None else term.bind(x, 0)
        train(model, (x, y), None, optimizer, Recipe(epochs=20, batch_size=50), objective=objective, progress=False)
        _, logits = PgdLinf(0.1, step=0.05).bind(x, 1)(model, x, y)
        worst[name] = ((logits[:, 0] > 0) == y).double().mean().item()
    assert worst["robust"] > 0.7
    assert worst["robust"] > worst["plain"] + 0.2


def test_the_text_form():
    assert str(PgdL2(1.0)) == "pgd_l2(radius=1)"
    assert str(PgdL2(1, 5.0, clip=None)) == "pgd_l2(radius=1, clip=none)"
    assert str(PgdLinf(0.03, step=0.02)) == "pgd_linf(radius=0.03, step=0.02)"
    assert str(Trades(0.1, 3.0, "l2")) == "trades(radius=0.1, beta=3, norm=l2)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PgdL2(0.0), "radius: expected a finite number above 0, got 0"),
        (lambda: PgdL2(math.inf), "radius: expected a finite number"),
        (lambda: PgdL2("large"), "radius: expected a finite number"),
        (lambda: PgdL2(1.0, 0), "steps: expected a whole number of at least 1, got 0"),
        (lambda: PgdLinf(1.0, 2.5), "steps: expected a whole number"),
        (lambda: PgdLinf(1.0, step=-1), "step: expected a finite number above 0, got -1"),
        (lambda: PgdL2(1.0, clip="units"), "clip: expected one of unit, none, got 'units'; did you mean 'unit'"),
        (lambda: PgdL2(1.0, loss="logistics"), "loss: expected one of .* did you mean 'logistic'"),
        (lambda: Trades(1.0, -1), "beta: expected a finite number of at least 0, got -1"),
        (lambda: Trades(1.0, norm="l1"), "norm: expected one of linf, l2, got 'l1'"),
        (lambda: PgdL2(1.0).bind(2 * draw(3, 4)), r"x_train: expected signals in \[0, 1\], in which they"),
        (lambda: Trades(1.0).bind(draw(3, 4) * math.nan), r"x_train: expected signals in \[0, 1\]"),
        (lambda: PgdL2(1.0).bind(torch.ones(3, 4, dtype=torch.uint8)), "x_train: expected a tensor of signals"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("term", [PgdLinf(8.0), Trades(8.0), PgdL2(255.0), Trades(255.0, norm="l2")])
def test_a_radius_in_other_units_is_warned_of(term):
    with pytest.warns(RadiusWarning, match="is it in units of 0 to 255"):
        term.bind(draw(5, 6), 0)


@pytest.mark.parametrize("term", TERMS)
def test_bad_batches(term):
    x = draw(5, 6)
    loss = term.bind(x, 0)
    with pytest.raises(ValueError, match="y: expected numbers of classes from 0 to 1, got 2"):
        loss(linear(), x, LABELS + 1)
    with pytest.raises(ValueError, match="y: expected 5 whole numbers of classes"):
        loss(linear(), x, LABELS.double())
    with pytest.raises(ValueError, match="model: expected logits of shape"):
        loss(nn.Unflatten(1, (2, 3)), x, LABELS)
    for bad in (x[:0], x.long(), x[0, 0]):
        with pytest.raises(ValueError, match="x: expected a tensor of signals"):
            loss(linear(), bad, LABELS)
    # preprocessed after all: clipped, they would be moved out of the ball
    with pytest.raises(ValueError, match=r"x: expected signals in \[0, 1\], .* numbers from -.* use clip=none"):
        loss(linear(), x - 0.5, LABELS)
    loss(linear(), x * (1 + 1e-5), LABELS)  # rounding, of augmentations
