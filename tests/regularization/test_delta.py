"""`delta` against closed forms and a naive loop over examples and logits; its cheaper ways against the whole of it."""

import pytest
import torch
from torch import nn

from hilbertnet.regularization.delta import Delta
from hilbertnet.robustness.threats import RadiusWarning


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(n, classes):
    return torch.arange(n) % max(classes, 2)


def network(outputs=3, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, outputs)]
        return nn.Sequential(*layers).to(dtype)


def evaluated(term, model, x, y, seed=0, logits=None, **back):
    return term.bind(x, seed)(model, x, y, logits, **back)


def published(model, x, radius, steps):
    """One example and one logit after the other: the places and shifts of the largest signed differences."""
    outputs, found = model(x[:1]).shape[1], []
    for k in range(outputs):
        best = (-float("inf"), None, None)
        for place, image in enumerate(x):
            shift = torch.zeros_like(image)
            for _ in range(steps):
                moved = (image + shift).requires_grad_()
                (gradient,) = torch.autograd.grad(model(moved[None])[0, k], moved)
                if gradient.norm() > 0:
                    shift = shift + 1.5 * radius / steps * gradient / gradient.norm()
                shift = shift if shift.norm() <= radius else radius * shift / shift.norm()
            rise = (model((image + shift)[None])[0, k] - model(image[None])[0, k]).item()
            best = max(best, (rise, place, shift), key=lambda found: found[0])
        found.append(best)
    return found


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("steps", [1, 5])
def test_linear_models_rise_by_the_radius_times_their_norm(outputs, steps):
    model = nn.Linear(6, outputs).double()
    x, y = draw(5, 6), labels(5, outputs)
    expected = 0.49 * model.weight.square().sum()
    found = evaluated(Delta(0.7, steps=steps), model, x, y)
    torch.testing.assert_close(found, expected)
    # moving with the weights, the shift itself adds nothing: it is the best one
    (ours,) = torch.autograd.grad(found, model.weight)
    torch.testing.assert_close(ours, 2 * 0.49 * model.weight.detach())


def test_gradcheck_in_the_parameters():
    x, y, bias = draw(3, 4), labels(3, 2), draw(2, seed=2)

    def value(weight):
        return Delta(0.5).bind(x, 0)(Affine(weight, bias), x, y)

    assert torch.autograd.gradcheck(value, draw(2, 4, seed=1).requires_grad_())


