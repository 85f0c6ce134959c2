"""What ``hilbertnet attack`` says of runs and modules, against their models and closed forms; going on; refusals."""

import csv
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from hilbertnet.estimators import load_classifier
from hilbertnet.experiments import FitSettings, fit_run
from hilbertnet.experiments.attack import AttackSettings, attack, panels_of
from hilbertnet.experiments.attack_target import certify, read_target
from hilbertnet.records import load_tensors
from hilbertnet.robustness.search import Search

FEW = ("--examples", 8, "--radii", "0.35,0.6", "--attacks", "fmn,fgm")


@pytest.fixture(scope="module")
def linear_data(tmp_path_factory):
    """Points of two classes in a file, and weights."""
    rng = np.random.RandomState(0)
    x = rng.rand(40, 1, 2, 3).astype(np.float32)
    weight = rng.randn(6).astype(np.float32)
    y = (x.reshape(40, 6) @ weight + 0.3 * rng.randn(40) > weight.sum() / 2).astype(int)
    path = tmp_path_factory.mktemp("linear") / "points.npz"
    np.savez(path, x=x, y=y)
    return path, torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(weight)


@pytest.fixture
def users_net(monkeypatch, linear_data):
    """A module with functions that return torch modules."""
    _, _, _, weight = linear_data
    module = ModuleType("users_net")

    def linear(outputs):
        net = nn.Sequential(nn.Flatten(), nn.Linear(6, outputs))
        with torch.no_grad():
            net[1].weight.zero_()
            net[1].bias.zero_()
            net[1].weight[-1] = weight
            net[1].bias[-1] = -weight.sum() / 2
        return net

    module.one, module.two, module.number = lambda: linear(1), lambda: linear(2), lambda: 3
    module.wide = lambda: nn.Linear(7, 2)
    module.split = lambda: nn.Sequential(linear(2), Odd())
    monkeypatch.setitem(sys.modules, "users_net", module)
    return module


class Odd(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x[:, None])[1].sum(1, keepdim=True) * 0 + x


# --- runs


def test_a_run_is_attacked_on_what_it_held_out(hilbertnet, digits_run, digits, tmp_path):
    code, out, err = hilbertnet("attack", digits_run, *FEW, "--out", tmp_path)
    assert code == 0, err
    found = json.loads((tmp_path / "attack.json").read_text())
    (threat,) = found["threats"]
    assert threat["radii"] == [0.35, 0.6]
    assert threat["certified_by"] == "RKHS norm"
    assert "certified by RKHS norm" in out
    values = [threat["clean"], *threat["attacked"]]
    assert [f"{100 * one['value']:.2f}" in out for one in values] == [True] * 3
    assert values[0]["value"] > values[1]["value"] > values[2]["value"]
    for certified, attacked in zip(threat["certified"], threat["attacked"], strict=True):
        assert certified["value"] <= attacked["value"]
    lost = round(8 * (values[0]["value"] - values[2]["value"]))
    assert sum(counts[-1] for counts in threat["broken"].values()) == lost
    assert found["versions"]["torch"]
    assert "<svg" in (tmp_path / "attack.svg").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "attack.json",
        "attack.svg",
        "attack_images.safetensors",
    ]

    tensors, header = load_tensors(tmp_path / "attack_images.safetensors", "AttackImages")
    with (digits_run / "predictions.csv").open() as file:
        predictions = {int(row["example"]): row for row in csv.DictReader(file)}
    model = load_classifier(digits_run / "model.safetensors")
    assert 0 < len(header["images"]) == found["images"] <= 16
    for i, words in enumerate(header["images"]):
        row = predictions[words["example"]]
        assert row["label"] == row["prediction"] == words["label"] == words["prediction"]
        np.testing.assert_array_equal(tensors["clean"][i], digits.x[words["example"]])
        assert (
            str(model.predict(tensors["adversarial"][i : i + 1].numpy())[0]) == words["adversarial"] != words["label"]
        )
        assert float(tensors["difference"][i].norm()) == pytest.approx(words["length"], rel=1e-4)
    assert tensors["adversarial"].min() >= 0
    assert tensors["adversarial"].max() <= 1


