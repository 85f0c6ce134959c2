"""What ``hilbertnet norms`` says of a run, against its model, and of modules; refusals."""

import hashlib
import json
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hilbertnet.cli import app
from hilbertnet.complexity.functions import scalar
from hilbertnet.complexity.norms_above import norm_bounds
from hilbertnet.data import partition
from hilbertnet.estimators import CKNClassifier, RegularizedClassifier
from hilbertnet.experiments import FitSettings, fit_run
from hilbertnet.experiments.norms import images_path, run_norms, write_norms
from hilbertnet.experiments.norms_found import ExactNorms, _survival
from hilbertnet.experiments.run_model import Decision, read_run
from hilbertnet.records import load_tensors

ASKED = {"examples": 20, "radii": (0.05, 0.5)}


def run(*arguments):
    return CliRunner().invoke(app, ["norms", *map(str, arguments)])


def decision(model):
    return Decision(model.network_, model.head_)


@pytest.fixture(scope="module")
def model(digits_run):
    return CKNClassifier.load(digits_run / "model.safetensors")


@pytest.fixture(scope="module")
def found(digits_run):
    return run_norms(digits_run, **ASKED)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """A finished run of a plain network."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    fit_run(FitSettings("digits", model="cnn", train=200, epochs=5), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def plain(plain_run):
    return run_norms(plain_run, **ASKED)


# --- kernel networks


def test_norms_are_those_of_the_heads_weights(found, model, digits):
    np.testing.assert_allclose(found.exact.norms, model.head_.weight.norm(dim=1), rtol=1e-6)
    assert found.outputs == tuple(map(str, range(10)))
    x = torch.from_numpy(digits.x[:5])
    np.testing.assert_allclose(decision(model)(x).detach(), model.decision_function(x), rtol=1e-5, atol=1e-5)


def test_lower_bounds_are_below_and_the_lipschitz_constants_hold(found, model, digits):
    assert found.output == (int(found.exact.norms.argmax()),)
    assert 0 < found.below.best.value <= float(found.exact.norms.max())
    assert (found.slopes <= found.exact.norms).all()
    x, y = (torch.from_numpy(digits.x[part]) for part in (slice(0, 200), slice(200, 400)))
    moved = (decision(model)(x) - decision(model)(y)).abs() / (x - y).flatten(1).norm(dim=1, keepdim=True)
    assert (moved.amax(0) <= found.constants).all()


def test_the_norm_of_a_difference_is_that_of_the_difference_of_weights(digits_run, model):
    pair = run_norms(digits_run, output=["3", "8"], **ASKED)
    weight = model.head_.weight.double()
    assert pair.below.exact == pytest.approx(float((weight[3] - weight[8]).norm()), rel=1e-9)
    assert pair.constant == pytest.approx(pair.below.exact * pair.exact.lipschitz, rel=1e-6)
    assert pair.name == "3 - 8"
    assert 0 < pair.below.best.value <= pair.below.exact
    bound = pair.below["gradient"]
    points = torch.stack([bound.x, bound.x + 1e-4 * (bound.x_prime - bound.x)]).double()
    values = scalar(model.as_module().double(), (3, 8))(points)  # in single precision 4% is rounding
    assert float((values[1] - values[0]).abs()) / 1e-4 == pytest.approx(bound.difference, rel=0.02)


def test_margins_are_of_the_runs_training_examples(found, model, digits, digits_run):
    settings = json.loads((digits_run / "record.json").read_text())["settings"]
    parts = partition(digits, held_out=settings["held_out"], seed=settings["seed"], train=settings["train"])
    scores = model.decision_function(parts.train_x)
    right = scores[np.arange(len(scores)), parts.train_y]
    scores[np.arange(len(scores)), parts.train_y] = -np.inf
    np.testing.assert_allclose(found.distribution.margins, right - scores.max(1), rtol=1e-4, atol=1e-4)


def test_margin_bounds_grow_with_the_perturbation(found):
    values = [bound.value for bound in found.bounds]
    assert [bound.epsilon for bound in found.bounds] == [0.0, 0.05, 0.5]
    assert values == sorted(values)
    assert found.bounds[0].norm == pytest.approx(
        math.sqrt(float((found.exact.norms**2).sum() + (found.exact.biases**2).sum()))
    )


@pytest.mark.parametrize("which", ["found", "plain"])
def test_certified_accuracy_is_below_attacked(which, request):
    attacked = request.getfixturevalue(which).attacked
    for certified, survived in zip(attacked.certified, attacked.accuracy, strict=True):
        assert certified.value <= survived.value
    assert attacked.accuracy[1].value < attacked.accuracy[0].value


def test_the_certified_curve_is_the_share_above_each_radius():
    radii = torch.tensor([0.0, 0.0, 0.3, 0.1, 0.3, 0.7, math.inf], dtype=torch.float64)
    kept = _survival(radii)
    assert kept["radii"] == pytest.approx([0.0, 0.1, 0.3, 0.7])
    np.testing.assert_allclose(kept["accuracy"], [5 / 7, 4 / 7, 2 / 7, 1 / 7])


def test_a_thinned_certified_curve_is_never_too_high(generator):
    radii = torch.rand(3000, generator=generator, dtype=torch.float64)
    kept = _survival(radii)
    assert len(kept["radii"]) == 513
    ends = [*kept["radii"][1:], 1.0]
    for start, end, share in zip(kept["radii"], ends, kept["accuracy"], strict=True):
        for radius in np.linspace(start, end, 3, endpoint=False):
            assert share <= float((radii > radius).double().mean()) <= share + 0.01


def test_an_exact_norm_of_outputs_that_are_alike_is_zero():
    products = torch.ones(2, 2, dtype=torch.float64)
    assert ExactNorms(products, torch.zeros(2).double(), 1.0).of((0, 1)) == 0.0


def test_a_kernel_without_lipschitz_constant_is_bounded_by_its_distances(tmp_path):
    settings = FitSettings(
        "digits", architecture="3 arccos0 - | 3 arccos1 gauss2", filters=(8, 8), train=100, patches=500
    )
    fit_run(settings, tmp_path / "run", progress=False)
    steep = run_norms(tmp_path / "run", examples=3, radii=(0.1,))
    assert math.isinf(steep.exact.lipschitz)
    assert torch.isnan(steep.slopes).all()
    assert 0 < steep.below.best.value <= steep.below.exact
    assert [bound.epsilon for bound in steep.bounds] == [0.0]
    assert steep.attacked.certified[0].value == 0
    write_norms(tmp_path / "norms.json", steep, tmp_path / "run", examples=10)
    kept = json.loads((tmp_path / "norms.json").read_text())
    assert kept["lipschitz"] is None
    assert kept["from_below"] == [None] * 10


# --- plain networks


def test_a_plain_network_is_bounded_from_both_sides(plain, plain_run):
    module = RegularizedClassifier.load(plain_run / "model.safetensors").module_
    above = norm_bounds(module, (1, 8, 8))
    assert plain.exact is None
    assert plain.bounds == ()
    np.testing.assert_allclose(plain.constants, above.lipschitz_outputs)
    assert (plain.slopes > 0).all()
    assert (plain.slopes <= plain.constants).all()
    assert plain.output == (int(plain.slopes.argmax()),)
    assert plain.below.best.value <= plain.constant
    assert plain.distribution.norms["Lipschitz constant"] == above.lipschitz.value
    for words in ("no exact norm", "body.0 (conv2d)", "for any kernel map that is non-expansive"):
        assert words in str(plain)


def test_the_gradients_of_a_plain_network_are_its_own(plain, plain_run):
    seen = read_run(plain_run, examples=20)
    x = seen.test.clone().requires_grad_()
    for k in (0, 7):
        (gradient,) = torch.autograd.grad(seen.net(x)[:, k].sum(), x)
        assert float(plain.slopes[k]) == pytest.approx(float(gradient.flatten(1).norm(dim=1).max()), rel=1e-5)


def test_a_network_that_cannot_be_listed_has_a_reason(plain_run, monkeypatch):
    def refuse(*_):
        raise ValueError("model: torch.export cannot list its operations (data-dependent)")

    monkeypatch.setattr("hilbertnet.experiments.norms.norm_bounds", refuse)
    unlisted = run_norms(plain_run, examples=5, radii=(0.1,))
    assert "nothing, as model: torch.export cannot list" in str(unlisted)
    assert unlisted.attacked.certified is None
    assert unlisted.to_dict()["lipschitz_outputs"] == [None] * 10


@pytest.mark.parametrize("model", ["ckn", "cnn"])
def test_two_classes_have_one_decision_function(model, digits, tmp_path):
    rows = np.flatnonzero((digits.y == 3) | (digits.y == 8))[:80]
    np.savez(tmp_path / "two.npz", x=digits.x[rows], y=np.where(digits.y[rows] == 3, "three", "eight"))
    more = {"filters": (8, 8), "patches": 300} if model == "ckn" else {"epochs": 3}
    fit_run(FitSettings(str(tmp_path / "two.npz"), model=model, **more), tmp_path / "run", progress=False)
    two = run_norms(tmp_path / "run", examples=4, radii=(0.1,))
    assert two.outputs == ("three against eight",)
    assert two.output == (0,)
    assert 0 < float(two.slopes[0]) <= two.constant
    assert two.below.best.value <= (two.constant if two.below.exact is None else two.below.exact)
    assert two.attacked.certified[0].value <= two.attacked.accuracy[0].value
    with pytest.raises(ValueError, match="output: expected one of the model's, got 'three'"):
        run_norms(tmp_path / "run", examples=4, radii=(0.1,), output=["three"])


# --- files


def test_the_command_prints_all_and_writes_numbers(digits_run, found, tmp_path):
    out = tmp_path / "numbers.json"
    done = run(digits_run, "--examples", 20, "--radii", "0.05,0.5", "--out", out)
    assert done.exit_code == 0, done.output
    assert str(found) in done.output
    numbers = json.loads(out.read_text())
    assert numbers["norms"] == pytest.approx(found.exact.norms.tolist())
    assert numbers["radii"] == [0.05, 0.5]
    assert numbers["margin_bounds"][0]["value"] == pytest.approx(found.bounds[0].value)
    assert numbers["settings"] == {"examples": 20, "radii": [0.05, 0.5], "output": [], "seed": 0}
    assert numbers["model_sha256"] == hashlib.sha256((digits_run / "model.safetensors").read_bytes()).hexdigest()
    assert numbers["versions"]["torch"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["numbers.json", "numbers_images.safetensors"]
    assert not (digits_run / "norms.json").exists()


def test_numbers_go_to_the_run_by_default(plain_run):
    done = run(plain_run, "--examples", 5, "--radii", "0.1", "--output", "3", "--output", "8")
    assert done.exit_code == 0, done.output
    numbers = json.loads((plain_run / "norms.json").read_text())
    assert numbers["below"]["output"] == "3 - 8"
    assert numbers["norms"] is None
    assert next(layer["place"] for layer in numbers["above"]["layers"] if layer["operator_norm"]) == "body.0"


def test_the_pairs_that_attain_the_bounds_are_kept(digits_run, found, model, tmp_path):
    write_norms(tmp_path / "norms.json", found, digits_run, **ASKED)
    tensors, header = load_tensors(images_path(tmp_path / "norms.json"), "Maximizers")
    assert sorted(pair["bound"] for pair in header["pairs"]) == sorted(bound.name for bound in found.below.bounds)
    f = scalar(decision(model), found.output[0])
    for number, pair in enumerate(header["pairs"]):
        bound = found.below[pair["bound"]]
        torch.testing.assert_close(tensors["x"][number], bound.x)
        if bound.name != "gradient":
            values = f(torch.stack([tensors["x"][number], tensors["x"][number] + tensors["moved"][number]]))
            assert float((values[1] - values[0]).abs()) == pytest.approx(bound.difference, rel=1e-3)


def test_kept_pictures_are_of_bounded_size(found):
    large = torch.rand(3, 600, 300)
    below = type(found.below)(tuple(_with_pair(bound, large) for bound in found.below.bounds))
    tensors, header = type(found)(**{**vars(found), "below": below}).pictures()
    assert tensors["x"].shape[1:] == (3, 256, 256)
    assert sum(one.numel() * one.element_size() for one in tensors.values()) <= 2**22
    assert header["pairs"][0]["size"] == [3, 600, 300]
    mean = torch.nn.functional.adaptive_avg_pool2d(large[None], 256)[0]
    torch.testing.assert_close(tensors["x"][0], mean)


def _with_pair(bound, image):
    return type(bound)(**{**vars(bound), "x": image, "x_prime": image + 0.5})


# --- modules, refusals


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
        (["hilbertnet.networks:mnist_net", "--shape", "1x28x28", "--out", "a.json"], "out: only for a run folder"),
        (["hilbertnet.networks:mnist_net", "--shape", "1x28x28", "--output", "3"], "output: only for a run folder"),
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
        (["--output", "12"], "output: expected one of the model's, got '12'"),
        (["--output", "3", "--output", "3"], "output: expected one output or two different ones"),
    ],
)
def test_bad_options_of_a_run_are_refused(digits_run, arguments, message):
    done = run(digits_run, *arguments)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
    assert not (digits_run / "norms.json").exists()
