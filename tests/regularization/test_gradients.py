"""Gradient penalties against closed forms and naive loops; and what they, `delta` and `vat` have in common."""

import math

import pytest
import torch
from torch import nn

from hilbertnet.protocols import Penalty
from hilbertnet.regularization.delta import Delta
from hilbertnet.regularization.gradients import Grad, GradL1, GradL2
from hilbertnet.regularization.vat import Vat
from hilbertnet.states import load_state, save_state

TERMS = [Grad(), GradL2(), GradL1(), Delta(0.5), Vat(0.5)]
CHEAP = [
    Grad(classes=2),
    GradL2(examples=3),
    GradL1(loss="ridge", examples=3),
    Delta(0.5, steps=2, screen=2, classes=2),
    Delta(0.5, screen=4, probe=2, chunk=3),
    Delta(0.5, screen=4, shared=2, probe=2),
    Vat(0.5, examples=3),
]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def convolutional(outputs=3, *, noisy=False):
    """From (n, 2, 6, 6) to logits, smooth; noisy: with dropout and batch norm."""

    def make():
        extra = [nn.BatchNorm2d(4), nn.Dropout(0.5)] if noisy else []
        return nn.Sequential(
            nn.Conv2d(2, 4, 3),
            *extra,
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.Softplus(),
            nn.Linear(8, outputs),
        )

    return seeded(make)


class Quadratic(nn.Module):
    """``f_k(x) = x' A_k x / 2 + b_k' x``."""

    def __init__(self, matrices, vectors):
        super().__init__()
        self.matrices, self.vectors = nn.Parameter(matrices), nn.Parameter(vectors)

    def forward(self, x):
        return torch.einsum("ni,kij,nj->nk", x, self.matrices, x) / 2 + x @ self.vectors.T


def quadratic(outputs=3, size=4):
    factor = draw(outputs, size, size)
    return Quadratic(factor + factor.mT, draw(outputs, size, seed=1))


def labels(n, classes):
    return torch.arange(n) % max(classes, 2)


def evaluated(term, model, x, y, seed=0, logits=None, **back):
    return term.bind(x, seed)(model, x, y, logits, **back)


# --- closed forms


@pytest.mark.parametrize("outputs", [1, 4])
def test_linear_models(outputs):
    model = nn.Linear(5, outputs).double()
    x, y = draw(7, 5), labels(7, outputs)
    weight = model.weight.detach()
    torch.testing.assert_close(evaluated(Grad(), model, x, y), weight.square().sum())
    if outputs == 1:
        slope = (torch.sigmoid(model(x)[:, 0]) - y)[:, None] * weight
    else:
        slope = (model(x).softmax(1) - nn.functional.one_hot(y, outputs)) @ weight
    torch.testing.assert_close(evaluated(GradL2(), model, x, y), slope.square().sum(1).mean())
    torch.testing.assert_close(evaluated(GradL1(), model, x, y), slope.abs().sum(1).mean())
    target = 2.0 * (y[:, None] == 1) - 1 if outputs == 1 else 2.0 * nn.functional.one_hot(y, outputs) - 1
    slope = (model(x) - target) @ weight
    torch.testing.assert_close(evaluated(GradL2("ridge"), model, x, y), slope.square().sum(1).mean())


