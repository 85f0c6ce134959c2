"""The network's estimators: what users do with them beyond scikit-learn's own checks."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from hilbertnet import Architecture
from hilbertnet.estimators import CKNClassifier, CKNFeatures
from hilbertnet.networks import CKN

SHAPE = (1, 8, 8)
ARCHITECTURE = "3 exp(0.6) - | 3 exp(0.6) gauss2"
LOSSES = ["squared_hinge", "logistic", "ridge"]


@pytest.fixture(scope="module")
def digits():
    """Flattened training and test rows of digits in [0, 1], and their labels."""
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))[:800]  # the file goes from writer to writer
    x, y = (x[order] / 16).astype(np.float32), y[order]
    return x[:500], y[:500], x[500:], y[500:]


def classifier(**options):
    return CKNClassifier(**{"filters": (12, 24), "input_shape": SHAPE, "alpha": 1e-3, "random_state": 0} | options)


def as_images(rows):
    return rows.reshape(-1, *SHAPE)


# ----------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("loss", LOSSES)
def test_digits_are_learnt(digits, loss):
    x, y, x_test, y_test = digits
    model = classifier(loss=loss, alpha=None, alphas=(1e-2, 1e-3, 1e-4), validation=3, filters=(16, 32)).fit(x, y)
    assert model.score(x_test, y_test) > 0.94


def test_features_are_better_than_pixels(digits):
    """From 80 examples, with the same linear classifier."""
    x, y, x_test, y_test = digits
    features = CKNFeatures(ARCHITECTURE, (32, 64), input_shape=SHAPE, random_state=0).fit(x)
    scores = []
    for function in (lambda rows: rows, features.transform):
        train, test = function(x[:80]), function(x_test)
        scale = np.sqrt((train**2).sum(1).mean())
        scores.append(LogisticRegression(C=100, max_iter=5000).fit(train / scale, y[:80]).score(test / scale, y_test))
    assert scores[1] > scores[0]


def test_two_classes_and_labels_of_words(digits):
    x, y, x_test, y_test = digits
    words = np.where(y % 2 == 1, "odd", "even")
    for loss in LOSSES:
        model = classifier(loss=loss).fit(x, words)
        assert list(model.classes_) == ["even", "odd"]
        assert model.decision_function(x_test).shape == (300,)
        found = model.predict(x_test)
        assert found.dtype == words.dtype
        assert np.mean(found == np.where(y_test % 2 == 1, "odd", "even")) > 0.9
        np.testing.assert_array_equal(model.decision_function(x_test) > 0, found == "odd")


def test_labels_of_any_whole_numbers(digits):
    x, y, x_test, _ = digits
    plain = classifier().fit(x, y).predict(x_test)
    np.testing.assert_array_equal(classifier().fit(x, 10 * y - 7).predict(x_test), 10 * plain - 7)


@pytest.mark.parametrize("classes", [2, 10])
def test_probabilities_sum_to_one_and_agree_with_predictions(digits, classes):
    x, y, x_test, _ = digits
    model = classifier(loss="logistic").fit(x, y % classes)
    found = model.predict_proba(x_test)
    assert found.shape == (300, classes)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert (found >= 0).all()
    np.testing.assert_array_equal(model.classes_[found.argmax(1)], model.predict(x_test))


def test_probabilities_of_two_classes_are_the_logistic_function_of_the_score(digits):
    x, y, x_test, _ = digits
    model = classifier(loss="logistic").fit(x, y % 2)
    expected = 1 / (1 + np.exp(-model.decision_function(x_test).astype(float)))
    np.testing.assert_allclose(model.predict_proba(x_test)[:, 1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_hinge", "ridge"])
def test_only_the_logistic_loss_has_probabilities(digits, loss):
    model = classifier(loss=loss).fit(*digits[:2])
    assert not hasattr(model, "predict_proba")


def test_lambda_is_chosen_on_training_data_alone(digits):
    """The best point of the curve, which is the same whatever else is predicted."""
    x, y, x_test, _ = digits
    model = classifier(alpha=None, alphas=(1.0, 1e-1, 1e-2, 1e-3)).fit(x, y)
    best = max(model.validation_curve_, key=lambda point: (point.accuracy, -point.loss))
    assert model.alpha_ == best.lam == model.head_.lam
    again = classifier(alpha=None, alphas=(1.0, 1e-1, 1e-2, 1e-3)).fit(x.copy(), y)
    again.predict(x_test)
    assert again.validation_curve_ == model.validation_curve_


def test_validation_accuracy_is_close_to_test_accuracy(digits):
    x, y, x_test, y_test = digits
    model = classifier(alpha=None).fit(x, y)
    (held_out,) = [point.accuracy for point in model.validation_curve_ if point.lam == model.alpha_]
    assert abs(held_out - model.score(x_test, y_test)) < 0.05


def test_labels_without_meaning_are_not_validated_above_chance(digits):
    """Held-out examples that leaked into the fit would be predicted."""
    x, _, _, _ = digits
    y = np.random.RandomState(0).randint(0, 2, len(x))
    model = classifier(alpha=None).fit(x, y)
    assert max(point.accuracy for point in model.validation_curve_) < 0.62


def test_a_given_alpha_is_used_as_it_is(digits):
    model = classifier(alpha=0.02).fit(*digits[:2])
    assert model.alpha_ == model.head_.lam == 0.02
    assert model.validation_curve_ == []


# ------------------------------------------------------------------------------------------------------------- inputs


def test_rows_images_tensors_and_lists_are_the_same_thing(digits):
    x, y, x_test, _ = digits
    rows = classifier().fit(x, y).decision_function(x_test)
    images = classifier(input_shape=None).fit(as_images(x), y).decision_function(as_images(x_test))
    np.testing.assert_array_equal(images, rows)
    np.testing.assert_array_equal(classifier().fit(x, y).decision_function(as_images(x_test)), rows)
    np.testing.assert_array_equal(classifier().fit(as_images(x), y.tolist()).decision_function(x_test), rows)


def test_tensors_in_tensors_out(digits):
    x, y, x_test, _ = digits
    model = classifier(loss="logistic").fit(torch.from_numpy(as_images(x)), torch.from_numpy(y))
    tensor = torch.from_numpy(as_images(x_test))
    for method in ("predict", "decision_function", "predict_proba"):
        found, expected = getattr(model, method)(tensor), getattr(model, method)(x_test)
        assert isinstance(found, torch.Tensor)
        assert isinstance(expected, np.ndarray)
        np.testing.assert_array_equal(found.numpy(), expected)
    words = classifier().fit(tensor, np.array(["a", "b"])[np.arange(300) % 2])
    assert isinstance(words.predict(tensor), np.ndarray)  # no tensor holds words
    features = CKNFeatures(ARCHITECTURE, (4, 6), random_state=0).fit(tensor)
    assert isinstance(features.transform(tensor), torch.Tensor)
    np.testing.assert_array_equal(features.transform(tensor).numpy(), features.transform(as_images(x_test)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_signals_give_the_dtype(digits, dtype):
    x = as_images(digits[0]).astype(dtype)
    features = CKNFeatures(ARCHITECTURE, (4, 6), random_state=0).fit(x)
    assert features.transform(x).dtype == dtype
    assert features.transform(x.astype(np.float32)).dtype == dtype


def test_whole_numbers_are_computed_in_float32():
    x = np.random.RandomState(0).randint(0, 17, (40, *SHAPE))
    features = CKNFeatures(ARCHITECTURE, (4, 6), random_state=0)
    found = features.fit_transform(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, clone(features).fit_transform(x.astype(np.float32)))


def test_signals_of_one_axis():
    state = np.random.RandomState(0)
    y = np.arange(120) % 2
    time = np.linspace(0, 1, 40)
    x = np.sin(2 * np.pi * (3 + 4 * y[:, None]) * time + 6 * state.rand(120, 1))[:, None] + 0.3 * state.randn(
        120, 1, 40
    )
    model = CKNClassifier("5 exp(0.6) gauss2 | 3 exp(0.6) gauss4", (16, 32), alpha=1e-3, random_state=0)
    assert model.fit(x[:80], y[:80]).score(x[80:], y[80:]) > 0.9
    assert model.network_.axes == 1
    flat = clone(model).set_params(input_shape=(1, 40)).fit(x[:80, 0], y[:80])
    np.testing.assert_array_equal(flat.predict(x[80:, 0]), model.predict(x[80:]))


def test_features_are_those_of_the_network(digits):
    x = as_images(digits[0])
    features = CKNFeatures(ARCHITECTURE, (4, 6), random_state=0).fit(x)
    expected = features.network_(torch.from_numpy(x)).flatten(1)
    np.testing.assert_allclose(features.transform(x), expected, rtol=1e-5, atol=1e-6)
    assert len(features.get_feature_names_out()) == expected.shape[1]
    assert features.network_.arch == Architecture.parse(ARCHITECTURE)


@pytest.mark.parametrize("architecture", [ARCHITECTURE, Architecture.parse(ARCHITECTURE)])
def test_architectures_are_texts_or_objects(digits, architecture):
    features = CKNFeatures(architecture, (4, 6), random_state=0).fit(as_images(digits[0]))
    assert features.network_.arch == Architecture.parse(ARCHITECTURE)


def test_a_preset_brings_its_filters():
    x = np.random.RandomState(0).rand(30, 1, 16, 16)
    features = CKNFeatures("ckn-64-256", random_state=0, patches=1000, iterations=2).fit(x)
    assert features.network_.filters == (64, 256)


def test_fewer_filters_than_asked_for_are_announced():
    x = np.ones((5, 1, 8, 8))
    with pytest.warns(UserWarning, match="^filters: .*20.* asked for"):
        CKNFeatures("3 exp(0.6) -", (20,), random_state=0).fit(x)


# ------------------------------------------------------------------------------------------------------ scikit-learn's


@pytest.mark.slow
def test_in_a_pipeline_and_a_grid_search(digits):
    x, y, x_test, y_test = digits
    model = make_pipeline(
        CKNFeatures(ARCHITECTURE, (8, 16), input_shape=SHAPE, random_state=0), LogisticRegression(max_iter=5000, C=1e5)
    )
    assert model.fit(x, y).score(x_test, y_test) > 0.92
    grid = {"architecture": ["3 exp(0.6) gauss2", ARCHITECTURE], "alpha": [1e-3, 10.0]}
    search = GridSearchCV(classifier(filters=None, patches=1000), grid, cv=2).fit(x, y)
    assert search.best_params_["alpha"] == 1e-3
    assert search.score(x_test, y_test) > 0.9


@pytest.mark.slow
def test_cross_validation_in_processes(digits):
    x, y, _, _ = digits
    scores = cross_val_score(classifier(filters=(4, 8)), x[:200], y[:200], cv=2, n_jobs=2)
    assert scores.min() > 0.5


def test_clones_have_the_parameters_and_nothing_fitted(digits):
    model = classifier(architecture=Architecture.parse(ARCHITECTURE)).fit(*digits[:2])
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "network_")


def test_parameters_are_set_and_read_back(digits):
    model = classifier().set_params(filters=(5, 7), loss="ridge", architecture="3 arccos1 - | 3 exp(0.6) gauss2")
    assert model.get_params()["filters"] == (5, 7)
    model.fit(*digits[:2])
    assert model.network_.filters == (5, 7)
    assert model.head_.loss == "ridge"


def test_fitting_again_forgets(digits):
    x, y, x_test, _ = digits
    model = classifier().fit(x[:100], y[:100] % 2).fit(x, y)
    np.testing.assert_array_equal(model.decision_function(x_test), classifier().fit(x, y).decision_function(x_test))


@pytest.mark.parametrize("seed", [0, np.random.RandomState, torch.Generator])
def test_same_seed_same_model(digits, seed):
    x, y, x_test, _ = digits

    def state():
        if seed is torch.Generator:
            return torch.Generator().manual_seed(3)
        return seed if seed == 0 else seed(3)

    first, second = (classifier(random_state=state()).fit(x, y).decision_function(x_test) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = classifier(random_state=1).fit(x, y).decision_function(x_test)
    assert not np.array_equal(first, other)


def test_global_random_states_are_neither_read_nor_changed(digits):
    x, y, x_test, _ = digits
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(classifier().fit(x, y).decision_function(x_test))
        assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(*found)


def test_inputs_are_left_as_they_were(digits):
    x = digits[0].copy()
    classifier().fit(x, digits[1]).predict(x)
    np.testing.assert_array_equal(x, digits[0])


# -------------------------------------------------------------------------------------------------------------- files


def pickled(model, folder):
    (folder / "model.pickle").write_bytes(pickle.dumps(model))
    return pickle.loads((folder / "model.pickle").read_bytes())


def dumped(model, folder):
    joblib.dump(model, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


def saved(model, folder):
    model.save(folder / "model.safetensors")
    return CKNClassifier.load(folder / "model.safetensors")


@pytest.mark.parametrize("through", [pickled, dumped, saved])
@pytest.mark.parametrize("words", [False, True])
def test_stored_models_predict_the_same_bit_for_bit(digits, tmp_path, through, words):
    x, y, x_test, _ = digits
    labels = np.array([f"digit {label}" for label in y]) if words else y
    model = classifier(loss="logistic", alpha=None, alphas=(1e-2, 1e-3)).fit(x, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = through(model, tmp_path)
    np.testing.assert_array_equal(other.decision_function(x_test), model.decision_function(x_test))
    np.testing.assert_array_equal(other.predict_proba(x_test), model.predict_proba(x_test))
    np.testing.assert_array_equal(other.predict(as_images(x_test)), model.predict(x_test))
    assert other.predict(x_test).dtype == model.predict(x_test).dtype
    assert other.alpha_ == model.alpha_
    assert other.validation_curve_ == model.validation_curve_
    assert other.n_features_in_ == 64


def test_saved_models_refuse_other_shapes_and_may_be_fitted_again(digits, tmp_path):
    x, y, x_test, _ = digits
    model = saved(classifier().fit(x, y), tmp_path)
    with pytest.raises(ValueError, match="^X: "):
        model.predict(np.zeros((2, 3, 8, 8)))
    assert clone(model).fit(x, y).score(x_test, model.predict(x_test)) > 0.9


def test_other_files_are_not_loaded(tmp_path):
    CKN("3 exp(0.6) -", 1, (4,), generator=0).save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="expected a CKNClassifier, got a 'CKN'"):
        CKNClassifier.load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"absent.safetensors: expected a safetensors file"):
        CKNClassifier.load(tmp_path / "absent.safetensors")


def test_progress_is_told(digits):
    steps = []
    CKNFeatures(ARCHITECTURE, (4, 6), random_state=0, progress=lambda *step: steps.append(step)).fit(
        as_images(digits[0])
    )
    assert steps == [(1, 2), (2, 2)]
