"""The training loop: what it minimizes, what it keeps, how it goes on and how it stops."""

import copy
import math

import pytest
import torch
from torch import nn

from hilbertnet.training import DivergedError, Epoch, Recipe, classification_loss, evaluate, train


def blobs(n=120, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = 2 * torch.randn(classes, 5, generator=torch.Generator().manual_seed(99))
    return centres[y] + torch.randn(n, 5, generator=generator), y


def network(seed=0, outputs=3, dropout=0.0, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, outputs)]
        return nn.Sequential(*([nn.BatchNorm1d(5)] if norm else []), *layers)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
}
SCHEDULES = {
    "none": lambda _: None,
    "step": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3]),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6),
    "warm": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 2), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_time(history):
    return [epoch.__class__(**{**epoch.__dict__, "seconds": 0.0}) for epoch in history]


class Stop(Exception):
    pass


def stop_after(epochs):
    def progress(done, total):
        if done == epochs:
            raise Stop

    return progress


class Noise:
    """A penalty with a stream of its own, as those that deform examples have."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(7)

    def __call__(self, model, x, y, logits=None):
        return 1e-3 * torch.rand((), generator=self.generator) * logits.square().mean()

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


@pytest.mark.parametrize(
    ("optimizer", "schedule", "stopped"),
    [("sgd", "none", 1), ("adam", "step", 2), ("adamw", "cosine", 3), ("rmsprop", "warm", 3), ("sgd", "warm", 1)],
)
def test_interrupted_and_resumed_equals_uninterrupted(optimizer, schedule, stopped, tmp_path):
    def run(checkpoint=None, progress=False):
        model = network(dropout=0.3, norm=True)
        steps = OPTIMIZERS[optimizer](model.parameters())
        history = train(
            model,
            blobs(),
            blobs(seed=1),
            steps,
            Recipe(4, 32, seed=3, clip=1.0),
            schedule=SCHEDULES[schedule](steps),
            penalty=Noise(),
            augment=lambda x, generator: x + 0.1 * torch.randn(x.shape, generator=generator),
            checkpoint=checkpoint,
            progress=progress,
        )
        return bits(model), without_time(history)

    whole, history = run()
    file = tmp_path / "training"
    with pytest.raises(Stop):
        run(file, stop_after(stopped))
    assert file.is_file()
    resumed, resumed_history = run(file)
    assert same(whole, resumed)
    assert resumed_history == history
    assert not file.exists()


def test_the_epoch_is_selected_on_validation_and_the_model_is_left_as_it_was_then():
    states = []
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.8)
    history = train(
        model, blobs(60), blobs(90, seed=5), optimizer, Recipe(12, 8),
        before_epoch=lambda m, _: states.append(bits(m)), progress=False,
    )  # fmt: skip
    best = max(history, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))
    assert best.number < 11, "a test of nothing: the last epoch is the best"
    assert same(bits(model), states[best.number + 1])
    assert evaluate(model, blobs(90, seed=5)) == (best.validation_loss, best.validation_accuracy)
    assert not model.training


def test_without_validation_the_last_epoch_is_kept():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    history = train(model, blobs(), None, optimizer, Recipe(3), progress=False)
    assert [epoch.validation_accuracy for epoch in history] == [None] * 3
    assert history[-1].train_loss < history[0].train_loss


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge", "ridge"])
@pytest.mark.parametrize("classes", [2, 3])
def test_one_step_is_a_step_of_plain_torch(loss, classes):
    x, y = blobs(40, classes)
    model = network(outputs=1 if classes == 2 else classes)
    twin = copy.deepcopy(model)
    train(model, (x, y), None, torch.optim.SGD(model.parameters(), 0.1), Recipe(1, 64), progress=False)
    scores = twin(x)
    if classes == 2:
        value = nn.functional.binary_cross_entropy_with_logits(scores[:, 0], y.float())
    else:
        value = nn.functional.cross_entropy(scores, y)
    value.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= 0.1 * parameter.grad
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    mean, _ = classification_loss(loss)(twin, x, y)
    signs = torch.full_like(scores, -1.0)
    if classes == 2:
        signs[:, 0] = 2.0 * y - 1
    else:
        signs[torch.arange(len(y)), y] = 1.0
    scores = twin(x)
    expected = {
        "squared_hinge": 0.5 * (1 - signs * scores).clamp(min=0).square().sum(1).mean(),
        "ridge": 0.5 * (signs - scores).square().sum(1).mean(),
        "logistic": (
            nn.functional.softplus(-signs * scores).mean()
            if classes == 2
            else -scores.log_softmax(1)[torch.arange(len(y)), y].mean()
        ),
    }[loss]
    torch.testing.assert_close(mean, expected)


def test_clipping_bounds_the_step():
    model = network()
    before = bits(model)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    train(model, blobs(32), None, optimizer, Recipe(1, 32, clip=1e-3), progress=False)
    moved = math.sqrt(sum(float((model.state_dict()[name] - before[name]).square().sum()) for name in before))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_penalty_and_constraint_are_applied_to_every_batch():
    class Ball:
        calls = 0

        def project_(self, model, epoch):
            self.calls += 1
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.clamp_(-0.05, 0.05)

    class Count:
        calls = 0

        def __call__(self, model, x, y, logits=None):
            self.calls += 1
            assert logits.shape == (len(x), 3)
            return torch.zeros(())

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            raise AssertionError

    ball, count, model = Ball(), Count(), network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(model, blobs(100), None, optimizer, Recipe(2, 30), penalty=count, constraint=ball, progress=False)
    assert (ball.calls, count.calls) == (8, 8)
    assert all(parameter.abs().max() <= 0.05 for parameter in model.parameters())


def test_every_example_is_seen_once_an_epoch_in_an_order_of_the_seed():
    seen = []

    def note(x, generator):
        seen.append(x[:, 0].clone())
        return x

    def order(seed):
        seen.clear()
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        train(model, blobs(50), None, optimizer, Recipe(2, 16, seed=seed), augment=note, progress=False)
        return torch.cat(seen[:4]), torch.cat(seen[4:])

    first, second = order(0)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, blobs(50)[0][:, 0].sort().values)
    assert torch.equal(order(0)[0], first)
    assert not torch.equal(order(1)[0], first)


def test_the_global_generator_is_left_as_it_was():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = network(dropout=0.5)
    train(model, blobs(), None, torch.optim.SGD(model.parameters(), 0.1), Recipe(2), progress=False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", ["data", "penalty", "rate"])
def test_a_loss_that_is_not_finite_is_stopped_and_the_batch_named(bad):
    x, y = blobs()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 1e30 if bad == "rate" else 0.1)
    penalty = None
    if bad == "data":
        x[17] = float("nan")
    if bad == "penalty":

        def penalty(*_):
            return torch.tensor(float("inf"))

    with pytest.raises(DivergedError, match=r"epoch \d+, batch \d+ \(examples .*lower the learning rate"):
        train(model, (x, y), None, optimizer, Recipe(5, 32), penalty=penalty, progress=False)


def test_patience_stops_and_evaluations_come_when_due():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    history = train(model, blobs(), blobs(seed=1), optimizer, Recipe(50, patience=3), progress=False)
    assert 4 <= len(history) <= 12
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    history = train(model, blobs(), blobs(seed=1), optimizer, Recipe(5, evaluate_every=2), progress=False)
    assert [epoch.validation_loss is not None for epoch in history] == [False, True, False, True, True]


def test_mixed_precision_trains_and_keeps_parameters_in_full_precision():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    history = train(model, blobs(), blobs(seed=1), optimizer, Recipe(5, precision="bfloat16"), progress=False)
    assert history[-1].train_loss < history[0].train_loss
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_on_a_gpu(precision):
    model = network().cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    history = train(model, blobs(), blobs(seed=1), optimizer, Recipe(5, precision=precision), progress=False)
    assert history[-1].train_loss < history[0].train_loss


@pytest.mark.parametrize(
    ("change", "word"),
    [({"lr": 0.2}, "optimizer"), ({"n": 90}, "data"), ({"seed": 1}, "recipe"), ({"outputs": 4}, "model")],
)
def test_a_checkpoint_of_another_training_is_refused(change, word, tmp_path):
    def run(lr=0.1, n=120, seed=0, outputs=3, progress=False):
        model = network(outputs=outputs)
        optimizer = torch.optim.SGD(model.parameters(), lr)
        train(model, blobs(n), None, optimizer, Recipe(3, seed=seed), checkpoint=tmp_path / "c", progress=progress)

    with pytest.raises(Stop):
        run(progress=stop_after(1))
    with pytest.raises(ValueError, match=f"checkpoint: .*other {word}"):
        run(**change)
    (tmp_path / "c").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        run()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"clip": -1.0}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"clip": "1"}, "clip"),
        ({"patience": 0}, "patience"),
        ({"epochs": 2.5}, "epochs"),
        ({"batch_size": "32"}, "batch_size"),
        ({"evaluate_every": True}, "evaluate_every"),
        ({"precision": "float61"}, r"precision: .*did you mean 'float16'\?"),
    ],
)
def test_a_bad_recipe_is_refused(settings, word):
    with pytest.raises(ValueError, match=f"^{word}"):
        Recipe(**{"epochs": 1, **settings})


X, NONE = torch.zeros(3, 5), torch.zeros(0)


@pytest.mark.parametrize("part", ["data", "validation"])
@pytest.mark.parametrize("bad", [(X[:0], NONE.long()), (X, torch.zeros(2).long()), (X, torch.zeros(3))])
def test_bad_data_are_refused_by_name(part, bad):
    model = network()
    data = {"data": blobs(), "validation": blobs(), part: bad}
    with pytest.raises(ValueError, match=f"{part}: expected signals"):
        train(model, data["data"], data["validation"], torch.optim.SGD(model.parameters(), 0.1), Recipe(1))


def test_evaluate_leaves_modes_alone_and_agrees_with_one_batch():
    model = network(dropout=0.5, norm=True)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    small = evaluate(model, blobs(), batch_size=7)
    assert [module.training for module in model.modules()] == modes
    whole = evaluate(model, blobs(), batch_size=1000)
    assert small[1] == whole[1]
    assert small[0] == pytest.approx(whole[0], rel=1e-5)


def test_better_than_goes_by_accuracy_then_loss():
    def epoch(accuracy, loss):
        return Epoch(0, 0.1, 0.0, 0.0, loss, accuracy, 0.0)

    assert epoch(0.9, 1.0).better_than(epoch(0.8, 0.1))
    assert epoch(0.9, 0.9).better_than(epoch(0.9, 1.0))
    assert not epoch(0.9, 1.0).better_than(epoch(0.9, 1.0))
    assert epoch(0.1, 9.0).better_than(None)
    assert not epoch(None, None).better_than(None)
    assert epoch(0.1, 1.0).better_than(epoch(None, None))
