"""What ``hilbertnet norms`` says of a run, against its model, and of modules; refusals."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hilbertnet.cli import app
from hilbertnet.data import partition
from hilbertnet.estimators import CKNClassifier
from hilbertnet.experiments.norms import Decision, run_norms


def run(*arguments):
    return CliRunner().invoke(app, ["norms", *map(str, arguments)])


@pytest.fixture(scope="module")
def model(digits_run):
    return CKNClassifier.load(digits_run / "model.safetensors")


@pytest.fixture(scope="module")
def found(digits_run):
    return run_norms(digits_run, examples=20, radii=(0.05, 0.5))


def test_norms_are_those_of_the_heads_weights(found, model, digits):
    np.testing.assert_allclose(found.norms, model.head_.weight.norm(dim=1), rtol=1e-6)
    assert found.classes == tuple(map(str, range(10)))
    x = torch.from_numpy(digits.x[:5])
    np.testing.assert_allclose(Decision(model)(x).detach(), model.decision_function(x), rtol=1e-5, atol=1e-5)


def test_lower_bounds_are_below_and_the_lipschitz_constant_holds(found, model, digits):
    assert found.output == int(found.norms.argmax())
    assert 0 < found.below.best.value <= float(found.norms.max())
    x, y = (torch.from_numpy(digits.x[part]) for part in (slice(0, 200), slice(200, 400)))
    moved = (Decision(model)(x) - Decision(model)(y)).abs() / (x - y).flatten(1).norm(dim=1, keepdim=True)
    assert (moved.amax(0) <= found.norms * found.lipschitz).all()


def test_margins_are_of_the_runs_training_examples(found, model, digits, digits_run):
    settings = json.loads((digits_run / "record.json").read_text())["settings"]
    parts = partition(digits, held_out=settings["held_out"], seed=settings["seed"], train=settings["train"])
    scores = model.decision_function(parts.train_x)
    right = scores[np.arange(len(scores)), parts.train_y]
    scores[np.arange(len(scores)), parts.train_y] = -np.inf
    np.testing.assert_allclose(found.distribution.margins, right - scores.max(1), rtol=1e-4, atol=1e-4)


def test_certified_accuracy_is_below_attacked(found):
    for certified, attacked in zip(found.attacked.certified, found.attacked.accuracy, strict=True):
        assert certified.value <= attacked.value
    assert found.attacked.accuracy[1].value < found.attacked.accuracy[0].value


def test_the_command_prints_all_and_writes_numbers(digits_run, found, tmp_path):
    done = run(digits_run, "--examples", 20, "--radii", "0.05,0.5", "--out", tmp_path / "norms.json")
    assert done.exit_code == 0, done.output
    assert str(found) in done.output
    numbers = json.loads((tmp_path / "norms.json").read_text())
    assert numbers["norms"] == pytest.approx(found.norms.tolist())
    assert numbers["radii"] == [0.05, 0.5]
    assert numbers["margin_bound"]["value"] == pytest.approx(found.bound.value)
    assert numbers["versions"]["torch"]


def test_a_module_is_bounded_from_above(monkeypatch):
    module = ModuleType("users_net")
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    module.net = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
    original = module.net

    def fixed():
        net = original()
        net[1].weight.data = weight
        return net

    module.fixed = fixed
    module.number = lambda: 3
    monkeypatch.setitem(sys.modules, "users_net", module)
    done = run("users_net:fixed", "--shape", "1x2")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("Lipschitz constant  ")]
    assert float(line.split()[-1]) == pytest.approx(4)
    for name, message in (("users_net:number", "returns a torch module, got int"), ("users_net:none", "cannot be")):
        refused = run(name, "--shape", "1x2")
        assert message in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent is no finished run"),
        (["hilbertnet.networks:mnist_net"], "shape: expected CHANNELSxHEIGHTxWIDTH"),
        (["hilbertnet.networks:mnist_net", "--shape", "1x28x"], "shape: expected"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    done = run(*arguments)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--radii", "1,a"], "radii: expected numbers with commas"),
        (["--radii=-1"], "radi"),
        (["--examples", "0"], "examples: "),
        (["--shape", "1x8x8"], "shape: only for package.module:function"),
    ],
)
def test_bad_options_of_a_run_are_refused(digits_run, arguments, message):
    done = run(digits_run, *arguments)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