def test_quadratic_models_take_the_steepest_example_of_each_logit():
    model, x, y = quadratic(), draw(9, 4, seed=2), labels(9, 3)
    slopes = torch.einsum("kij,nj->nki", (model.matrices + model.matrices.mT) / 2, x) + model.vectors
    expected = slopes.square().sum(2).amax(0).sum()
    found = evaluated(Grad(), model, x, y)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, list(model.parameters())),
        torch.autograd.grad(expected, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge", "ridge"])
def test_loss_gradients_against_one_example_at_a_time(loss):
    from hilbertnet.losses import losses, signs

    model, x, y = convolutional().double(), draw(4, 2, 6, 6), labels(4, 3)

    def length(power):
        total = 0.0
        for image, label in zip(x, y, strict=True):
            image = image[None].clone().requires_grad_()
            value = losses(loss, model(image), signs(label[None], 3, image.dtype)).sum()
            total += torch.autograd.grad(value, image)[0].norm(p=power).item() ** power / len(x)
        return total

    assert evaluated(GradL2(loss), model, x, y).item() == pytest.approx(length(2), rel=1e-10)
    assert evaluated(GradL1(loss), model, x, y).item() == pytest.approx(length(1), rel=1e-10)


@pytest.mark.parametrize("term", [Grad(), GradL2(), GradL1()], ids=str)
@pytest.mark.parametrize("outputs", [1, 3])
def test_gradcheck_in_the_parameters(term, outputs):
    model = seeded(lambda: nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, outputs))).double()
    x, y = draw(3, 1, 4), labels(3, outputs)
    names = [name for name, _ in model.named_parameters()]

    def value(*parameters):
        chosen = dict(zip(names, parameters, strict=True))
        holder = Called(model, chosen)
        return term.bind(x, 0)(holder, x, y)

    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    assert torch.autograd.gradcheck(value, inputs, atol=1e-5, rtol=1e-4)


class Called(nn.Module):
    """A model with other tensors in the place of its parameters."""

    def __init__(self, model, parameters):
        super().__init__()
        self.held, self.chosen = [model], parameters

    def forward(self, x):
        return torch.func.functional_call(self.held[0], self.chosen, (x,))


# --- cheaper ways


@pytest.mark.parametrize(("whole", "part"), [(Grad(), Grad(classes=2)), (Delta(0.5), Delta(0.5, classes=1))], ids=str)
def test_the_mean_over_drawn_logits_is_that_of_all(whole, part):
    """There are few draws: each is met, and weighed so that they average to the whole."""
    model, x, y = convolutional().double(), draw(8, 2, 6, 6), labels(8, 3)
    bound = part.bind(x, 0)
    found = {f"{bound(model, x, y).item():.10e}" for _ in range(40)}
    assert len(found) == 3
    assert sum(map(float, found)) / 3 == pytest.approx(evaluated(whole, model, x, y).item(), rel=1e-8)


def test_more_logits_than_there_are_is_all():
    model, x, y = convolutional().double(), draw(8, 2, 6, 6), labels(8, 3)
    assert evaluated(Grad(classes=5), model, x, y) == evaluated(Grad(), model, x, y)


@pytest.mark.parametrize(("whole", "part"), [(GradL2(), GradL2(examples=4)), (GradL1(), GradL1(examples=4))])
def test_the_mean_over_drawn_examples_estimates_the_mean_over_all(whole, part):
    model, x, y = convolutional().double(), draw(8, 2, 6, 6), labels(8, 3)
    bound = part.bind(x, 0)
    found = torch.stack([bound(model, x, y).detach() for _ in range(100)])
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - evaluated(whole, model, x, y)) < 4 * error


# --- what all five share


@pytest.mark.parametrize("term", TERMS + CHEAP, ids=str)
def test_it_is_a_penalty_with_a_state(term, tmp_path):
    model, x, y = convolutional().double(), draw(8, 2, 6, 6), labels(8, 3)
    bound = term.bind(x, 3)
    assert isinstance(bound, Penalty)
    bound(model, x, y)
    save_state(tmp_path / "state.safetensors", bound.state_dict(), "penalty")
    following = [bound(model, x, y).item() for _ in range(3)]
    again = term.bind(x, 4)
    again.load_state_dict(load_state(tmp_path / "state.safetensors", "penalty"))
    assert [again(model, x, y).item() for _ in range(3)] == following
    with pytest.raises(ValueError, match="state: expected that of a generator"):
        again.load_state_dict({"vectors": torch.ones(2)})


