"""What ``hilbertnet stability`` measures, writes and refuses."""

import json
import sys
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hilbertnet import ConvKernel
from hilbertnet.cli import app
from hilbertnet.deformations import Rotation, warp
from hilbertnet.estimators import load_classifier
from hilbertnet.experiments import FitSettings, fit_run
from hilbertnet.experiments.stability import StabilitySettings, measure_stability, read_representation


def run(*arguments):
    return CliRunner().invoke(app, ["stability", *arguments])


def test_the_command_measures_and_writes_a_record_a_table_and_pictures(tmp_path):
    out = tmp_path / "out"
    kernel = "ckn: 3 exp(0.6) gauss2"
    options = ["--deformation", "rotation", "--sizes", "3,30", "--images", "12", "--draws", "2", "--out", str(out)]
    done = run("digits", "--representation", "pixels", "--representation", kernel, *options)
    assert done.exit_code == 0, done.output
    record = json.loads((out / "record.json").read_text())
    assert [one["representation"] for one in record["measurements"]] == ["pixels", "CKN, 3 exp(0.6) gauss2"]
    assert record["settings"]["sizes"] == [3, 30]
    assert record["data"]["name"] == "digits"
    assert (out / "table.txt").read_text() in done.output + "\n"
    assert "30" in done.output
    ElementTree.parse(out / "curves.svg")
    with Image.open(out / "deformed.png") as picture:
        assert min(picture.size) > 100


def test_distances_are_of_the_examples_chosen(digits):
    settings = StabilitySettings(
        "digits", ("ntk: 3 arccos1 gauss2",), deformation="rotation", sizes=(10.0,), images=10, draws=1, seed=4
    )
    result = measure_stability(settings, progress=False)
    pictures, (found,) = result.pictures, result.found
    x = pictures[0].double()
    moved = warp(x, Rotation().field(10.0, len(x), (8, 8)))
    kernel = ConvKernel("3 arccos1 gauss2", "ntk")
    np.testing.assert_allclose(found.relative[0, :, 0], kernel.distance(x, moved) / kernel.norm(x), rtol=1e-5)
    torch.testing.assert_close(pictures[1].double(), moved, rtol=0, atol=1e-5)


def test_bounds_stand_beside_exact_kernels():
    options = ["--deformation", "gaussian(3)", "--sizes", "0,0.05,0.7", "--images", "10", "--draws", "2", "--bounds"]
    done = run("digits", "--representation", "pixels", "--representation", "ckn: 3 exp(1) gauss2", *options)
    assert done.exit_code == 0, done.output
    lines = done.output.split("CKN, 3 exp(1) gauss2: the worst draw of every size")[1].splitlines()
    rows = [[float(cell) for cell in line.split()] for line in lines[-3:]]
    assert [row[0] for row in rows] == [0, 0.05, 0.7]
    for _, _, _, measured, grid, theorem in rows:
        assert measured <= grid
        assert measured <= theorem
    assert rows[0][3:] == [0, 0, 0]
    assert rows[1][3] > 0
    assert rows[2][5] == float("inf")  # sup||grad tau|| is more than 1/2


def test_handwriting_of_any_grey_images():
    done = run("digits", "--deformation", "handwriting, translated", "--sizes", "0,1", "--images", "10", "--draws", "1")
    assert done.exit_code == 0, done.output
    assert "handwriting, translated" in done.output
    assert "size (alpha)" in done.output


def test_a_run_folder_stands_for_its_features(tmp_path, digits):
    out = tmp_path / "run"
    options = ["--filters", "4,8", "--train", "60", "--patches", "300", "--preprocess", "contrast", "--loss", "ridge"]
    assert CliRunner().invoke(app, ["fit", "digits", *options, "--out", str(out)]).exit_code == 0
    model = load_classifier(out / "model.safetensors")
    x, y = torch.from_numpy(digits.x[:5]), torch.from_numpy(digits.x[5:10])
    features = [model.network_.encode(model.preprocessing_(part), progress=False) for part in (x, y)]
    expected = (features[0] - features[1]).norm(dim=1)
    torch.testing.assert_close(read_representation(str(out), (8, 8)).distance(x, y).float(), expected)
    with pytest.raises(ValueError, match="was fitted on images of 1 x 8 x 8, got 1 x 9 x 8"):
        read_representation(str(out), (9, 8)).norm(torch.zeros(1, 1, 9, 8))
    with pytest.raises(ValueError, match="is no finished run"):
        read_representation(str(tmp_path), (8, 8))


def flat(shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))


@pytest.mark.parametrize("which", ["cnn", "linear"])
def test_a_run_of_a_plain_network_stands_for_what_its_head_takes(which, tmp_path, digits, monkeypatch):
    module = ModuleType("nets_of_mine")
    module.linear = flat
    monkeypatch.setitem(sys.modules, "nets_of_mine", module)
    name = "cnn" if which == "cnn" else "nets_of_mine:linear"
    fit_run(FitSettings("digits", model=name, train=60, epochs=1), tmp_path / "run", progress=False)
    net = load_classifier(tmp_path / "run" / "model.safetensors").module_
    x, y = torch.from_numpy(digits.x[:5]), torch.from_numpy(digits.x[5:10])
    with torch.no_grad():
        first, second = ((net.maps if which == "cnn" else net)(part).flatten(1) for part in (x, y))
    found = read_representation(str(tmp_path / "run"), (8, 8)).distance(x, y)
    torch.testing.assert_close(found.float(), (first - second).norm(dim=1))


def test_a_module_of_the_users_own(monkeypatch):
    module = ModuleType("users_own")
    module.net = lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    monkeypatch.setitem(sys.modules, "users_own", module)
    done = run("digits", "--representation", "users_own:net", "--images", "10", "--draws", "1")
    assert done.exit_code == 0, done.output
    with pytest.raises(ValueError, match="representation: 'users_own:none' cannot be imported"):
        read_representation("users_own:none", (8, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--representation", "pixel"], "representation: expected 'pixels', 'ckn: ARCHITECTURE'"),
        (["--representation", "ckn: 3 exq(0.6) -"], "did you mean 'exp'"),
        (["--deformation", "rotaton"], "did you mean 'rotation'"),
        (["--deformation", "handwriting", "--bounds"], "bounds: expected a family of fields"),
        (["--representation", "pixels", "--bounds"], "bounds: expected an exact kernel"),
        (["--deformation", "handwriting, moved"], "deformation: "),
        (["--sizes", "1,a"], "sizes: expected numbers with commas"),
        (["--sizes", "3,1"], "sizes: expected increasing"),
        (["--images", "5"], "images: expected 10"),
        (["--draws", "0"], "draws: "),
        (["--out", __file__], "out: expected a folder, got the file"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    done = run("digits", *arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
