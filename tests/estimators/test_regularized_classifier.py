"""Networks trained with regularizers: what is minimized, what is kept, saved and found again."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from torch import nn

from hilbertnet.data import DNA, Preprocessing
from hilbertnet.estimators import CKNClassifier, RegularizedClassifier, load_classifier
from hilbertnet.estimators.models import build_model, model_function, motif_cnn, small_cnn
from hilbertnet.estimators.regularized import _milestones
from hilbertnet.networks import PlainCNN
from hilbertnet.regularization import TERMS, Regularizer
from hilbertnet.training import evaluate

QUICK = {"epochs": 3, "batch_size": 32, "random_state": 0, "input_shape": (1, 8, 8)}
NETS = """
import torch
from torch import nn

def linear(shape, classes):
    count = 1
    for side in shape:
        count *= side
    return nn.Sequential(nn.Flatten(), nn.Linear(count, classes))

def normalized(shape, classes):
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.2), nn.LazyLinear(classes))

number = 3
"""


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "some_nets_of_a_user.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    return "some_nets_of_a_user"


def flat_linear(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))


def one_logit(shape, classes):
    """Two classes with one logit that comes without its axis."""
    return nn.Sequential(*flat_linear(shape, 1), nn.Flatten(0))


def two_logits(shape, classes):
    return flat_linear(shape, 2)


# --- what is learned


def test_digits_are_learned_and_everything_agrees(digits):
    X, y = digits
    model = RegularizedClassifier(**{**QUICK, "epochs": 8}, validation=0.2, learning_rate=0.1).fit(X[:600], y[:600])
    assert model.score(X[600:], y[600:]) > 0.85
    assert len(model.history_) == 8
    assert not model.module_.training
    images = torch.from_numpy(X[:50]).reshape(-1, 1, 8, 8)
    with torch.no_grad():
        logits = model.module_(images).numpy()
    np.testing.assert_array_equal(model.decision_function(X[:50]), logits)
    np.testing.assert_array_equal(model.predict(X[:50]), model.classes_[logits.argmax(1)])
    np.testing.assert_allclose(model.predict_proba(X[:50]), torch.tensor(logits).softmax(1), rtol=1e-6)
    best = max(model.history_, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))
    assert best.validation_accuracy > 0.8
    assert isinstance(model.predict(images), torch.Tensor)


def test_one_epoch_of_one_batch_is_a_step_on_the_loss_and_the_penalty(digits):
    X, y = digits
    x, numbers = torch.from_numpy(X[:64]), torch.from_numpy(y[:64])
    settings = {"epochs": 1, "batch_size": 64, "learning_rate": 0.3, "weight_decay": 0.2, "random_state": 0}
    model = RegularizedClassifier(flat_linear, "0.5*weight_decay", **settings).fit(X[:64], y[:64])
    start = RegularizedClassifier(flat_linear, **{**settings, "learning_rate": 1e-30}).fit(X[:64], y[:64]).module_
    weight, bias = (p.detach().double().requires_grad_() for p in start.parameters())
    loss = nn.functional.cross_entropy(x.double() @ weight.T + bias, numbers)
    (loss + 0.5 * weight.square().sum() / 2).backward()
    for found, old in zip(model.module_.parameters(), (weight, bias), strict=True):
        expected = old - 0.3 * (old.grad + 0.2 * old)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_constraint_holds_after_the_fit(digits):
    X, y = digits
    loose = RegularizedClassifier(flat_linear, epochs=5, learning_rate=1.0, random_state=0).fit(X[:200], y[:200])
    tight = RegularizedClassifier(flat_linear, "sn(0.5, kappa=0.1)", epochs=5, learning_rate=1.0, random_state=0)
    tight.fit(X[:200], y[:200])
    norms = [torch.linalg.svdvals(model.module_[1].weight.detach())[0] for model in (loose, tight)]
    assert norms[0] > 1
    assert norms[1] <= 0.5 + 1e-5


@pytest.mark.parametrize("function", [one_logit, two_logits])
def test_two_classes_with_one_logit_or_two(digits, function):
    X, y = digits
    X, y = X[y < 2], np.array(["zero", "one"])[y[y < 2]]
    model = RegularizedClassifier(function, epochs=20, validation=0.2, random_state=0, learning_rate=0.5).fit(X, y)
    scores = model.decision_function(X)
    assert model.score(X, y) > 0.97
    assert scores.shape == (len(X),)
    np.testing.assert_array_equal(model.predict(X) == model.classes_[1], scores > 0)
    odds = model.predict_proba(X)
    np.testing.assert_allclose(odds[:, 1], 1 / (1 + np.exp(-scores)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(odds.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((1, 28, 28), (128, 3, 3)),
        ((3, 32, 32), (256, 2, 2)),
        ((2, 5, 40), (256, 2, 2)),
        ((4, 100), (256, 3)),
        ((7, 1), (32, 1)),
        ((1, 2, 2), (32, 2, 2)),
        ((1, 64, 64), (256, 2, 2)),
    ],
)
def test_the_small_network_fits_signals_of_any_shape(shape, maps):
    net = small_cnn(shape, 3, generator=0)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    assert net.maps(x).shape == (2, *maps)
    assert net(x).shape == (2, 3)
    assert small_cnn(shape, 2, generator=0)(x).shape == (2, 1)


def test_motifs_are_found_wherever_they_stand_and_padding_changes_nothing():
    short, long = motif_cnn((4, 20), 3, generator=0), motif_cnn((4, 45), 3, generator=0)
    x = torch.zeros(2, 4, 45, dtype=torch.float64)
    x[:, :, :20] = torch.from_numpy(DNA.encode(["GATTACATTGCACCGTTAGA", "CCA"], length=20).x)
    with torch.no_grad():
        torch.testing.assert_close(short.double()(x[:, :, :20]), long.double()(x))
        torch.testing.assert_close(long(x[:1].roll(17, dims=2)), long(x[:1]))
        naive = torch.nn.functional.conv1d(x, long.body[0].weight, padding=9).relu().amax(2)
        torch.testing.assert_close(long.maps(x)[:, :, 0], naive)
    for shape in ((3, 8, 8), (5,)):
        with pytest.raises(ValueError, match="model: motif takes sequences and signals"):
            motif_cnn(shape, 2)


def test_a_motif_network_is_saved_and_found_again(tmp_path):
    rng = np.random.RandomState(0)
    x, y = DNA.encode(["".join(rng.choice(list("ACGT"), 30)) for _ in range(20)]).x, np.arange(20) % 2
    model = RegularizedClassifier("motif", epochs=2, random_state=0).fit(x, y)
    model.save(tmp_path / "model.safetensors")
    again = load_classifier(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.decision_function(x), model.decision_function(x))
    with pytest.raises(ValueError, match="model: motif takes sequences and signals"):
        RegularizedClassifier("motif", epochs=1, input_shape=(1, 5, 6)).fit(x.reshape(-1, 30), np.arange(80) % 2)


def test_the_small_network_knows_the_mean_and_deviation_of_its_channels():
    X = 5 + 3 * np.random.RandomState(0).rand(40, 2, 6, 6)
    X[:, 1] = 0.25  # has no deviation
    model = RegularizedClassifier(epochs=1).fit(X, np.arange(40) % 2)
    mean, std = model.module_.mean.flatten(), model.module_.std.flatten()
    np.testing.assert_allclose(mean, [X[:, 0].mean(), 0.25])
    np.testing.assert_allclose(std, [X[:, 0].std(), 1])
    assert model.module_.mean.dtype == torch.float64  # as the signals


@pytest.mark.parametrize(("name", "layers"), [("vgg", 11), ("resnet", 18 + 3)])  # and three shortcuts
def test_published_networks(name, layers):
    net = build_model(model_function(name), (1, 32, 32), 3, 0)
    assert isinstance(net, PlainCNN)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules()) == layers
    assert net(torch.rand(1, 1, 32, 32)).shape == (1, 3)


def test_the_learning_rate_is_halved_as_published_and_as_often_in_short_trainings(digits):
    assert _milestones(501) == list(range(40, 501, 40))
    assert _milestones(100) == [20, 40, 60, 80]
    assert _milestones(3) == [1, 2]
    assert _milestones(1) == []
    X, y = digits
    model = RegularizedClassifier(flat_linear, epochs=10, learning_rate=0.4, random_state=0).fit(X[:50], y[:50])
    assert [epoch.learning_rate for epoch in model.history_] == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


# --- random numbers, checkpoints


def weights(model):
    return model.module_.state_dict()


def same(one, two):
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("model", ["cnn", flat_linear])
def test_a_seed_gives_the_same_bits_and_leaves_the_global_generator_alone(digits, model):
    X, y = digits
    settings = {**QUICK, "model": model, "augmentation": "crop(1)", "regularizer": "0.01*sn_penalty"}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = RegularizedClassifier(**settings).fit(X[:100], y[:100])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, RegularizedClassifier(**settings).fit(X[:100], y[:100]))
    assert not same(first, RegularizedClassifier(**{**settings, "random_state": 1}).fit(X[:100], y[:100]))


class Stop(Exception):
    pass


def stop(done, total):
    if done == 2:
        raise Stop


def test_an_interrupted_fit_goes_on_to_the_same_bits(digits, tmp_path):
    X, y = digits[0][:150], digits[1][:150]
    settings = {**QUICK, "epochs": 5, "regularizer": "0.05*sn_penalty + sn(2.0)", "augmentation": "crop(1)"}
    whole = RegularizedClassifier(**settings).fit(X, y)
    file = tmp_path / "unfinished"
    with pytest.raises(Stop):
        RegularizedClassifier(**settings, checkpoint=file, progress=stop).fit(X, y)
    for change, word in [
        ({"regularizer": "0.05*sn_penalty + sn(3.0)"}, "regularizer"),
        ({"augmentation": None}, "augmentation"),
        ({"regularizer": None}, "parts"),
        ({"epochs": 6}, "epochs"),
    ]:
        with pytest.raises(ValueError, match=f"checkpoint: .*other .*{word}"):
            RegularizedClassifier(**{**settings, **change}, checkpoint=file).fit(X, y)
    resumed = RegularizedClassifier(**settings, checkpoint=file).fit(X, y)
    assert same(whole, resumed)
    assert not file.exists()
    with pytest.raises(ValueError, match="random_state: checkpoint needs a whole number"):
        RegularizedClassifier(**{**settings, "random_state": None}, checkpoint=file).fit(X, y)


TEXTS = {
    "delta": "delta(0.1, screen=4)", "grad": "0.1*grad", "grad_l2": "grad_l2", "grad_l1": "0.1*grad_l1",
    "vat": "vat(0.3)", "tau": "0.1*tau(images=3, variants=3)", "dtau": "0.1*dtau(images=3, tangents=3)",
    "sn_penalty": "0.1*sn_penalty(iterations=1)", "weight_decay": "0.1*weight_decay", "pgd_l2": "pgd_l2(0.2, steps=2)",
    "pgd_linf": "pgd_linf(0.05, steps=2)", "trades": "trades(0.05, steps=2)", "sn": "sn(0.5)",
    "sn_operator": "sn_operator(1.5)",
}  # fmt: skip


def test_every_term_is_tried():
    assert TEXTS.keys() == TERMS.keys()


@pytest.fixture(scope="module")
def free(digits):
    """Losses without a regularizer."""
    model = RegularizedClassifier(**{**QUICK, "batch_size": 12}).fit(digits[0][:24], digits[1][:24])
    return [epoch.train_loss for epoch in model.history_]


@pytest.mark.parametrize("name", TERMS)
def test_every_term_trains_and_resumes_to_the_same_bits(name, digits, free, tmp_path):
    X, y = digits[0][:24], digits[1][:24]
    settings = {**QUICK, "batch_size": 12, "regularizer": TEXTS[name]}
    whole = RegularizedClassifier(**settings).fit(X, y)
    assert len({epoch.train_loss for epoch in whole.history_}) == 3
    assert [epoch.train_loss for epoch in whole.history_] != free
    with pytest.raises(Stop):
        RegularizedClassifier(**settings, checkpoint=tmp_path / "unfinished", progress=stop).fit(X, y)
    assert same(whole, RegularizedClassifier(**settings, checkpoint=tmp_path / "unfinished").fit(X, y))


# --- kept and found again


def test_clone_pickle_and_grid_search(digits):
    X, y = digits[0][:120], digits[1][:120]
    regularizer = Regularizer.parse("0.01*sn_penalty")
    model = RegularizedClassifier(regularizer=regularizer, **QUICK)
    assert clone(model).get_params()["regularizer"] == regularizer
    model.fit(X, y)
    assert model.regularizer_ == regularizer
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))
    grid = GridSearchCV(clone(model), {"regularizer": [None, "weight_decay", regularizer]}, cv=2).fit(X, y)
    assert grid.best_params_["regularizer"] in (None, "weight_decay", regularizer)


@pytest.mark.parametrize("labels", [int, str])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_save_and_load(digits, tmp_path, labels, dtype):
    X, y = digits[0][:100].astype(dtype), digits[1][:100].astype(labels)
    settings = {**QUICK, "weight_decay": 1e-3, "regularizer": "0.01*sn_penalty + sn(2)", "augmentation": "crop(1)"}
    model = RegularizedClassifier(**settings, validation=0.2).fit(X, y)
    model.save(tmp_path / "model")
    for again in (RegularizedClassifier.load(tmp_path / "model"), load_classifier(tmp_path / "model")):
        np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
        assert again.regularizer_ == model.regularizer_
        assert again.classes_.dtype == model.classes_.dtype
        for name in ("model", "epochs", "weight_decay", "input_shape", "validation", "augmentation"):
            assert again.get_params()[name] == model.get_params()[name]


def test_networks_of_the_users_are_saved_by_their_name(digits, tmp_path, nets):
    X, y = digits[0][:100], digits[1][:100]
    model = RegularizedClassifier(f"{nets}:linear", **QUICK).fit(X, y)
    model.save(tmp_path / "model")
    again = load_classifier(tmp_path / "model")
    np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))
    given = RegularizedClassifier(flat_linear, **QUICK).fit(X, y)
    given.save(tmp_path / "given")
    with pytest.raises(ValueError, match="given as the function .*flat_linear, which a file cannot hold.*model="):
        load_classifier(tmp_path / "given")
    again = load_classifier(tmp_path / "given", model=flat_linear)
    np.testing.assert_array_equal(again.decision_function(X), given.decision_function(X))
    with pytest.raises(ValueError, match="expected a saved RegularizedClassifier, but .*[Ss]ize mismatch|state_dict"):
        RegularizedClassifier.load(tmp_path / "given", model="cnn")


def test_other_files_are_refused(digits, tmp_path):
    (tmp_path / "text").write_text("nonsense")
    with pytest.raises(ValueError, match="text: expected a safetensors file written by hilbertnet"):
        load_classifier(tmp_path / "text")
    with pytest.raises(ValueError, match="none: expected a safetensors file written by hilbertnet"):
        load_classifier(tmp_path / "none")
    X, y = digits
    ckn = CKNClassifier(filters=(8, 8), patches=500, alpha=1e-3, input_shape=(1, 8, 8)).fit(X[:60], y[:60])
    ckn.save(tmp_path / "ckn")
    assert isinstance(load_classifier(tmp_path / "ckn"), CKNClassifier)
    with pytest.raises(ValueError, match="expected a RegularizedClassifier, got a 'CKNClassifier'"):
        RegularizedClassifier.load(tmp_path / "ckn")


def test_lazy_layers_batch_normalization_and_dropout_are_saved_and_predict_in_eval_mode(digits, tmp_path, nets):
    X, y = digits[0][:100], digits[1][:100]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model = RegularizedClassifier(f"{nets}:normalized", "0.01*sn_penalty", **QUICK).fit(X, y)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert same(model, RegularizedClassifier(f"{nets}:normalized", "0.01*sn_penalty", **QUICK).fit(X, y))
    model.module_.train()
    np.testing.assert_array_equal(model.decision_function(X), model.decision_function(X))
    model.save(tmp_path / "model")
    again = load_classifier(tmp_path / "model")
    np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))


# --- one module from signals to logits


@pytest.mark.parametrize("steps", [None, "contrast", "contrast | zca(0.01)", "whiten(3)"])
def test_as_module_of_a_kernel_network_has_its_preprocessing_inside(digits, tmp_path, steps):
    X, y = digits[0].reshape(-1, 1, 8, 8).astype(np.float64), digits[1]
    model = CKNClassifier("3 exp(0.6) gauss2", (6,), patches=500, alpha=1e-3, preprocessing=steps, random_state=0)
    model.fit(X[:100], y[:100])
    module = model.as_module()
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.from_numpy(X[:20])), model.decision_function(X[:20]), atol=1e-9)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    x = torch.from_numpy(X[200:202]) + 0.05 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    if steps != "whiten(3)":  # whose gradient is that of eigenvectors, which needs eigenvalues far apart
        assert torch.autograd.gradcheck(module, x.double().requires_grad_(), fast_mode=True)
    assert steps is None or str(module.preprocessing) == str(Preprocessing.parse(steps))


def test_as_module_is_a_copy(digits):
    X, y = digits[0][:60], digits[1][:60]
    for model in (
        RegularizedClassifier(**QUICK).fit(X, y),
        CKNClassifier(filters=(8, 8), patches=500, alpha=1e-3, input_shape=(1, 8, 8)).fit(X, y),
    ):
        before = model.decision_function(X)
        module = model.as_module()
        assert not module.training
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                tensor.zero_()
        np.testing.assert_array_equal(model.decision_function(X), before)


# --- kernel networks with a regularizer


def test_a_kernel_network_is_trained_with_a_regularizer(digits):
    X, y = digits[0][:300], digits[1][:300]
    settings = {
        "filters": (6, 12), "patches": 1000, "alpha": 1e-4, "input_shape": (1, 8, 8), "random_state": 0,
        "training": "supervised", "epochs": 3, "loss": "logistic",
    }  # fmt: skip
    free = CKNClassifier(**settings, regularizer="1e-9*weight_decay").fit(X, y)
    tight = CKNClassifier(**settings, regularizer="sn(0.2, kappa=0.01)").fit(X, y)
    assert free.score(digits[0][300:], digits[1][300:]) > 0.8
    loosest, tightest = (torch.linalg.svdvals(model.head_.weight)[0] for model in (free, tight))
    assert tightest < 0.3 * loosest
    assert len(tight.history_) == 3
    # the last epoch, of all examples: none is selected before penalties have acted
    assert {epoch.validation_accuracy for epoch in tight.history_} == {None}
    assert not any(parameter.requires_grad for parameter in tight.network_.parameters())
    # the head is the trained one, of the features as they are now
    images = torch.from_numpy(X).reshape(-1, 1, 8, 8)
    held = evaluate(tight.as_module(), (images, torch.from_numpy(y)))
    assert held[1] == pytest.approx(tight.score(X, y))
    with pytest.raises(ValueError, match="regularizer: only for training='supervised', got 'weight_decay'"):
        CKNClassifier(filters=(4, 4), input_shape=(1, 8, 8), regularizer="weight_decay").fit(X, y)


def test_none_is_no_regularizer(digits):
    X, y = digits[0][:100], digits[1][:100]
    settings = {"filters": (4, 8), "patches": 500, "alpha": 1e-3, "input_shape": (1, 8, 8), "random_state": 0}
    settings |= {"training": "supervised", "epochs": 1}
    one = CKNClassifier(**settings).fit(X, y)
    two = CKNClassifier(**settings, regularizer="none").fit(X, y)
    np.testing.assert_array_equal(one.decision_function(X), two.decision_function(X))
