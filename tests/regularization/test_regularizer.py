"""Regularizers, and what they are once bound: closed forms, states, generators of their own."""

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from hilbertnet.protocols import Constraint, Penalty
from hilbertnet.regularization.projections import OperatorProjection, SpectralProjection
from hilbertnet.regularization.regularizer import Regularizer, as_regularizer
from hilbertnet.regularization.spectral import SpectralPenalty, WeightDecay
from hilbertnet.regularization.term import BoundConstraint, BoundLoss, LossTerm, PenaltyTerm
from hilbertnet.regularization.terms import TERMS
from hilbertnet.signals import as_rng
from hilbertnet.states import load_state, save_state
from hilbertnet.training import Recipe, train
from hilbertnet.training.objective import classification_loss

X = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@dataclass(frozen=True)
class Noise(PenaltyTerm):
    """A random number, and what logits it was given."""

    name: ClassVar[str] = "noise"
    formula: ClassVar[str] = "a random number"

    def bind(self, x_train, generator=None):
        return _BoundNoise(as_rng(generator))


class _BoundNoise:
    def __init__(self, generator):
        self.generator, self.given = generator, []

    def __call__(self, model, x, y, logits=None):
        self.given.append(logits)
        return torch.rand((), generator=self.generator) + 0 * next(model.parameters()).sum()

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


@dataclass(frozen=True)
class Shifted(LossTerm):
    """The loss at x + by, with its own state: how often it was called."""

    by: float = 0.5

    name: ClassVar[str] = "shifted"
    formula: ClassVar[str] = "loss at x + by"

    def bind(self, x_train, generator=None):
        return _BoundShifted(self.by)


class _BoundShifted:
    def __init__(self, by):
        self.by, self.calls = by, 0

    def __call__(self, model, x, y):
        self.calls += 1
        return classification_loss()(model, x + self.by, y)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def network():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": WeightDecay()}, "loss: expected a robust loss or None"),
        ({"penalty": (WeightDecay(),)}, "penalty: expected a tuple of pairs"),
        ({"penalty": [(1.0, WeightDecay())]}, "penalty: expected a tuple of pairs"),
        ({"penalty": ((1.0, SpectralProjection(1)),)}, "penalty: expected a tuple of pairs"),
        (
            {"penalty": ((math.nan, WeightDecay()),)},
            "weight of weight_decay: expected a finite number above 0, got nan",
        ),
        ({"penalty": (("1", WeightDecay()),)}, "weight of weight_decay: expected a finite number above 0, got '1'"),
        ({"constraint": (WeightDecay(),)}, "constraint: expected a tuple of constraints"),
        ({"constraint": SpectralProjection(1)}, "constraint: expected a tuple of constraints"),
    ],
)
def test_bad_parts(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Regularizer(**arguments)


def test_bad_calls():
    with pytest.raises(ValueError, match=r"^regularizer: expected a text such as"):
        Regularizer.parse(3)
    with pytest.raises(ValueError, match=r"^regularizer: expected a text such as"):
        as_regularizer(3)
    for weight in (0, -1.0, math.inf, "2"):
        with pytest.raises(ValueError, match=r"^weight: expected a finite number above 0"):
            WeightDecay() * weight
    with pytest.raises(ValueError, match=r"^sn: a constraint has no weight"):
        2 * (WeightDecay() + SpectralProjection(1))
    for bad in (X.numpy(), X[:0], X.long(), X[0, 0]):
        with pytest.raises(ValueError, match=r"^x_train: expected a tensor of signals"):
            Regularizer.parse("sn(1)").bind(bad)
        with pytest.raises(ValueError, match=r"^x: expected a tensor of signals"):
            Regularizer.parse("sn(1)").bind(X)(network(), bad, Y)


@pytest.mark.parametrize("text", ["none", "weight_decay", "sn_penalty", "sn(1)"])
def test_labels_that_are_no_classes_of_the_model(text):
    bound = Regularizer.parse(text).bind(X, 0)
    for bad, got in ((Y + 1, "got 3"), (Y - 1, "got -1")):
        with pytest.raises(ValueError, match=f"^y: expected numbers of classes from 0 to 2, {got}"):
            bound(network(), X, bad)
    with pytest.raises(ValueError, match=r"^y: expected numbers of classes from 0 to 1, got 2"):
        bound(nn.Linear(5, 1), X, Y)  # three classes and one logit
    with pytest.raises(ValueError, match=r"^y: expected 12 whole numbers of classes, got shape \(12,\), torch.float32"):
        bound(network(), X, Y.float())
    with pytest.raises(ValueError, match=r"^model: expected logits of shape"):
        bound(nn.Identity(), X[:, :, None], Y)


# --- bound


def test_a_bound_regularizer_is_its_parts():
    model = network()
    bound = Regularizer.parse("0.1*weight_decay + 0.01*sn_penalty(0) + sn(0.5, 0)").bind(X, 0)
    loss, logits = bound(model, X, Y)
    squares = sum(float(model[i].weight.detach().square().sum()) for i in (0, 2))
    largest = sum(float(torch.linalg.matrix_norm(model[i].weight.detach(), 2)) ** 2 for i in (0, 2))
    plain = nn.functional.cross_entropy(model(X), Y)
    torch.testing.assert_close(loss, plain + 0.05 * squares + 0.01 * largest)
    assert torch.equal(logits, model(X))
    loss.backward()
    bound.project_(model, 0)
    assert max(float(torch.linalg.matrix_norm(model[i].weight.detach(), 2)) for i in (0, 2)) <= 0.5 * (1 + 1e-5)
    assert isinstance(bound.penalty, Penalty)
    assert isinstance(bound.constraint, BoundConstraint)
    assert isinstance(bound.constraint, Constraint)


def test_nothing_is_the_training_loss_alone():
    bound, model = Regularizer().bind(X), network()
    assert (bound.penalty, bound.constraint) == (None, None)
    before = copy.deepcopy(model.state_dict())
    loss, _ = bound(model, X, Y)
    bound.project_(model, 0)
    assert torch.equal(loss, nn.functional.cross_entropy(model(X), Y))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert bound.state_dict() == {}
    bound.load_state_dict({})


def test_a_training_loss_of_ones_own_and_a_robust_loss():
    model, squared = network(), classification_loss("squared_hinge")
    loss, logits = (WeightDecay() + SpectralProjection(9.0)).bind(X, objective=squared)(model, X, Y)
    decay = sum(model[i].weight.detach().square().sum() / 2 for i in (0, 2))
    torch.testing.assert_close(loss.detach(), squared(model, X, Y)[0].detach() + decay)
    robust = as_regularizer(Shifted(0.7)).bind(X, objective=squared)
    assert isinstance(robust.objective, BoundLoss)
    loss, logits = robust(model, X, Y)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(model(X + 0.7), Y))
    assert torch.equal(logits, model(X + 0.7))