@pytest.mark.parametrize(
    ("term", "outputs"), [(term, 3) for term in TERMS + CHEAP] + [(term, 1) for term in TERMS], ids=str
)
def test_a_scalar_with_gradients_for_every_weight(term, outputs):
    model, x, y = convolutional(outputs), draw(8, 2, 6, 6, dtype=torch.float32), labels(8, outputs)
    value = evaluated(term, model, x, y)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.item() > 0
    value.backward()
    for name, parameter in model.named_parameters():
        flat = name.endswith("bias") and (isinstance(term, Grad | Delta) and name.startswith("6"))
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
        assert flat or (parameter.grad is not None and parameter.grad.abs().max() > 0), name


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_the_order_of_the_batch_does_not_matter(term):
    model, x, y = convolutional().double(), draw(8, 2, 6, 6), labels(8, 3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    if isinstance(term, Vat):  # each example's random start is its place's: with many iterations it is forgotten
        term = Vat(0.01, iterations=200)
    first, second = evaluated(term, model, x, y), evaluated(term, model, x[order], y[order])
    torch.testing.assert_close(first, second, rtol=1e-3 if isinstance(term, Vat) else 1e-12, atol=0)


@pytest.mark.parametrize("term", TERMS + CHEAP, ids=str)
def test_the_model_is_left_as_it_was(term):
    model = convolutional(noisy=True)
    x, y = draw(8, 2, 6, 6, dtype=torch.float32), labels(8, 3)
    logits = model(x)
    model[1].eval()  # half of the model is in another mode
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    x.requires_grad_()
    value = evaluated(term, model, x, y, logits=logits)
    assert [module.training for module in model.modules()] == modes
    same = evaluated(term, model.eval(), x, y)
    torch.testing.assert_close(value, same)  # dropout and the batch's statistics play no part
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
    grads = [parameter.grad for parameter in model.parameters()]
    assert x.grad is None
    assert all(grad is None for grad in grads[1:])
    assert bool((grads[0] == 1).all())


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_an_error_leaves_it_too(term):
    model = convolutional(noisy=True)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    x, y = draw(4, 2, 6, 6, dtype=torch.float32), labels(4, 3)
    with pytest.raises(ValueError, match="y: expected"):
        evaluated(term, model, x, y + 7)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("back", [False, True], ids=["own way", "way of the step"])
@pytest.mark.parametrize("term", TERMS, ids=str)
def test_mixed_precision_on_the_cpu(term, back):
    model, x, y = convolutional(), draw(16, 2, 6, 6, dtype=torch.float32), labels(16, 3)
    plain = evaluated(term, model, x, y)
    x.requires_grad_(back)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x).float()
        loss = nn.functional.cross_entropy(logits, y)
        value = evaluated(term, model, x, y, logits=logits, back=back)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain, rtol=0.1, atol=0.0)
    (loss + value).backward()  # the casts of the weights that autocast keeps are not those of frozen ones
    assert all(bool(parameter.grad.abs().max() > 0) for parameter in model.parameters())


@pytest.mark.parametrize("term", TERMS + CHEAP, ids=str)
def test_the_way_back_of_the_step_serves_as_well(term):
    model, x, y = convolutional().double(), draw(8, 2, 6, 6).requires_grad_(), labels(8, 3)
    logits = model(x)
    loss = nn.functional.cross_entropy(logits, y)
    value = evaluated(term, model, x, y, logits=logits, back=True)
    fresh = evaluated(term, model, x.detach(), y)
    torch.testing.assert_close(value, fresh)
    expected = torch.autograd.grad(nn.functional.cross_entropy(model(x), y) + fresh, list(model.parameters()))
    (loss + value).backward()
    for parameter, theirs in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, theirs)


@pytest.mark.parametrize("term", TERMS + CHEAP, ids=str)
def test_without_gradients_the_way_back_of_the_step_is_left(term):
    model, x, y = convolutional(), draw(6, 2, 6, 6, dtype=torch.float32).requires_grad_(), labels(6, 3)
    logits = model(x)
    with torch.no_grad():
        value = evaluated(term, model, x, y, logits=logits, back=True)
    assert not value.requires_grad
    torch.testing.assert_close(value, evaluated(term, model, x.detach(), y).detach())
    logits.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("term", TERMS + CHEAP, ids=str)