def test_a_run_that_preprocesses_is_attacked_before_it(tmp_path):
    fit_run(
        FitSettings("digits", filters=(4, 8), train=60, patches=500, preprocessing="contrast"),
        tmp_path,
        progress=False,
    )
    found = attack(AttackSettings(str(tmp_path), radii=(0.3,), attacks=("pgd",), examples=8), tmp_path, progress=False)
    model = load_classifier(tmp_path / "model.safetensors")
    predicted = np.asarray(model.predict(found.target.x.numpy()))
    np.testing.assert_array_equal(predicted == found.target.y.numpy(), found.found[0].clean)
    assert "nothing is certified: the run preprocesses images" in str(found)
    assert found.found[0].certificates is None
    assert found.found[0].accuracy[0].value < found.found[0].clean_accuracy.value


def test_a_plain_network_is_certified_by_its_layers(tmp_path):
    folder = tmp_path / "run"
    fit_run(FitSettings("digits", model="cnn", train=100, epochs=3), folder, progress=False)
    settings = AttackSettings(
        str(folder), norm="linf", radii=(0.001, 0.1), attacks=("fgm", "deformation"), shifts=(1.0,), examples=8
    )
    found = attack(settings, folder, progress=False)
    ball, deformed = found.found
    assert found.certified.by == "operator norms"
    assert ball.norm == "l_inf"
    assert (ball.survived[0] | ~ball.certificates.certified(0.001)).all()
    assert deformed.norm == "deformations"
    assert deformed.radii == (1.0,)
    assert deformed.accuracy[-1].value <= deformed.clean_accuracy.value == ball.clean_accuracy.value
    first, second = panels_of(found)
    assert [curve.label for curve in first.curves] == ["attacked", "certified", "clean"]
    assert [curve.label for curve in second.curves] == ["attacked", "clean"]
    assert first.curves[0].x == (0.0, 0.001, 0.1)
    assert first.curves[0].y[1:] == tuple(100 * one.value for one in ball.accuracy)
    assert {"l_inf", "deformations"} == {one["norm"] for one in found.to_dict()["threats"]}