def test_penalties_see_the_logits_of_the_batch_but_not_those_of_a_robust_loss():
    model = network()
    plain, robust = as_regularizer(Noise()).bind(X), (Noise() + Shifted()).bind(X)
    _, logits = plain(model, X, Y)
    robust(model, X, Y)
    assert plain.penalty.parts[0].given[0] is logits
    assert robust.penalty.parts[0].given == [None]


@pytest.mark.parametrize(
    ("text", "batches"),
    [("grad", 1), ("grad_l2 + 0.1*delta(screen=2)", 1), ("grad_l2(examples=5)", 1), ("grad + pgd_l2(0.5)", 7)],
)
def test_the_batch_is_passed_once_for_the_loss_and_for_the_gradients_of_its_logits(text, batches, passes):
    model, bound = network(), Regularizer.parse(text).bind(X, 0)
    seen = passes(model[0])
    loss, _ = bound(model, X, Y)
    assert seen.count(len(X)) == batches  # a robust loss has five steps and its own logits: those of other examples
    loss.backward()
    assert not X.requires_grad
    assert X.grad is None


def test_a_caller_may_go_back_to_the_signals():
    model, variable = network(), X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Regularizer.parse("grad").bind(X, 0)(model, variable, Y)[0], variable)
    assert bool(slope.abs().sum() > 0)


