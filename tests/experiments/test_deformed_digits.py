"""Deformed digits: the record against distances computed here, what is made of records, and refusals."""

import importlib
import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from hilbertnet import ConvKernel
from hilbertnet.architecture import Architecture
from hilbertnet.deformations import InfiniteMNIST
from hilbertnet.experiments import compared
from hilbertnet.experiments.deformed_digits import DeformedRun, SphereRun, figures, read_published, table

reproduce = importlib.import_module("hilbertnet.experiments.reproduce")  # the package has a function of that name
ARCHITECTURE = "3 arccos1 gauss2 | 2 arccos1 gauss2"
PUBLISHED = ("ckn: deformations: 0.01 0.02", "ckn: same label: 0.5")
RUN = DeformedRun(
    "small",
    representation="kernels",
    architecture=ARCHITECTURE,
    alphas=(0.1, 1.0),
    data="digits",
    draws=2,
    labels=(3, 5),
    published=PUBLISHED,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return json.loads(json.dumps(RUN.run(tmp_path_factory.mktemp("run"), progress=False)))


def test_distances_are_those_of_the_kernels_between_digits_and_copies(record, digits):
    places = [int(np.flatnonzero(digits.y == label)[0]) for label in (3, 5)]
    assert record["digits"] == places
    source = InfiniteMNIST(images=digits.x, labels=digits.y, dtype=torch.float64)
    x = source.batch(source.index(places, 0))[0]
    kernel = ConvKernel(Architecture.parse(ARCHITECTURE), "ntk")
    seeds = torch.randint(2**62, (2,), generator=torch.Generator().manual_seed(0))
    found = np.array(record["measurements"]["ntk"]["deformations"]["relative"])
    for draw in range(2):
        generator = torch.Generator().manual_seed(int(seeds[draw]))
        copies = torch.randint(1, 2**40, (2,), generator=generator).numpy()
        for row, alpha in enumerate(RUN.alphas):
            moved = source.at(alpha).batch(source.index(places, copies))[0]
            expected = kernel.distance(x, moved) / kernel.norm(x)
            np.testing.assert_allclose(found[row, :, draw], expected, rtol=1e-6)


def test_translations_move_farther_and_both_ways_have_the_same_landmarks(record):
    for ways in record["measurements"].values():
        alone, translated = (np.array(one["relative"]) for one in ways.values())
        assert alone[0].mean() < translated[0].mean()
        assert len({one["same_label"] for one in ways.values()}) == 1
    assert record["measurements"]["ckn"]["deformations"]["relative"][0] != record["measurements"]["ntk"]


def test_the_table_has_published_figures_ratios_and_slopes(record):
    lines = table({"small": record}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    rows = {row[0]: row[1:] for row in cells}
    ckn, ntk = (
        np.mean(record["measurements"][name]["deformations"]["relative"], axis=(1, 2)) for name in ("ckn", "ntk")
    )
    assert rows["ckn, deformations"][:2] == [f"{value:.4f}" for value in ckn]
    assert rows["ckn, deformations, published"][:2] == ["0.0100", "0.0200"]
    assert rows["NTK / CKN, deformations"][:2] == [f"{value:.2f}" for value in ntk / ckn]
    assert rows["ckn, deformations"][2] == f"{np.log10(ckn[1] / ckn[0]):.2f}"
    assert rows["ckn, deformations"][3].endswith("(0.5000)")
    assert lines[0].startswith("small (3 arccos1 gauss2")


def test_the_picture_has_a_panel_for_each_way_with_published_points_and_levels(record):
    panels = figures({"small": record})["small"]
    assert [panel.title for panel in panels] == [
        "deformations, float images",
        "deformations and translations, float images",
    ]
    kinds = [curve.kind for curve in panels[0].curves]
    assert kinds.count("points") == 1
    assert kinds.count("level") == 4
    assert [curve.label for curve in panels[1].curves if curve.kind == "line"] == ["CKN", "NTK"]


def test_grey_levels_hide_small_changes(tmp_path):
    found = replace(RUN, form="uint8", alphas=(0.0,), published=(), representation="ckn").run(tmp_path, progress=False)
    assert np.max(found["measurements"]["ckn"]["deformations"]["relative"]) == 0
    assert list(found["measurements"]) == ["ckn"]


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    whole = replace(RUN, published=()).run(tmp_path / "whole", progress=False)
    run, calls = replace(RUN, published=()), []
    original = DeformedRun._measure

    def interrupted(self, phi, *rest):
        calls.append(phi.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, phi, *rest)

    monkeypatch.setattr(DeformedRun, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path / "cut", progress=False)
    assert run.run(tmp_path / "cut", progress=False)["measurements"] == whole["measurements"]
    assert calls == ["CKN", "NTK", "NTK"]


@pytest.mark.parametrize("kind", ["pixels", "cnn"])
def test_other_representations(kind, tmp_path):
    run = replace(RUN, representation=kind, architecture="", published=(), train=300, epochs=20)
    found = run.run(tmp_path, progress=False)
    relative = np.array(found["measurements"][kind]["deformations"]["relative"])
    assert relative[1].mean() > relative[0].mean()
    assert relative.min() > 0
    if kind == "cnn":
        assert found["notes"]["accuracy"] > 0.6
        assert "trained on 300 images for 20 epochs" in table({"small": found})


def test_scattering_is_kymatios(tmp_path, monkeypatch):
    made = []

    class Scattering2D(torch.nn.Module):
        def __init__(self, J, shape):
            super().__init__()
            made.append((J, shape))

        def forward(self, x):
            return torch.nn.functional.avg_pool2d(x, 4).unsqueeze(2)

    package, torch_frontend = ModuleType("kymatio"), ModuleType("kymatio.torch")
    package.__spec__ = SimpleNamespace()
    torch_frontend.Scattering2D = Scattering2D
    monkeypatch.setitem(sys.modules, "kymatio", package)
    monkeypatch.setitem(sys.modules, "kymatio.torch", torch_frontend)
    found = replace(RUN, representation="scattering", published=()).run(tmp_path, progress=False)
    assert made == [(2, (8, 8))]
    assert np.min(found["measurements"]["scattering"]["deformations"]["relative"]) > 0


def test_without_kymatio_scattering_is_left_out_unless_it_is_asked_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compared, "find_spec", lambda name: None)
    scattering = replace(RUN, name="scattering", representation="scattering", published=())
    sphere = SphereRun("sphere", maps=("arccos1",), alphas=(0.1, 1.0), draws=1)
    monkeypatch.setattr(reproduce, "read_settings", lambda name, scale: ("t", [scattering, sphere]))
    done = [name for name, _ in reproduce.reproduce("deformed-digits", tmp_path, progress=False)]
    assert done == ["sphere"]
    assert "scattering: left out, scattering needs kymatio" in caplog.text
    with pytest.raises(ValueError, match="scattering: scattering needs kymatio: pip install kymatio"):
        list(reproduce.reproduce("deformed-digits", tmp_path, only=["scattering"], progress=False))


def test_kernel_maps_on_the_sphere(tmp_path):
    run = SphereRun("sphere", maps=("arccos1", "arccos0"), alphas=(0.001, 0.01, 0.1), draws=2)
    found = json.loads(json.dumps(run.run(tmp_path, progress=False)))
    text = table({"sphere": found})
    slopes = [line.split("|")[5].strip() for line in text.splitlines() if line.startswith("| arccos")]
    assert slopes == ["1.00", "0.50"]
    (panel,) = figures({"sphere": found})["sphere"]
    assert panel.x == "distance"


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_settings_of_digits_are_accepted(scale):
    for run in reproduce.read_settings("deformed-digits", scale)[1]:
        if isinstance(run, DeformedRun):
            run._check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"representation": "kernel"}, "representation: expected one of kernels, ckn, cnn"),
        ({"form": "int"}, "form: expected float or uint8"),
        ({"labels": (3, 11)}, "labels: expected some of \\[0, 1"),
        ({"draws": 0}, "draws: "),
        ({"architecture": "3 arcos1 -"}, "did you mean 'arccos1'"),
        ({"published": ("ckn: deformations: 0.1",)}, "published: expected 'ckn: deformations: ' and 2 figures"),
        ({"published": ("ckn 0.1",)}, "published: expected"),
    ],
)
def test_bad_settings_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        replace(RUN, **change).run(tmp_path, progress=False)


def test_published_figures_are_read():
    assert read_published(PUBLISHED, 2) == {("ckn", "deformations"): (0.01, 0.02), ("ckn", "same label"): (0.5,)}
