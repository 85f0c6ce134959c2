"""One clear error for each thing that can be wrong with a network trained with a regularizer."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from hilbertnet.estimators import CKNClassifier, RegularizedClassifier
from hilbertnet.estimators.models import check_outputs, motif_cnn
from hilbertnet.robustness import ProbabilityWarning
from hilbertnet.text import TextFormError
from hilbertnet.training import DivergedError

STATE = np.random.RandomState(0)
X = STATE.rand(12, 1, 8, 8).astype(np.float32)
Y = np.arange(12) % 3


def classifier(model="cnn", **options):
    return RegularizedClassifier(model, **{"epochs": 1, "random_state": 0, **options})


def with_outputs(*shape):
    def build(signal, classes):
        parts = [nn.Flatten(), nn.Linear(int(np.prod(signal)), int(np.prod(shape)))]
        return nn.Sequential(*parts, nn.Unflatten(1, shape))

    return build


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"epochs": 2.5}, "epochs: expected a whole number"),
        ({"batch_size": True}, "batch_size: expected a whole number"),
        ({"learning_rate": 0}, "learning_rate: expected a positive number, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a positive number"),
        ({"learning_rate": "fast"}, "learning_rate: expected a positive number"),
        ({"momentum": 1.0}, r"momentum: expected a number in \[0, 1\)"),
        ({"momentum": -0.1}, "momentum: expected a number of at least 0"),
        ({"weight_decay": -1e-4}, "weight_decay: expected a number of at least 0"),
        ({"weight_decay": float("inf")}, "weight_decay: expected a number of at least 0"),
        ({"validation": 1.5}, r"validation: expected a share in \(0, 1\)"),
        ({"validation": 3}, r"validation: expected a share in \(0, 1\)"),
        ({"validation": True}, r"validation: expected a share in \(0, 1\)"),
        ({"validation": 0.01}, "validation: expected a share that leaves examples on both sides"),
        ({"precision": "int8"}, "precision: expected one of float32, bfloat16, float16"),
        ({"regularizer": 3}, "regularizer: expected a text"),
        ({"input_shape": (1, 8, 9)}, r"X: expected shape \(n, 1, 8, 9\)"),
    ],
)
def test_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options).fit(X, Y)


@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        ("delte(1.0)", "did you mean 'delta'", 0),
        ("delta(1.0) + snn(1.5)", "did you mean 'sn'", 13),
        ("0.5*sn(1.5)", "a constraint has no weight", 0),
        ("delta(1.0) +", "got the end of the text", 12),
    ],
)
def test_typos_in_the_regularizer_are_pointed_at(text, message, caret):
    with pytest.raises(TextFormError, match=message) as caught:
        classifier(regularizer=text).fit(X, Y)
    first, shown, pointer = str(caught.value).split("\n")
    assert first.startswith("regularizer: ")
    assert pointer.index("^") - shown.index(text) == caret


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("cnm", "model: expected one of cnn, motif, vgg, resnet, .*did you mean 'cnn'"),
        (3, "model: expected one of cnn, motif, vgg, resnet"),
        (None, "model: expected one of cnn, motif, vgg, resnet"),
        (
            "no_such_package.nets:build",
            "model: 'no_such_package.nets:build' cannot be imported: .*current folder, installed or on PYTHONPATH",
        ),
        ("torch.nn:Linea", "model: 'torch.nn:Linea' cannot be imported"),
        ("torch:pi", "model: expected 'torch:pi' to be a function, got float"),
        ("vgg", "model: vgg takes square images of a multiple of 32 pixels, got 1 x 8 x 8"),
        ("resnet", "model: resnet takes square images"),
        (lambda shape, classes: 3, "model: expected a function that returns a torch module, got int"),
        (lambda shape, classes: nn.Flatten(), "model: expected a module with parameters to train"),
        (with_outputs(1), r"model: expected 3 logits for each signal, as y has 3 classes; .* got \(12, 1\)"),
        (with_outputs(4), r"model: expected 3 logits for each signal, as y has 3 classes; .* got \(12, 4\)"),
        (with_outputs(3, 2), r"model: expected 3 logits .* got \(12, 3, 2\)"),
    ],
)
def test_models(model, message):
    with pytest.raises(ValueError, match=message):
        classifier(model).fit(X, Y)


@pytest.mark.parametrize(("outputs", "last"), [(3, nn.Softmax(1)), (2, nn.Softmax(1)), (1, nn.Sigmoid())])
def test_probabilities_are_warned_of_once(outputs, last):
    def build(signal, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs), last)

    with pytest.warns(ProbabilityWarning, match="model: its outputs look like probabilities") as given:
        classifier(build).fit(X, Y if outputs == 3 else Y % 2)
    assert len(given) == 1
    classifier(with_outputs(outputs)).fit(X, Y if outputs == 3 else Y % 2)  # warnings are errors


def test_our_own_networks_give_logits_wherever_these_are():
    signals, net = torch.rand(12, 4, 20), motif_cnn((4, 20), 2)
    with torch.no_grad():
        net.head.weight.mul_(1e-3)
        net.head.bias.fill_(0.5)
        check_outputs(net, signals, 2, 0, trained=True)  # warnings are errors
    with pytest.warns(ProbabilityWarning):
        check_outputs(nn.Sequential(net), signals, 2, 0, trained=True)


def test_preprocessed_images_are_in_no_box():
    settings = {"filters": (2,), "training": "supervised", "epochs": 1, "random_state": 0, "patches": 100}
    settings |= {"preprocessing": "contrast", "alpha": 1e-2}
    model = CKNClassifier("3 exp(0.6) gauss2", regularizer="pgd_linf(0.1) + sn(2)", **settings)
    with pytest.raises(ValueError, match=r"^regularizer: pgd_linf keeps images in \[0, 1\].*; write '.*',") as found:
        model.fit(X, Y)
    text = re.search("'(.*)'", str(found.value))[1]
    assert text == "pgd_linf(radius=0.1, clip=none)"
    assert model.set_params(regularizer=text).fit(X, Y).history_


def test_three_logits_for_two_classes():
    with pytest.raises(ValueError, match="model: expected 2 logits, or one, for each signal, as y has 2 classes"):
        classifier(with_outputs(3)).fit(X, Y % 2)


@pytest.mark.parametrize("labels", [np.zeros(12, int), np.full(12, "cat")])
def test_one_class_only(labels):
    with pytest.raises(ValueError, match="^y: expected at least two classes, got one class only"):
        classifier().fit(X, labels)


@pytest.mark.parametrize("count", [11, 13])
def test_labels_of_another_length(count):
    with pytest.raises(ValueError, match=f"^y: expected 12 labels, as many as signals in X, got {count}"):
        classifier().fit(X, np.arange(count) % 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers(value):
    bad = X.copy()
    bad[3, 0, 2, 2] = value
    with pytest.raises(ValueError, match="X.*(NaN|inf)"):
        classifier().fit(bad, Y)
    with pytest.raises(ValueError, match="X: expected finite numbers"):
        classifier().fit(torch.tensor(bad), Y)


@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (3, 1, 9, 8), (3, 1, 8)])
def test_other_signals_than_in_fit(shape):
    with pytest.raises(ValueError, match=r"^X: expected shape \(n, 1, 8, 8\) as in fit, got \(3, "):
        classifier().fit(X, Y).predict(np.zeros(shape))


def test_a_rate_that_is_too_high_says_so():
    with pytest.raises(DivergedError, match=r"epoch \d+, batch \d+ .*lower the learning rate"):
        classifier(epochs=20, learning_rate=1e8, regularizer="sn_penalty").fit(X, Y)


def test_augmentation_of_signals_that_are_no_images():
    with pytest.raises(ValueError, match="x: expected images"):
        classifier(augmentation="crop(1)").fit(X[:, :, 0], Y)


def test_a_model_that_is_not_fitted(tmp_path):
    from sklearn.exceptions import NotFittedError

    for use in (lambda m: m.predict(X), lambda m: m.as_module(), lambda m: m.save(tmp_path / "model")):
        with pytest.raises(NotFittedError):
            use(classifier())


def test_mixed_precision_takes_float64_signals_as_float32():
    model = classifier(precision="bfloat16", epochs=2).fit(X.astype(np.float64), Y)
    assert next(model.module_.parameters()).dtype == torch.float32
