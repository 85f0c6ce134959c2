"""Virtual adversarial training against the eigenvectors of the divergence's Hessian and against closed forms."""

import pytest
import torch
from torch import nn

from hilbertnet.regularization.vat import Vat


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(n, classes):
    return torch.arange(n) % max(classes, 2)


def evaluated(term, model, x, y, seed=0, logits=None):
    return term.bind(x, seed)(model, x, y, logits)


def linear(outputs=4, features=5):
    model = nn.Linear(features, outputs).double()
    with torch.no_grad():
        model.weight.copy_(draw(outputs, features, seed=3))
        model.bias.copy_(draw(outputs, seed=4))
    return model


def two_ways(model, x, direction, radius):
    """KL along a direction and against it, by torch's own distributions."""
    at = torch.distributions.Categorical(logits=model(x))
    return [
        torch.distributions.kl_divergence(
            at, torch.distributions.Categorical(logits=model(x + sign * radius * direction))
        )
        for sign in (1, -1)
    ]


def test_many_iterations_find_the_leading_eigenvector():
    model, x, y = linear(), draw(1, 5), labels(1, 4)
    p = model(x).softmax(1)[0]
    hessian = model.weight.T @ (torch.diag(p) - torch.outer(p, p)) @ model.weight
    leading = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    found = evaluated(Vat(0.3, xi=1e-4, iterations=300), model, x, y).item()
    assert min(abs(found / way.item() - 1) for way in two_ways(model, x, leading, 0.3)) < 1e-3
    torch.testing.assert_close(
        torch.tensor(found).double(), 0.5 * 0.3**2 * torch.linalg.eigvalsh(hessian)[-1], rtol=0.3, atol=0
    )


def test_one_iteration_is_a_product_with_the_hessian():
    model, x, y = linear(), draw(1, 5), labels(1, 4)
    p = model(x).softmax(1)[0]
    hessian = model.weight.T @ (torch.diag(p) - torch.outer(p, p)) @ model.weight
    bound = Vat(0.3, xi=1e-5).bind(x, 0)
    twin = torch.Generator()
    twin.set_state(bound.state_dict()["generator"])
    start = torch.randn(1, 5, generator=twin, dtype=torch.float64)
    direction = nn.functional.normalize(start @ hessian)
    torch.testing.assert_close(bound(model, x, y), two_ways(model, x, direction, 0.3)[0][0], rtol=1e-4, atol=0)


def test_one_logit_moves_along_its_gradient():
    model, x, y = linear(1), draw(6, 5), labels(6, 1)
    p = torch.sigmoid(model(x)[:, 0])
    norm = model.weight.norm()
    ways = []
    for sign in (1, -1):
        q = torch.sigmoid(model(x)[:, 0] + sign * 0.5 * norm)
        ways.append(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    least, most = torch.minimum(*ways).mean(), torch.maximum(*ways).mean()
    found = torch.stack([evaluated(Vat(0.5), model, x, y, seed).detach() for seed in range(10)])
    assert bool((found >= least - 1e-9).all())
    assert bool((found <= most + 1e-9).all())
    bound = Vat(0.5).bind(x[:1], 0)
    for _ in range(5):  # of a single example it is one of the two
        assert min(abs(bound(model, x[:1], y[:1]) - way[0]) for way in ways) < 1e-9
    # two logits that differ by the one are the same function
    with torch.no_grad():
        twice = linear(2)
        twice.weight.copy_(torch.cat([0 * model.weight, model.weight]))
        twice.bias.copy_(torch.cat([0 * model.bias, model.bias]))
    torch.testing.assert_close(evaluated(Vat(0.5), twice, x, y), evaluated(Vat(0.5), model, x, y))


def test_gradcheck_with_the_target_and_the_shift_held():
    """For one logit the shift is along the weights; what is held is taken from a model that does not move."""
    held, x, y = linear(1), draw(3, 5), labels(3, 1)
    bound = Vat(0.5).bind(x, 0)
    state = bound.state_dict()
    value = bound(held, x, y)
    (found,) = torch.autograd.grad(value, held.weight)
    p = torch.sigmoid(held(x)).detach()
    twin = torch.Generator()
    twin.set_state(state["generator"])
    start = torch.randn(x.shape, generator=twin, dtype=torch.float64)
    weight = held.weight.detach()
    shift = 0.5 * (start @ weight.T).sign() * weight / weight.norm()

    def divergence(free):
        q = torch.sigmoid((x + shift) @ free.T + held.bias.detach())
        return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()

    free = weight.clone().requires_grad_()
    torch.testing.assert_close(value, divergence(free))
    assert torch.autograd.gradcheck(divergence, free)
    torch.testing.assert_close(found, torch.autograd.grad(divergence(free), free)[0], rtol=1e-6, atol=1e-9)


def network(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 24 * 24, 10)).to(dtype)


def test_single_precision_finds_the_direction_of_double_precision():
    x, y = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0)), labels(16, 10)
    exact = evaluated(Vat(xi=1e-4), network(torch.float64), x.double(), y).item()
    assert evaluated(Vat(), network(torch.float32), x, y).item() == pytest.approx(exact, rel=0.01)
    assert evaluated(Vat(xi=1e-6), network(torch.float32), x, y).item() < 0.9 * exact  # what the paper's xi comes to


def test_half_precision_still_finds_it():
    x, y = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0)), labels(16, 10)
    model = network(torch.float32)
    exact = evaluated(Vat(), model, x, y).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert evaluated(Vat(), model, x, y).item() == pytest.approx(exact, rel=0.05)


def test_the_logits_of_the_step_are_the_target(passes):
    model, x, y = nn.Sequential(linear()), draw(6, 5), labels(6, 4)
    fresh, logits = evaluated(Vat(), model, x, y), model(x)
    calls = passes(model)
    torch.testing.assert_close(evaluated(Vat(), model, x, y, logits=logits), fresh)
    assert len(calls) == 2  # at xi d and at r
    calls.clear()
    evaluated(Vat(), model, x, y)
    assert len(calls) == 3
    held = evaluated(Vat(examples=3), model, x, y)
    torch.testing.assert_close(evaluated(Vat(examples=3), model, x, y, logits=logits), held)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_never_negative(seed):
    model, x, y = linear().float(), draw(64, 5, dtype=torch.float32), labels(64, 4)
    assert evaluated(Vat(radius=1e-6), model, x, y, seed).item() >= 0


@pytest.mark.parametrize("field", ["radius", "xi"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), "far"])
def test_bad_numbers(field, value):
    with pytest.raises(ValueError, match=f"{field}: expected a finite number above 0"):
        Vat(**{field: value})
    with pytest.raises(ValueError, match="iterations: expected a whole number of at least 1, got 0"):
        Vat(iterations=0)