class Affine(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = [weight], bias

    def forward(self, x):
        return x @ self.weight[0].T + self.bias


class Bowl(nn.Module):
    """``f(x) = ||x||^2 / 2``: from x the best shift is along x."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.scale * x.square().sum(1) / 2


def test_a_quadratic_bowl():
    model, x = Bowl(), draw(6, 5)
    rise = 0.5 * x.norm(dim=1) + 0.125
    found = evaluated(Delta(0.5), model, x, labels(6, 2))
    torch.testing.assert_close(found, rise.max() ** 2)
    (slope,) = torch.autograd.grad(found, model.scale)
    torch.testing.assert_close(slope, 2 * rise.max() ** 2)
    assert evaluated(Delta(0.5), model, torch.zeros(2, 5).double(), labels(2, 2)).item() == 0  # no direction at all


def test_the_sign_counts():
    """Of the signed differences the largest is taken: logits that can only fall have none."""
    model, x = Bowl(), torch.zeros(3, 5, dtype=torch.float64)
    x[1, 0] = 0.1
    model.scale.data.fill_(-1.0)
    # up the hill to its top and beyond it, by a step of 0.15: f rises from -0.005 at most to 0
    found = evaluated(Delta(0.5), model, x, labels(3, 2))
    assert found.item() <= 0.005**2


@pytest.mark.parametrize(("steps", "outputs", "chunk"), [(1, 1, 512), (5, 3, 512), (5, 1, 1), (3, 3, 4)])
def test_the_published_objective_one_pair_at_a_time(outputs, steps, chunk):
    model, x, y = network(outputs), draw(4, 2, 6, 6), labels(4, outputs)
    worst = published(model, x, 0.8, steps)
    expected = sum(
        (model((x[place] + shift)[None])[0, k] - model(x[place][None])[0, k]) ** 2
        for k, (_, place, shift) in enumerate(worst)
    )
    found = evaluated(Delta(0.8, steps=steps, chunk=chunk), model, x, y)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found, list(model.parameters()))
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_logits_of_the_step_are_taken_where_they_are_those_of_the_function(outputs, passes):
    model, x, y = network(outputs), draw(5, 2, 6, 6), labels(5, outputs)
    fresh = evaluated(Delta(0.8), model, x, y)
    logits, seen = model(x), passes(model[0])
    reused = evaluated(Delta(0.8), model, x, y, logits=logits if outputs > 1 else logits[:, 0])
    assert seen[-1] == outputs  # not those before the shift as well
    torch.testing.assert_close(reused, fresh)
    ours = torch.autograd.grad(reused, list(model.parameters()))
    theirs = torch.autograd.grad(fresh, list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    # logits without a way back to the parameters would lose half of the gradient
    ours = torch.autograd.grad(evaluated(Delta(0.8), model, x, y, logits=logits.detach()), list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("term", [Delta(0.8), Delta(0.8, screen=2, shared=2), Delta(0.8, screen=2, probe=1)])
def test_the_way_back_of_the_step_spares_a_pass(term, passes):
    model, x, y = network(), draw(5, 2, 6, 6).requires_grad_(), labels(5, 3)
    seen = passes(model[0])
    expected = evaluated(term, model, x.detach(), y)
    fresh = seen.count(5)
    logits = model(x)
    seen.clear()
    torch.testing.assert_close(evaluated(term, model, x, y, logits=logits, back=True), expected)
    assert seen.count(5) == fresh - 1


# --- cheaper ways


def test_screening_ascends_from_the_steepest_examples_only():
    model, x, y = network(), draw(9, 2, 6, 6), labels(9, 3)
    variable = x.clone().requires_grad_()
    values, expected = model(variable), 0.0
    for k in range(3):
        (gradient,) = torch.autograd.grad(values[:, k].sum(), variable, retain_graph=True)
        steepest = gradient.flatten(1).norm(dim=1).topk(2).indices
        rise, _, _ = published(model, x[steepest], 0.8, 5)[k]
        expected += rise**2
    found = evaluated(Delta(0.8, screen=2), model, x, y).item()
    assert found == pytest.approx(expected, rel=1e-10)


def shared_rises(model, x, radius, count):
    """One example after the other: each logit's change over the chain of probes."""
    changes = []
    for image in x:
        base, done, total = model(image[None])[0].detach(), set(), 0.0
        promise = -base
        for _ in range(min(count, len(base))):
            k = max(set(range(len(base))) - done, key=lambda k: promise[k].item())
            variable = image.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(variable[None])[0, k], variable)
            promise = model((image + radius * gradient / gradient.norm())[None])[0].detach() - base
            total, done = total + promise.square(), done | {k}
        changes.append(total)
    return torch.stack(changes)


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("chunk", [1, 512])
def test_shared_probes_screen_by_what_all_logits_do_there(count, chunk):
    model, x, y = network(), draw(9, 2, 6, 6), labels(9, 3)
    model[4].weight.data *= 5
    changes, expected = shared_rises(model, x, 0.8, count), 0.0
    for k in range(3):
        kept = changes[:, k].topk(2).indices
        expected += published(model, x[kept], 0.8, 5)[k][0] ** 2
    term = Delta(0.8, screen=2, shared=count, chunk=chunk)
    assert evaluated(term, model, x, y).item() == pytest.approx(expected, rel=1e-10)


def test_shared_probes_of_one_logit_are_its_own():
    model, x, y = network(1), draw(9, 2, 6, 6), labels(9, 1)
    one, own = Delta(0.8, screen=1, shared=3), Delta(0.8, probe=1)
    assert evaluated(one, model, x, y).item() == pytest.approx(evaluated(own, model, x, y).item(), rel=1e-12)