def test_other_examples_can_be_given(hilbertnet, digits_run, few, digits, tmp_path):
    """Classes are matched by name; of these four none is known to the run, of the digits all."""
    code, _, err = hilbertnet("attack", digits_run, few, *FEW, "--out", tmp_path)
    assert (code, "expected examples of classes" in err) == (2, True)
    known = tmp_path / "known.npz"
    np.savez(known, x=digits.x[:12], y=digits.y[:12])
    target = read_target(str(digits_run), str(known), examples=12)
    assert target.part == "all examples"
    np.testing.assert_array_equal(target.x, digits.x[target.places])
    assert [target.name_of(int(number)) for number in target.y] == [str(digits.y[place]) for place in target.places]
    code, _, err = hilbertnet(
        "attack", digits_run, known, "--examples", 5, "--attacks", "fgm", "--radii", "0.1,8", "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert err.count("is it in units of 0 to 255?") == 1


# --- modules


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_linear_module_in_closed_form(users_net, linear_data, tmp_path, name):
    path, x, y, weight = linear_data
    radii = (0.02, 0.05, 0.1)
    settings = AttackSettings(f"users_net:{name}", str(path), radii=radii, attacks=("fmn",), examples=40)
    found = attack(settings, tmp_path, progress=False)
    margin = (2 * y - 1) * (x.flatten(1) @ weight - weight.sum() / 2)
    exact = (margin / weight.norm()).clamp(min=0.0)[found.target.places]
    (one,) = found.found
    # bounds matter little at such radii
    assert [i.value for i in one.accuracy] == [float((exact > r).double().mean()) for r in radii]
    torch.testing.assert_close(found.certified.certificates.best, exact.double(), rtol=1e-3, atol=1e-5)
    assert [i.value for i in one.certified] == [i.value for i in one.accuracy]
    curve, certified = panels_of(found)[0].curves[:2]
    last = min(max(radii), float(found.certified.certificates.best.max()))
    assert sum(0 < radius <= last for radius in certified.x) >= 60  # a curve, where all of it is near 0 too
    for radius, height in zip(curve.x, curve.y, strict=True):
        assert height == pytest.approx(100 * float((exact > radius).double().mean()), abs=2.6)  # one example


def test_certificates_in_l_inf_are_those_of_a_linear_module(users_net, linear_data):
    path, x, y, weight = linear_data
    target = read_target("users_net:one", str(path), examples=40)
    margin = (2 * y - 1) * (x.flatten(1) @ weight - weight.sum() / 2)
    exact = (margin / weight.abs().sum()).clamp(min=0.0)[target.places]
    found = certify(target, "inf")
    torch.testing.assert_close(found.certificates.best, exact.double(), rtol=1e-3, atol=1e-5)
    assert found.certificates.unit == "l_inf"


def test_what_cannot_be_bounded_is_attacked_without_certificates(users_net, linear_data):
    found = certify(read_target("users_net:split", str(linear_data[0]), examples=5), "2")
    assert found.certificates is None
    assert found.reason


# --- going on


def test_an_interrupted_command_goes_on(hilbertnet, users_net, linear_data, tmp_path, monkeypatch):
    arguments = ("attack", "users_net:two", linear_data[0], *FEW, "--out")
    assert hilbertnet(*arguments, tmp_path / "whole")[0] == 0
    saved, save = [], Search._save

    def stopping(search):
        save(search)
        saved.append(search.done)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Search, "_save", stopping)
    code, _, err = hilbertnet(*arguments, tmp_path / "out")
    assert code == 130
    assert "interrupted; " in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished-attack-l2.safetensors"]
    code, _, err = hilbertnet(*arguments, tmp_path / "out", "--restarts", 2)
    assert (code, "unfinished evaluation of other restarts" in err) == (2, True)
    code, _, err = hilbertnet(*arguments, tmp_path / "out")
    assert code == 0, err
    first, second = (json.loads((tmp_path / name / "attack.json").read_text()) for name in ("whole", "out"))
    assert first["threats"] == second["threats"]
    images = [(tmp_path / name / "attack_images.safetensors").read_bytes() for name in ("whole", "out")]
    assert images[0] == images[1]
    assert not list((tmp_path / "out").glob("unfinished*"))


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "run: absent is no finished run"),
        (["users_net:one"], "data: users_net:one has no data of its own; give DATA"),
        (["users_net:none", "digits"], "run: 'users_net:none' cannot be imported"),
        (["users_net:number", "digits"], "run: expected a function that returns a torch module, got int"),
        (["users_net:wide", "digits"], "run: users_net:wide does not take signals of 1 x 8 x 8"),
        (["users_net:two", "LINEAR", "--norm", "l1"], "norm: expected l2 or linf, got 'l1'; did you mean 'l2'"),
        (["users_net:two", "LINEAR", "--attacks", "pdg"], "attacks: unknown attack 'pdg'; did you mean 'pgd'"),
        (["users_net:two", "LINEAR", "--attacks", "pgd,pgd"], "attacks: expected different names"),
        (["users_net:two", "LINEAR", "--radii", "a"], "radii: expected numbers with commas"),
        (["users_net:two", "LINEAR", "--radii=-1"], "radii: expected finite numbers of at least 0"),
        (["users_net:two", "LINEAR", "--examples", "0"], "examples: "),
        (["users_net:two", "LINEAR", "--restarts", "0"], "restarts: "),
        (["users_net:two", "LINEAR", "--seed=-1"], "seed: expected a whole number from 0 to 2**32 - 1, got -1"),
        (["users_net:two", "LINEAR", "--attacks", "deformation", "--shifts", "x"], "shifts: expected numbers"),
        (["users_net:two", "LINEAR", "--attacks", "deformation", "--gradient=-1"], "max_gradient: expected"),
        (["users_net:two", "LINEAR", "--device", "abacus"], "device: expected one torch can use"),
        (["users_net:two", "LINEAR", "--out", "LINEAR"], "out: expected a folder, got the file"),
    ],
)
def test_bad_usage(hilbertnet, users_net, linear_data, arguments, message):
    code, _, err = hilbertnet("attack", *(linear_data[0] if word == "LINEAR" else word for word in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_labels_that_a_module_has_no_output_for(hilbertnet, users_net, tmp_path):
    path = tmp_path / "three.npz"
    np.savez(path, x=np.random.RandomState(0).rand(9, 1, 2, 3).astype(np.float32), y=np.arange(9) % 3)
    code, _, err = hilbertnet("attack", "users_net:two", path, "--out", tmp_path / "out")
    assert code == 2
    assert "expected labels from 0 to 1, as users_net:two has 2 outputs, got 0 to 2" in err
