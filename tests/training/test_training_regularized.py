"""The training loop with robust objectives, penalties and constraints that have a state."""

import pytest
import torch
from torch import nn

from hilbertnet.regularization.regularizer import Regularizer
from hilbertnet.training import DivergedError, Recipe, classification_loss, evaluate, train


def blobs(n=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centres = 2 * torch.randn(3, 5, generator=torch.Generator().manual_seed(99))
    return centres[y] + torch.randn(n, 5, generator=generator), y


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def convolutional():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = nn.Conv2d(5, 8, 3, padding=1)
        return nn.Sequential(
            nn.Unflatten(1, (5, 1, 1)), nn.Upsample((4, 4)), convolution, nn.Flatten(), nn.Linear(128, 3)
        )


class Stop(Exception):
    pass


def stop_after(epochs):
    def progress(done, total):
        if done == epochs:
            raise Stop

    return progress


class Drawing:
    """An objective or a penalty that draws numbers, or a constraint that counts: three kinds of state."""

    def __init__(self, seed):
        self.generator, self.count = torch.Generator().manual_seed(seed), 0

    def state_dict(self):
        return {"generator": self.generator.get_state(), "count": self.count}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.count = state["count"]


class NoisyLoss(Drawing):
    def __call__(self, model, x, y):
        moved = x + 0.1 * torch.randn(x.shape, generator=self.generator)
        return classification_loss()(model, moved, y)


class NoisyPenalty(Drawing):
    def __call__(self, model, x, y, logits=None):
        return 1e-2 * torch.rand((), generator=self.generator) * logits.square().mean()


class Shrinking(Drawing):
    @torch.no_grad()
    def project_(self, model, epoch):
        self.count += 1
        model[1].weight.clamp_(-1 - 1 / self.count, 1 + 1 / self.count)


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def fit(parts, checkpoint=None, progress=False, settings=None):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], gamma=0.5)
    train(
        model, blobs(), blobs(seed=1), optimizer, Recipe(3, 32, seed=3), schedule=schedule,
        validation_objective=classification_loss(), checkpoint=checkpoint, progress=progress, settings=settings,
        **parts,
    )  # fmt: skip
    return bits(model)


@pytest.mark.parametrize("text", [None, "0.05*sn_penalty(iterations=1) + 0.01*weight_decay + sn(1.5)"])
def test_killed_and_resumed_gives_the_same_bits(text, tmp_path):
    def parts():
        if text is None:
            return {"objective": NoisyLoss(1), "penalty": NoisyPenalty(2), "constraint": Shrinking(3)}
        bound = Regularizer.parse(text).bind(blobs()[0], 0)
        return {"objective": bound.objective, "penalty": bound.penalty, "constraint": bound.constraint}

    whole = fit(parts())
    assert all(torch.equal(value, fit(parts())[name]) for name, value in whole.items())
    file = tmp_path / "training"
    with pytest.raises(Stop):
        fit(parts(), file, stop_after(2))
    with pytest.raises(ValueError, match="checkpoint: .*other parts"):
        fit({}, file)
    resumed = fit(parts(), file)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert not file.exists()


def test_a_penalty_that_keeps_nothing_may_be_a_function(tmp_path):
    def decay(model, x, y, logits=None):
        return 1e-3 * model[1].weight.square().sum()

    whole = fit({"penalty": decay})
    with pytest.raises(Stop):
        fit({"penalty": decay}, tmp_path / "training", stop_after(1))
    resumed = fit({"penalty": decay}, tmp_path / "training")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("outputs", [1, 2])
def test_labels_that_the_model_has_no_logit_for(outputs):
    model = nn.Linear(5, outputs)
    with pytest.raises(ValueError, match="^y: expected numbers of classes from 0 to 1, got 2"):
        train(model, blobs(), None, torch.optim.SGD(model.parameters(), 0.1), Recipe(1), progress=False)


def test_settings_of_ones_own_are_compared(tmp_path):
    file = tmp_path / "training"
    with pytest.raises(Stop):
        fit({}, file, stop_after(1), {"regularizer": "delta(1)"})
    with pytest.raises(ValueError, match="checkpoint: .*other regularizer"):
        fit({}, file, settings={"regularizer": "delta(2)"})
    fit({}, file, settings={"regularizer": "delta(1)"})