def test_shared_probes_need_a_backward_pass_each_and_not_one_for_each_logit(passes):
    model, x, y, back = network(6), draw(16, 2, 6, 6), labels(16, 6), []
    model[0].register_full_backward_pre_hook(lambda _module, gradient: back.append(len(gradient[0])))
    seen = passes(model[0])
    evaluated(Delta(0.8, steps=4, screen=2, shared=2, probe=1), model, x, y)
    pairs = 6 * 2
    assert seen == [16, 16, 16, pairs, pairs, 6, 6, 6, 6, 12]  # x, probes, gradients, own probes, steps, height, values
    assert back == [16, 16, pairs, 6, 6, 6]


def test_drawn_logits_share_probes_among_themselves():
    model, x, y = network(4), draw(8, 2, 6, 6), labels(8, 4)
    for seed in range(3):
        one = evaluated(Delta(0.8, screen=8, shared=1, classes=2), model, x, y, seed)
        torch.testing.assert_close(one, evaluated(Delta(0.8, classes=2), model, x, y, seed))
        part = evaluated(Delta(0.8, screen=3, shared=2, classes=2), model, x, y, seed)
        assert 0 < part.item() <= one.item() * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_cheaper_ways_find_at_most_the_whole(seed):
    model, x, y = network(), draw(12, 2, 6, 6), labels(12, 3)
    whole = evaluated(Delta(), model, x, y).item()
    for term in (Delta(screen=1), Delta(probe=1), Delta(screen=4, probe=2), Delta(screen=2, shared=2)):
        assert 0 < evaluated(term, model, x, y, seed).item() <= whole * (1 + 1e-12)
    same = Delta(screen=12, shared=2, probe=12, classes=3)
    assert evaluated(same, model, x, y, seed).item() == pytest.approx(whole, rel=1e-12)


def test_screening_ascends_from_fewer_pairs():
    model, x, y = network(), draw(16, 2, 6, 6), labels(16, 3)
    seen = []
    model[0].register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    evaluated(Delta(steps=4), model, x, y)
    assert sum(seen) == 16 + 4 * 3 * 16 + 2 * 3  # gradients at x, of three more steps, heights, and both values
    seen.clear()
    evaluated(Delta(steps=4, screen=2), model, x, y)
    assert sum(seen) == 16 + 4 * 3 * 2 + 2 * 3
    seen.clear()
    evaluated(Delta(steps=4, screen=5, probe=2, chunk=2), model, x, y)
    assert sum(seen) == 16 + 3 * 5 + 4 * 3 * 2 + 2 * 3
    assert max(seen) == 16


def test_probing_ascends_from_where_one_step_rises_most():
    model, x, y = network(), draw(9, 2, 6, 6), labels(9, 3)
    model[4].weight.data *= 5  # far from linear in the ball
    variable = x.clone().requires_grad_()
    values, expected = model(variable), 0.0
    for k in range(3):
        (gradient,) = torch.autograd.grad(values[:, k].sum(), variable, retain_graph=True)
        unit = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        with torch.no_grad():
            rise = model(x + 0.8 * unit)[:, k] - values[:, k]
        best = rise.topk(2).indices
        expected += published(model, x[best], 0.8, 5)[k][0] ** 2
    assert evaluated(Delta(0.8, probe=2), model, x, y).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0}, "radius: expected a finite number above 0, got 0"),
        ({"radius": float("nan")}, "radius: expected a finite number above 0"),
        ({"radius": "one"}, "radius: expected a finite number above 0"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"shared": 0, "screen": 2}, "shared: expected a whole number of at least 1, got 0"),
        ({"shared": 2}, r"shared: expected screen= beside it, how many examples .*, got delta\(shared=2\)"),
        ({"screen": 2.5}, "screen: expected a whole number of at least 1, got 2.5"),
        ({"probe": -1}, "probe: expected a whole number of at least 1, got -1"),
        ({"chunk": None}, "chunk: expected a whole number of at least 1, got None"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Delta(**arguments)


def test_a_radius_in_other_units_is_warned_of():
    x = draw(3, 16).sigmoid()
    with pytest.warns(RadiusWarning, match="is it in units of 0 to 255"):
        Delta(8.0).bind(x, 0)
    Delta(3.9).bind(x, 0)
    Delta(8.0).bind(255 * x, 0)


def test_the_text_form_names_what_is_not_as_by_default():
    assert str(Delta()) == "delta"
    assert str(Delta(0.5, screen=8.0)) == "delta(radius=0.5, screen=8)"
