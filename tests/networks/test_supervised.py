"""Networks trained end to end: gradients of the whole, any optimizer, the exact head, better than before."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from hilbertnet import CKN, CKNClassifier
from hilbertnet.networks import CKNLayer, CKNNet, train_supervised
from hilbertnet.solvers.linear import Eigenbasis, fit_head
from hilbertnet.training import DivergedError, Recipe, classification_loss, evaluate

ARCH = "3 exp(0.6) gauss2 | 3 exp(0.6) gauss2"


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return torch.from_numpy(X).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(y)


def network(digits, filters=(8, 12), classes=10, dtype=torch.float32):
    x, _ = digits
    net = CKN(ARCH, 1, filters, generator=0).to(dtype)
    net.fit_filters_(x[:200].to(dtype), patches=1000, generator=0, progress=False)
    return CKNNet(net, (8, 8), classes)


@pytest.mark.parametrize("regularization", ["root", "eigenvalue"])
@pytest.mark.parametrize("twins", [False, True])
def test_gradcheck_of_the_whole_network(regularization, twins):
    """In input, filters and head; with equal filters the kernel matrix has repeated and vanishing eigenvalues."""
    net = CKN("2 exp(0.6) gauss2 | 2 poly2 -", 1, (4, 3), regularization=regularization, generator=0).double()
    first = net.layers[0]
    if twins:
        with torch.no_grad():
            first.filters[1] = first.filters[0]
            first.filters[3] = first.filters[2]
    model = CKNNet(net, (4, 4), 3).double()
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    names, values = zip(*[(n, p.detach().clone()) for n, p in model.named_parameters()], strict=True)
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1

    def function(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *(v.requires_grad_() for v in values)), atol=1e-6)


def test_the_layer_sees_directions_only(digits):
    x, _ = digits
    layer = network(digits).features.layers[0]
    before = layer(x[:5])
    with torch.no_grad():
        layer.filters.mul_(torch.linspace(0.5, 3, len(layer.filters))[:, None, None, None])
    torch.testing.assert_close(layer(x[:5]), before, rtol=1e-4, atol=1e-5)
    layer.filters.grad = None
    layer(x[:5]).sum().backward()
    inner = (layer.filters.grad * layer.filters).flatten(1).sum(1)
    assert inner.abs().max() < 1e-4 * layer.filters.grad.norm()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS, torch.optim.Adagrad])
def test_a_layer_in_a_sequence_under_any_optimizer(digits, optimizer):
    x, y = digits[0][:150], digits[1][:150]
    arch = CKN(ARCH, 1, (8, 12), generator=0).arch
    layers = [CKNLayer(arch, arch.layers[0], 1, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 10))
    steps = optimizer(model.parameters(), lr=0.05)
    start = copy.deepcopy(layers[0].filters.detach())
    losses = []

    def closure():
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(15):
        steps.step(closure)
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(start, layers[0].filters.detach())


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic", "ridge"])
@pytest.mark.parametrize("classes", [2, 10])
def test_refit_is_the_exact_head(digits, loss, classes):
    x, y = digits[0][:300], digits[1][:300] % classes
    net = network(digits, classes=classes)
    net.refit_(x, y, loss, 1e-2)
    features = net.features.encode(x)
    centred = (features - features.mean(0)) * net.scale
    torch.testing.assert_close(centred.norm(dim=1).square().mean(), torch.ones(()))
    head = fit_head(centred, y, classes, loss, 1e-2, basis=Eigenbasis(centred))
    torch.testing.assert_close(net(x), head.scores(centred), rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(net.linear_head(1e-2, loss).scores(features), net(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("refit", [True, False])
def test_training_beats_the_filters_it_starts_from(digits, refit):
    x, y = digits
    net = network(digits, filters=(4, 6))
    data, held, test = (x[:600], y[:600]), (x[600:900], y[600:900]), (x[900:], y[900:])
    net.refit_(*data, "squared_hinge", 1e-3)
    before = evaluate(net, test)[1]
    history = train_supervised(
        net, data, held, Recipe(8, 32), lam=1e-3, learning_rate=0.01, refit=refit, progress=False
    )
    after = evaluate(net, test)[1]
    assert len(history) == 8
    assert after > before + 0.03, (before, after)
    for layer in net.features.layers:
        norms = layer.filters.detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(len(norms)))


def test_a_learning_rate_that_diverges_is_one_clear_error(digits):
    x, y = digits
    net = network(digits, filters=(4, 6))
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train_supervised(net, (x[:300], y[:300]), None, Recipe(10, 32), lam=1e-3, learning_rate=1e30, progress=False)


def test_the_start_is_kept_where_no_epoch_is_better(digits):
    x, y = digits
    net = network(digits, filters=(4, 6))
    filters = [layer.filters.detach().clone() for layer in net.features.layers]
    data, held = (x[:300], y[:300]), (x[300:600], y[300:600])
    net.refit_(*data, "squared_hinge", 1e-3)
    expected = evaluate(net, held)
    history = train_supervised(net, data, held, Recipe(1, 16), lam=1e-3, learning_rate=0.3, progress=False)
    assert history[0].validation_accuracy < expected[1], "a test of nothing: the epoch is better"
    assert evaluate(net, held) == expected
    for layer, before in zip(net.features.layers, filters, strict=True):
        assert torch.equal(layer.filters.detach(), before)


def test_interrupted_and_resumed_equals_uninterrupted(digits, tmp_path):
    x, y = digits[0][:300], digits[1][:300]

    class Stop(Exception):
        pass

    def run(**how):
        net = network(digits, filters=(4, 6))
        train_supervised(net, (x[:200], y[:200]), (x[200:], y[200:]), Recipe(4, 32), lam=1e-3, **how)
        return net.state_dict()

    def stop(done, total):
        if (done, total) == (2, 4):
            raise Stop

    whole = run(progress=False)
    with pytest.raises(Stop):
        run(checkpoint=tmp_path / "c", progress=stop)
    resumed = run(checkpoint=tmp_path / "c", progress=False)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_the_estimator_trains_selects_saves_and_resumes(digits, tmp_path):
    x, y = digits[0][:500].numpy(), digits[1][:500].numpy()
    settings = {"filters": (4, 6), "patches": 1000, "random_state": 0, "training": "supervised", "epochs": 4}
    settings |= {"augmentation": "crop(1)", "batch_size": 16}
    model = CKNClassifier(**settings).fit(x, y)
    plain = CKNClassifier(**{**settings, "training": "unsupervised"}).fit(x, y)
    assert len(model.history_) == 4
    assert plain.history_ == []
    assert list(model.seconds_) == ["filters", "features", "lambda", "head", "training"]
    test = digits[0][500:].numpy(), digits[1][500:].numpy()
    assert model.score(*test) > plain.score(*test)
    model.save(tmp_path / "m")
    again = CKNClassifier.load(tmp_path / "m")
    assert (again.decision_function(test[0]) == model.decision_function(test[0])).all()

    class Stop(Exception):
        pass

    def stop(done, total):
        if (done, total) == (2, 4):
            raise Stop

    with pytest.raises(Stop):
        CKNClassifier(**settings, checkpoint=tmp_path / "c", progress=stop).fit(x, y)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "c.training", "m"]
    resumed = CKNClassifier(**settings, checkpoint=tmp_path / "c").fit(x, y)
    assert (resumed.decision_function(test[0]) == model.decision_function(test[0])).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"training": "super"}, "training"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": -1}, "batch_size"),
        ({"augmentation": "flop"}, "augmentation: .*flip"),
        ({"learning_rate": 0.0}, "lr"),
        ({"learning_rate": 1e30, "batch_size": 16}, "lower the learning rate"),
    ],
)
def test_bad_settings_of_the_estimator(digits, wrong, word):
    x, y = digits[0][:100].numpy(), digits[1][:100].numpy()
    settings = {"filters": (4, 6), "patches": 500, "training": "supervised", "epochs": 5, "random_state": 0, **wrong}
    with pytest.raises(ValueError, match=word):
        CKNClassifier(**settings).fit(x, y)


def test_logistic_loss_of_the_trained_head_is_the_objective(digits):
    x, y = digits
    net = network(digits)
    net.refit_(x[:100], y[:100], "logistic", 1e-3)
    mean, scores = classification_loss("logistic")(net, x[:100], y[:100])
    torch.testing.assert_close(mean, nn.functional.cross_entropy(scores, y[:100]))