@pytest.mark.parametrize("given", [False, True])
def test_validation_is_by_its_own_objective(given):
    def hard(model, x, y):
        loss, scores = classification_loss()(model, x + 3.0, y)
        return loss, scores

    model = network()
    history = train(
        model, blobs(), blobs(seed=1), torch.optim.SGD(model.parameters(), 0.1), Recipe(1), objective=hard,
        validation_objective=classification_loss() if given else None, progress=False,
    )  # fmt: skip
    found = evaluate(model, blobs(seed=1), classification_loss() if given else hard)
    assert (history[0].validation_loss, history[0].validation_accuracy) == found
    assert evaluate(model, blobs(seed=1), classification_loss()) != evaluate(model, blobs(seed=1), hard)


def test_no_penalty_is_asked_of_a_network_that_has_diverged():
    def penalty(*_):
        raise AssertionError("asked")

    x, y = blobs()
    x[5] = float("inf")
    model = network()
    with pytest.raises(DivergedError, match=r"epoch 0, batch \d+ .*expected a finite loss, got nan"):
        train(model, (x, y), None, torch.optim.SGD(model.parameters(), 0.1), Recipe(1), penalty=penalty, progress=False)


def test_one_logit_may_come_without_its_axis():
    x, y = blobs()
    y = y % 2
    flat, whole = nn.Linear(5, 1), nn.Linear(5, 1)
    whole.load_state_dict(flat.state_dict())
    without = nn.Sequential(flat, nn.Flatten(0))
    for model in (without, whole):
        train(model, (x, y), (x, y), torch.optim.SGD(model.parameters(), 0.1), Recipe(2), progress=False)
    assert torch.equal(flat.weight, whole.weight)


def test_whichever_epoch_is_the_best_it_is_validated_and_left_in_the_last_set():
    bound = Regularizer.parse("sn(0.3)").bind(blobs()[0], 0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=1e-9)  # nothing is learned after an epoch
    history = train(
        model, blobs(), blobs(seed=1), optimizer, Recipe(6, 16), schedule=schedule, constraint=bound.constraint,
        progress=False,
    )  # fmt: skip
    first, last = (bound.regularizer.constraint[0].radius(epoch) for epoch in (0, 5))
    assert last < 0.5 * first
    norms = [float(torch.linalg.matrix_norm(model[i].weight.detach(), 2)) for i in (1, 4)]
    assert max(norms) == pytest.approx(last, rel=1e-5), "a test of nothing: the set is too large"
    best = max(history, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))
    assert evaluate(model, blobs(seed=1)) == (best.validation_loss, best.validation_accuracy)


@pytest.mark.parametrize("text", ["sn(0.3)", "sn_operator(0.3, tolerance=0.3)"])
def test_validation_does_not_change_what_is_learned_under_a_constraint_that_comes_down(text):
    found = []
    for validation in (None, blobs(seed=1)):
        model, states = convolutional(), []
        bound = Regularizer.parse(text).bind(blobs()[0], 0)
        train(
            model, blobs(), validation, torch.optim.SGD(model.parameters(), 0.2, momentum=0.9), Recipe(4, 16),
            constraint=bound.constraint, before_epoch=lambda net, _, states=states: states.append(bits(net)),
            progress=False,
        )  # fmt: skip
        found.append(states)
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_last_batch_of_one_goes_with_the_one_before():
    x, y = blobs(33)
    seen = []

    def objective(model, x, y):
        seen.append(len(x))
        return classification_loss()(model, x, y)

    for size in (16, 32, 1):
        seen.clear()
        optimizer = torch.optim.SGD(network().parameters(), 0.1)
        if size > 1:  # batch normalization has no statistics of one
            train(network(), (x, y), None, optimizer, Recipe(1, size), objective=objective, progress=False)
            assert seen == {16: [16, 17], 32: [33]}[size]
        else:
            train(nn.Linear(5, 3), (x, y), None, optimizer, Recipe(1, 1), objective=objective, progress=False)
            assert seen == [1] * 33


def test_gradients_are_on_whatever_the_caller_has_set():
    model = network()
    before = bits(model)
    with torch.no_grad():
        train(model, blobs(), None, torch.optim.SGD(model.parameters(), 0.1), Recipe(1), progress=False)
    assert not torch.equal(bits(model)["1.weight"], before["1.weight"])
    with torch.inference_mode(), pytest.raises(ValueError, match="^train: needs gradients, which torch.inference_mode"):
        train(model, blobs(), None, torch.optim.SGD(model.parameters(), 0.1), Recipe(1), progress=False)