def test_training_passes_the_batch_once_too(passes):
    model, bound = network(), Regularizer.parse("grad").bind(X, 0)
    seen = passes(model[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, (X, Y), None, optimizer, Recipe(epochs=2, batch_size=12), penalty=bound.penalty, progress=False)
    assert seen == [12, 3] * 2


def test_one_more_term_does_not_change_the_numbers_of_another():
    model = network()

    def first(regularizer, seed=0):
        return as_regularizer(regularizer).bind(X, seed).penalty.parts[0](model, X, Y).item()

    alone = first(Noise())
    assert alone == first(Noise() + SpectralPenalty()) == first(Noise() + Noise()) == first(Noise() + Shifted())
    assert alone == first(Noise(), torch.Generator().manual_seed(0))
    assert alone != first(Noise(), 1)
    two = (Noise() + Noise()).bind(X, 0).penalty
    assert two.parts[0](model, X, Y) != two.parts[1](model, X, Y)
    spectral = (SpectralPenalty(1) + Noise()).bind(X, 0).penalty.parts[0](model, X, Y)
    assert torch.equal(spectral, (Noise() + SpectralPenalty(1)).bind(X, 0).penalty.parts[1](model, X, Y))


def test_the_state_goes_through_a_file(tmp_path):
    regularizer = Noise() + 0.1 * SpectralPenalty() + OperatorProjection(0.5) + Shifted()
    bound, model = regularizer.bind(X, 0), network()
    for epoch in range(3):
        bound(model, X, Y)
        bound.project_(model, epoch)
    save_state(tmp_path / "state", bound.state_dict(), "regularizer")
    other, twin = regularizer.bind(X, 5), copy.deepcopy(model)
    other.load_state_dict(load_state(tmp_path / "state", "regularizer"))
    assert other.objective.parts[0].calls == 3
    for one, net in ((bound, model), (other, twin)):
        one.project_(net, 9)
    assert torch.equal(bound(model, X, Y)[0], other(twin, X, Y)[0])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("name", TERMS)
def test_every_term_takes_steps_and_goes_on_from_a_file(name, tmp_path):
    needed = [0.5] * sum(field.default is dataclasses.MISSING for field in dataclasses.fields(TERMS[name]))
    regularizer = as_regularizer(TERMS[name](*needed))
    x, y = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3
    model = nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.Softplus(), nn.Flatten(), nn.Linear(256, 3))
    bound, twin, model_twin = regularizer.bind(x, 0), regularizer.bind(x, 3), copy.deepcopy(model)

    def step(one, net):
        loss, logits = one(net, x, y)
        parameters = list(net.parameters())
        with torch.no_grad():
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= 0.1 * slope
        one.project_(net, 0)
        return loss.item(), logits

    first, logits = step(bound, model)
    assert math.isfinite(first)
    assert logits.shape == (8, 3)
    plain = nn.functional.cross_entropy(model_twin(x), y).item()
    assert first > plain or regularizer.constraint
    model_twin.load_state_dict(model.state_dict())
    save_state(tmp_path / "state", bound.state_dict(), "regularizer")
    twin.load_state_dict(load_state(tmp_path / "state", "regularizer"))
    assert step(bound, model)[0] == step(twin, model_twin)[0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), model_twin.parameters(), strict=True))


def test_the_state_of_another_is_refused():
    state = (0.1 * WeightDecay() + Noise()).bind(X, 0).state_dict()
    pgd = as_regularizer("pgd_l2(1)").bind(X, 0).state_dict()
    with pytest.raises(ValueError, match=r"^state: expected that of 0.2\*weight_decay \+ noise, got 0.1\*weight_decay"):
        (0.2 * WeightDecay() + Noise()).bind(X, 0).load_state_dict(state)
    with pytest.raises(ValueError, match=r"^state: expected that of sn\(tau=1\), with constraint, got penalty"):
        as_regularizer("sn(1)").bind(X, 0).load_state_dict(state)
    with pytest.raises(ValueError, match=r"^state: expected that of pgd_l2\(radius=2\), got pgd_l2\(radius=1\)"):
        as_regularizer("pgd_l2(2)").bind(X, 0).load_state_dict(pgd)
    with pytest.raises(ValueError, match=r"^state: expected that of sn\(tau=1\), got something else"):
        as_regularizer("sn(1)").bind(X, 0).load_state_dict({"constraint": {}})
    with pytest.raises(ValueError, match=r"^state: expected that of sn\(tau=1\), got something else"):
        as_regularizer("sn(1)").bind(X, 0).load_state_dict({"constraint": {"terms": ["sn(tau=1)"], "states": []}})


def test_generators_live_on_the_cpu():
    class Elsewhere(torch.Generator):
        device = torch.device("meta")

    with pytest.raises(ValueError, match=r"^generator: expected one on the CPU, got one on meta"):
        as_regularizer("sn(1)").bind(X, Elsewhere())


def test_a_training_run_with_all_parts():
    model = network()
    bound = Regularizer.parse("0.001*weight_decay + 0.01*sn_penalty + sn(0.8, 0)").bind(X, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    history = train(
        model,
        (X, Y),
        None,
        optimizer,
        Recipe(epochs=3, batch_size=4),
        objective=bound.objective,
        penalty=bound.penalty,
        constraint=bound.constraint,
        progress=False,
    )
    assert len(history) == 3
    assert max(float(torch.linalg.matrix_norm(model[i].weight.detach(), 2)) for i in (0, 2)) <= 0.8 * (1 + 1e-5)
