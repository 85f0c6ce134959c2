"""Where penalties go back the way of a training step, and where they must not: the numbers are always the same."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from hilbertnet.regularization.functions import followable
from hilbertnet.regularization.gradients import Grad
from hilbertnet.regularization.regularizer import Regularizer
from hilbertnet.training import Recipe, train
from hilbertnet.training.objective import classification_loss, followed

X = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
TERMS = ["grad", "grad_l2", "grad_l1", "delta(0.5, screen=2)", "0.1*grad_l2 + grad(classes=2) + vat(0.5)"]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 3))


class Recomputed(nn.Module):
    """Whose activations are computed again on the way back."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return checkpoint(self.inside, x, use_reentrant=False)


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


def hooked(model):
    model[1].register_forward_hook(lambda module, _inputs, output: output * (2 if module.training else 1))
    return model


def patched(model):
    forward = model[1].forward
    model[1].forward = lambda x: forward(x) * (2 if model[1].training else 1)
    return model


class Disguised(Dropping):
    """With an attribute that modules have which torch parametrizes."""

    def __init__(self):
        super().__init__()
        self.parametrizations = nn.ModuleDict({"weight": nn.Identity()})


def twice_normalized():
    """The norm is estimated again at the second place."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = parametrizations.spectral_norm(nn.Linear(5, 5))
        with torch.no_grad():
            layer.parametrizations.weight.original.add_(torch.randn(5, 5))
        return nn.Sequential(layer, nn.Softplus(), layer, nn.Softplus(), nn.Linear(5, 3))


UNKNOWN = {
    "recomputed": lambda: nn.Sequential(Recomputed(network()[:4]), network()[4]),
    "wrapped": lambda: checkpoint_wrapper(network(), checkpoint_impl=CheckpointImpl.NO_REENTRANT),
    "hooked": lambda: hooked(network()),
    "patched": lambda: patched(network()),
    "dropout": lambda: nn.Sequential(network(), nn.Dropout()),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(5), network()),
    "of the user's own": lambda: nn.Sequential(Dropping(), network()),
    "disguised": lambda: nn.Sequential(Disguised(), network()),
    "twice normalized": twice_normalized,
    "spread": lambda: nn.DataParallel(network()),
    "compiled": lambda: torch.compile(network(), backend="eager"),
}


def test_torchs_modules_are_known():
    net = network()
    parametrizations.weight_norm(net[0])
    assert followable(net)
    assert followable(net.eval())


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_left_alone(name):
    assert not followable(UNKNOWN[name]())


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("text", TERMS)
@pytest.mark.parametrize("name", ["known", "recomputed", "wrapped", "hooked", "patched", "twice normalized"])
def test_steps_are_what_two_separate_ways_give(name, text):
    one, two = ((UNKNOWN | {"known": network})[name]() for _ in range(2))
    bound, apart = (Regularizer.parse(text).bind(X, 0) for _ in range(2))
    ours = gradients(one, bound(one, X, Y)[0])
    loss = nn.functional.cross_entropy(two(X), Y)
    for mine, other in zip(ours, gradients(two, loss + apart.penalty(two, X, Y)), strict=True):
        torch.testing.assert_close(mine, other)
    assert X.grad is None


def test_hooks_of_all_modules_are_seen():
    handle = register_module_forward_hook(lambda module, _inputs, output: output * (2 if module.training else 1))
    try:
        assert not followable(network())
    finally:
        handle.remove()


def test_signals_may_be_of_any_origin():
    """From inference mode, and in a buffer that the next batch comes into before the backward pass."""
    with torch.inference_mode():
        buffer = torch.zeros(12, 1, 4, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    loss, _ = Regularizer.parse("grad_l2").bind(buffer, 0)(model, buffer, Y)
    with torch.inference_mode():
        buffer.fill_(1.0)
    loss.backward()
    plain = X.clone()
    model = nn.Sequential(nn.Softplus(), nn.Linear(5, 3))
    loss, _ = Regularizer.parse("grad_l2").bind(plain, 0)(model, plain, Y)
    plain.fill_(1.0)
    loss.backward()


def test_no_gradient_of_the_signals_is_kept():
    model, seen = network(), []
    penalty = Grad().bind(X, 0)
    x, back = followed(classification_loss(), penalty, model, X)
    loss, logits = classification_loss()(model, x, Y)
    loss = loss + penalty(model, x, Y, logits, **back)
    x.register_hook(seen.append)
    loss.backward()
    assert len(seen) == 1
    assert x.grad is None


def test_nothing_to_train_is_torchs_error():
    model, penalty = network().requires_grad_(False), Regularizer.parse("delta(0.5)").bind(X, 0).penalty
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="does not require grad"):
        train(model, (X, Y), None, optimizer, Recipe(epochs=1), penalty=penalty, progress=False)


OBJECTIVES = {
    "log-probabilities": lambda model, x, y: _with(model(x).log_softmax(1), y),
    "tempered": lambda model, x, y: _with(model(x) / 4, y),
    "shifted": lambda model, x, y: _with(model(x + 1), y),
    "twice": lambda model, x, y: _with(model(torch.cat([x, -x])), torch.cat([y, y])),
    "changed in place": lambda model, x, y: _with(model(x.add_(0.0)), y),
    "through numpy": lambda model, x, y: _with(model(torch.from_numpy(x.numpy().copy())), y),
}


def _with(scores, y):
    return nn.functional.cross_entropy(scores, y), scores


@pytest.mark.parametrize("name", OBJECTIVES)
def test_signals_of_a_users_objective_are_as_they_came(name):
    seen = []

    def objective(model, x, y):
        seen.append(x)
        return OBJECTIVES[name](model, x, y)

    bound = Regularizer.parse("grad").bind(X, 0, objective=objective)
    bound(network(), X.clone(), Y)[0].backward()
    assert [x.requires_grad for x in seen] == [False]


@pytest.mark.parametrize("name", ["log-probabilities", "changed in place"])
def test_training_with_an_objective_of_ones_own(name):
    model, penalty = network(), Regularizer.parse("grad_l2").bind(X, 0).penalty
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(
        model, (X, Y), None, optimizer, Recipe(epochs=1, batch_size=12), objective=OBJECTIVES[name], penalty=penalty,
        progress=False,
    )  # fmt: skip
    expected, step = network(), Regularizer.parse("grad_l2").bind(X, 0)
    gradients(expected, step(expected, X, Y)[0])
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)


def test_whole_numbers_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(4, 2), nn.Flatten(), nn.Linear(10, 3))
    letters = torch.randint(0, 4, (12, 5))
    penalty, optimizer = Grad().bind(X, 0), torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="x: expected a tensor of signals"):
        train(model, (letters, Y), None, optimizer, Recipe(epochs=1, batch_size=12), penalty=penalty, progress=False)


def test_penalties_called_by_hand_have_a_way_of_their_own():
    model, variable = network(), X.clone().requires_grad_()
    logits = model(variable)
    value = Grad().bind(X, 0)(model, variable, Y, logits)
    logits.sum().backward()  # frees the way of the logits
    assert bool((variable.grad != 0).any())
    before = variable.grad.clone()
    value.backward()
    assert torch.equal(variable.grad, before)


def test_a_penalty_of_the_users_own_is_asked_for_nothing_new():
    class Own:
        def __call__(self, model, x, y, logits=None):
            assert not x.requires_grad
            return model[0].weight.square().sum()

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, (X, Y), None, optimizer, Recipe(epochs=1, batch_size=12), penalty=Own(), progress=False)
    bound = (Regularizer.parse("grad")).bind(X, 0)
    bound.penalty.parts.append(Own())
    bound.penalty.weights.append(1.0)
    bound(model, X, Y)[0].backward()


def test_a_loss_is_the_same_after_a_copy():
    """Objectives are compared by their kind: what a worker process was sent is followed too."""
    objective = copy.deepcopy(classification_loss())
    bound = Regularizer.parse("grad").bind(X, 0, objective=objective)
    model = network()
    assert bound(model, X, Y)[0].item() == Regularizer.parse("grad").bind(X, 0)(model, X, Y)[0].item()


def test_inference_mode_is_refused_by_name():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"model: .* use torch.no_grad\(\)"):
        Regularizer.parse("grad").bind(X, 0)(network(), X, Y)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_modules_are_passed_again():
    model = torch.jit.script(nn.Sequential(network(), nn.Dropout()))
    bound, plain = (Regularizer.parse("grad").bind(X, 0) for _ in range(2))
    expected = plain.penalty(model, X, Y)
    logits = model(X)
    torch.testing.assert_close(bound.penalty(model, X, Y, logits), expected)
    bound(model, X, Y)[0].backward()