def test_without_gradients_it_is_the_same_number(term):
    model, x, y = convolutional(), draw(6, 2, 6, 6, dtype=torch.float32), labels(6, 3)
    with torch.no_grad():
        value = evaluated(term, model, x, y)
    assert not value.requires_grad
    torch.testing.assert_close(value, evaluated(term, model, x, y).detach())


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_constant_functions_have_none_and_no_nan_in_its_gradient(term):
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    nn.init.zeros_(model[1].weight)
    x, y = draw(4, 2, 6, 6, dtype=torch.float32), labels(4, 3)
    value = evaluated(term, model, x, y)
    assert value.item() == 0
    value.backward()
    assert bool(torch.isfinite(model[1].weight.grad).all())


@pytest.mark.parametrize("term", TERMS + CHEAP, ids=str)
def test_numbers_that_are_not_finite_come_out(term):
    model, x, y = convolutional(), draw(4, 2, 6, 6, dtype=torch.float32), labels(4, 3)
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = math.nan
    assert not math.isfinite(evaluated(term, model, x, y).item())


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_rows_and_signals(term):
    for shape in ((5,), (2, 9), (1, 3, 4), (1, 2, 3, 2)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
        assert evaluated(term, model.double(), draw(4, *shape), labels(4, 2)).item() > 0


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_bad_batches(term):
    penalty = term.bind(torch.ones(2, 5), 0)
    for x, y, message in [
        (torch.ones(4, 5).long(), torch.zeros(4).long(), "x: expected a tensor of signals"),
        (torch.ones(0, 5), torch.zeros(0).long(), "x: expected a tensor of signals"),
        (torch.ones(4), torch.zeros(4).long(), "x: expected a tensor of signals"),
        (torch.ones(4, 5), torch.zeros(3).long(), "y: expected 4 whole numbers"),
        (torch.ones(4, 5), torch.zeros(4), "y: expected 4 whole numbers"),
        (torch.ones(4, 5), torch.tensor([0, 1, 2, 3]), "y: expected numbers of classes from 0 to 2, got 3"),
        (torch.ones(4, 5), torch.tensor([0, 1, -1, 2]), "y: expected numbers of classes from 0 to 2, got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            penalty(nn.Linear(5, 3), x, y)


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_bad_models(term):
    x, y = torch.ones(4, 5), torch.tensor([0, 1, 0, 2])
    with pytest.raises(ValueError, match="y: expected numbers of classes from 0 to 1, got 2"):
        evaluated(term, nn.Linear(5, 1), x, y)
    with pytest.raises(ValueError, match=r"model: expected logits of shape"):
        evaluated(term, nn.Unflatten(1, (5, 1)), x, y)
    with torch.no_grad(), pytest.raises(ValueError, match="model: expected logits that depend differentiably"):
        evaluated(term, Constant(), x, y)
    with pytest.raises(ValueError, match="x_train: expected a tensor of signals"):
        term.bind([1.0], 0)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"model: .* use torch.no_grad\(\)"):
        evaluated(term, nn.Linear(5, 3), x, y)


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 3)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Grad, "classes"), (GradL2, "examples"), (GradL1, "examples"), (Delta, "classes"), (Vat, "examples")],
)
def test_bad_counts(kind, name):
    for value in (0, -1, 1.5, True, "many"):
        with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1"):
            kind(**{name: value})
    assert getattr(kind(**{name: 8.0}), name) == 8  # as a text form gives it


def test_a_bad_loss_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"loss: expected one of .* got 'logistics'; did you mean 'logistic'\?"):
        GradL2("logistics")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("term", TERMS, ids=str)
def test_a_compiled_model(term):
    model, x, y = convolutional(), draw(8, 2, 6, 6, dtype=torch.float32), labels(8, 3)
    compiled = torch.compile(model)
    logits = compiled(x)
    found, expected = evaluated(term, compiled, x, y, logits=logits), evaluated(term, model, x, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    (nn.functional.cross_entropy(logits, y) + found).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("term", TERMS, ids=str)
def test_a_model_with_a_compiled_part(term):
    model, x, y = convolutional(), draw(8, 2, 6, 6, dtype=torch.float32), labels(8, 3)
    partly = nn.Sequential(torch.compile(model, backend="aot_eager"))
    logits = partly(x)
    value = evaluated(term, partly, x, y, logits=logits)
    torch.testing.assert_close(value, evaluated(term, model, x, y))
    (value + logits.sum()).backward()
