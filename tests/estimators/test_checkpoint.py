"""An interrupted fit goes on from its checkpoint, to the same model."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hilbertnet import CKNClassifier
from hilbertnet.estimators import checkpoint as room

SETTINGS = {"filters": (8, 16), "patches": 500, "input_shape": (1, 8, 8), "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:200] / 16).astype(np.float32), y[:200]


def states(model):
    return [*model.network_.state_dict().values(), model.head_.weight, model.head_.bias]


class Stop(Exception):
    pass


def stop_after(stage, count):
    """A progress callable that raises once `count` steps of a stage of `stage` steps are done."""

    def progress(done, total):
        if (done, total) == (count, stage):
            raise Stop

    return progress


@pytest.mark.parametrize(
    "lambdas_done", [pytest.param(done, marks=[] if done == 1 else pytest.mark.slow) for done in range(1, 8)]
)
def test_a_fit_interrupted_on_the_path_of_lambda_ends_with_the_same_bytes(digits, tmp_path, lambdas_done):
    file = tmp_path / "unfinished.safetensors"
    whole = CKNClassifier(**SETTINGS).fit(*digits)
    with pytest.raises(Stop):
        CKNClassifier(**SETTINGS, checkpoint=file, progress=stop_after(8, lambdas_done)).fit(*digits)
    assert file.is_file()
    resumed = CKNClassifier(**SETTINGS, checkpoint=file).fit(*digits)
    assert not file.exists()
    assert resumed.validation_curve_ == whole.validation_curve_
    assert resumed.alpha_ == whole.alpha_
    for one, two in zip(states(resumed), states(whole), strict=True):
        assert torch.equal(one, two)


def test_what_was_learned_is_not_learned_again(digits, tmp_path, monkeypatch):
    file = tmp_path / "unfinished.safetensors"
    with pytest.raises(Stop):
        CKNClassifier(**SETTINGS, checkpoint=file, progress=stop_after(8, 3)).fit(*digits)
    kept = room.Checkpoint(file, read_identity(file))
    assert len(kept.path.curve) == 3
    monkeypatch.setattr(CKNClassifier, "_learn_filters", lambda *_: pytest.fail("filters are learned again"))
    CKNClassifier(**SETTINGS, checkpoint=file).fit(*digits)


def read_identity(file):
    return room.load_tensors(file, "unfinished CKNClassifier")[1]["identity"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"filters": (8, 12)}, "filters"),
        ({"random_state": 1}, "random_state"),
        ({"preprocessing": "contrast"}, "prepro"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(digits, tmp_path, change, word):
    file = tmp_path / "unfinished.safetensors"
    with pytest.raises(Stop):
        CKNClassifier(**SETTINGS, checkpoint=file, progress=stop_after(8, 1)).fit(*digits)
    with pytest.raises(ValueError, match=f"checkpoint: .*other {word}"):
        CKNClassifier(**{**SETTINGS, **change}, checkpoint=file).fit(*digits)
    X, y = digits
    with pytest.raises(ValueError, match="checkpoint: .*other X"):
        CKNClassifier(**SETTINGS, checkpoint=file).fit(X + np.float32(1e-3), y)
    with pytest.raises(ValueError, match="checkpoint: .*other y"):
        CKNClassifier(**SETTINGS, checkpoint=file).fit(X, y[::-1])


def test_a_broken_checkpoint_is_refused_by_name(digits, tmp_path):
    file = tmp_path / "unfinished.safetensors"
    file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"unfinished\.safetensors: expected a safetensors file"):
        CKNClassifier(**SETTINGS, checkpoint=file).fit(*digits)


@pytest.mark.parametrize("random_state", [None, True, np.random.RandomState(0), torch.Generator()])
def test_a_checkpoint_needs_a_seed(digits, tmp_path, random_state):
    settings = {**SETTINGS, "random_state": random_state}
    with pytest.raises(ValueError, match="random_state: checkpoint needs a whole number"):
        CKNClassifier(**settings, checkpoint=tmp_path / "c").fit(*digits)


@pytest.mark.parametrize("steps", ["contrast", "zca(1e-2)", "whiten(3)", "contrast | zca(0.01)"])
def test_preprocessing_is_fitted_on_training_images_and_saved_with_the_model(digits, tmp_path, steps):
    from hilbertnet.data import Preprocessing

    X, y = digits
    images = X.reshape(-1, 1, 8, 8)
    settings = {**SETTINGS, "input_shape": None, "alpha": 1e-3}
    model = CKNClassifier(**settings, preprocessing=steps).fit(images, y)
    by_hand = Preprocessing.parse(steps).fit(images)
    plain = CKNClassifier(**settings).fit(by_hand(images), y)
    expected = plain.decision_function(by_hand(images[:50]))
    np.testing.assert_array_equal(model.decision_function(images[:50]), expected)
    model.save(tmp_path / "model")
    again = CKNClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(again.decision_function(images[:50]), expected)
    assert str(again.preprocessing_) == str(by_hand)


def test_preprocessing_given_as_an_object_is_left_alone(digits):
    from hilbertnet.data import ZCA, Preprocessing

    X, y = digits
    given = Preprocessing([ZCA(0.01)])
    CKNClassifier(**{**SETTINGS, "alpha": 1e-3}, preprocessing=given).fit(X, y)
    assert given.steps[0].matrix is None
    with pytest.raises(ValueError, match="preprocessing: expected a Preprocessing"):
        CKNClassifier(**SETTINGS, preprocessing=3).fit(X, y)
