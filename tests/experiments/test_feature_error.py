"""Errors of approximate Gram matrices: against naive loops and closed forms, resumed, as a table and as a picture."""

import math
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from hilbertnet.data import Dataset, load
from hilbertnet.experiments import feature_error
from hilbertnet.experiments.feature_error import METHODS, FeatureErrorRun, figures, fit_slope, table
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks import RandomFeatureNet

SMALL = {"widths": (4, 8, 16), "examples": 6, "train": 40, "patches": 300, "draws": 3, "fits": 2}
ONE, TWO = "3 exp(0.6) gauss2", "3 arccos1 gauss2 | 3 arccos1 gauss2"
COST = ("seconds", "peak_memory", "time")


@pytest.fixture
def points(monkeypatch):
    """Images of one pixel and three channels: six directions, any lengths."""
    rng = np.random.RandomState(0)
    directions = rng.rand(6, 3)
    x = (directions[rng.permutation(60) % 6] * rng.rand(60, 1)).astype(np.float32)[..., None, None]
    data = Dataset("points", x, np.zeros(60, int))
    monkeypatch.setattr(feature_error, "load", lambda name: data)
    return data


def without_cost(record):
    kept = {key: value for key, value in record.items() if key not in COST}
    kept["methods"] = {
        name: {key: value for key, value in found.items() if key != "seconds"}
        for name, found in record["methods"].items()
    }
    return kept


# ---------------------------------------------------------------------------------------------------------- the errors


def test_errors_are_those_of_naive_loops(tmp_path):
    run = FeatureErrorRun("x", ONE, **SMALL)
    record = run.run(tmp_path, progress=False)
    order = np.random.RandomState(0).permutation(1797)
    x = torch.from_numpy(load("digits").x[order[:6]]).double()
    exact = [[float(ConvKernel(ONE).gram(x[i : i + 1], x[j : j + 1])) for j in range(6)] for i in range(6)]
    for place, width in enumerate(run.widths):
        for seed in range(run.draws):
            rng = torch.Generator().manual_seed(1_000_003 * seed + width)
            net = RandomFeatureNet(ONE, 1, width, generator=rng).double()
            maps = [net(x[i : i + 1]).flatten().tolist() for i in range(6)]
            gaps = [
                sum(a * b for a, b in zip(maps[i], maps[j], strict=True)) - exact[i][j]
                for i in range(6)
                for j in range(6)
            ]
            size = math.sqrt(sum(value**2 for row in exact for value in row))
            found = record["methods"]["random"]
            assert found["frobenius"][place][seed] == pytest.approx(math.sqrt(sum(g * g for g in gaps)) / size)
            assert found["sup"][place][seed] == pytest.approx(max(map(abs, gaps)) / max(map(max, exact)))


def test_the_error_of_random_features_is_that_of_the_closed_form(points, tmp_path):
    """For one patch, cos(<w, d> / sigma) has variance (1 + exp(-2 s)) / 2 - exp(-s), with s = |d|^2 / sigma^2."""
    run = FeatureErrorRun("x", "1 exp(0.6) -", (2, 4, 6), examples=10, train=40, patches=30, draws=400, fits=1)
    record = run.run(tmp_path, progress=False)
    x, _ = feature_error._choose(points.x, 10, 40, 0)
    flat = x.reshape(10, 3).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    unit = flat / norms[:, None]
    s = ((unit[:, None] - unit[None]) ** 2).sum(-1) / 0.6**2
    variance = (np.outer(norms, norms) ** 2 * ((1 + np.exp(-2 * s)) / 2 - np.exp(-s))).sum()
    size = (np.outer(norms, norms) * np.exp(-s / 2)) ** 2
    for place, width in enumerate((2, 4, 6)):
        squares = np.square(record["methods"]["random"]["frobenius"][place])
        expected = variance / (width / 2) / size.sum()
        assert abs(squares.mean() - expected) < 4 * squares.std() / math.sqrt(len(squares))


def test_nystrom_with_a_filter_for_every_direction_is_exact(points, tmp_path):
    run = FeatureErrorRun("x", "1 exp(0.6) -", (2, 4, 6), examples=15, train=40, patches=40, draws=1, fits=2)
    found = run.run(tmp_path, progress=False)["methods"]["Nyström"]
    assert min(found["frobenius"][0]) > 1e-3
    assert max(found["frobenius"][2]) < 1e-7  # directions in float32
    assert max(found["sup"][2]) < 1e-7


@pytest.mark.parametrize("text", [ONE, pytest.param(f"{ONE} | {ONE}", marks=pytest.mark.slow)])
def test_random_features_fall_by_the_root_of_the_width_and_nystrom_is_closer(text, tmp_path):
    run = FeatureErrorRun("x", text, (16, 32, 64, 128), examples=10, train=200, patches=1000, draws=100, fits=1)
    methods = run.run(tmp_path, progress=False)["methods"]
    for name in ("random", "orthogonal"):
        assert methods[name]["slope"] == pytest.approx(-0.5, abs=0.15)
        assert methods[name]["root_mean_square"] == pytest.approx(methods[name]["line"], rel=0.4)
        assert methods["Nyström"]["root_mean_square"][-1] < methods[name]["root_mean_square"][-1] / 5


def test_slope_and_standard_error_are_those_of_least_squares():
    rng, widths = np.random.RandomState(0), (16, 32, 64, 128)
    errors = [3 / width**0.7 * math.exp(0.1 * rng.randn()) for width in widths]
    design, y = np.array([[1.0, math.log(width)] for width in widths]), np.log(errors)
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    noise = ((y - design @ beta) ** 2).sum() / 2
    assert fit_slope(widths, errors) == pytest.approx((beta[1], math.sqrt(noise * inverse[1, 1])))


def test_the_summary_is_that_of_the_errors(tmp_path):
    run = FeatureErrorRun("x", ONE, **{**SMALL, "fits": 1})
    methods = run.run(tmp_path, progress=False)["methods"]
    found = methods["random"]
    for place, errors in enumerate(found["frobenius"]):
        mean = sum(errors) / 3
        assert found["mean"][place] == pytest.approx(mean)
        assert found["root_mean_square"][place] == pytest.approx(math.sqrt(sum(e * e for e in errors) / 3))
        assert found["standard_deviation"][place] == pytest.approx(math.sqrt(sum((e - mean) ** 2 for e in errors) / 2))
    first = found["root_mean_square"][0]
    assert found["line"] == pytest.approx([first, first / math.sqrt(2), first / 2])
    assert found["slope"] == fit_slope(run.widths, found["root_mean_square"])[0]
    assert methods["Nyström"]["standard_deviation"] == [None] * 3


def test_an_error_of_zero_counts_as_rounding():
    slope, _ = fit_slope((2, 4, 8), [1e-3, 1e-6, 0.0])
    assert slope == fit_slope((2, 4, 8), [1e-3, 1e-6, np.finfo(float).eps])[0]


def test_filters_are_learned_from_other_images():
    x = np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1)
    examples, train = feature_error._choose(x, 20, 30, seed=0)
    assert sorted([*examples.ravel(), *train.ravel()]) == list(range(50))


# -------------------------------------------------------------------------------------------------------------- resume


def test_an_interrupted_run_goes_on_to_the_same_record(tmp_path, monkeypatch):
    run = FeatureErrorRun("x", TWO, **SMALL)
    whole = run.run(tmp_path / "whole", progress=False)
    measure, measured = feature_error._Task.measure, []

    def interrupted(self, method, width):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append((method, width))
        return measure(self, method, width)

    monkeypatch.setattr(feature_error._Task, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path / "parts", progress=False)
    monkeypatch.setattr(
        feature_error._Task, "measure", lambda self, m, w: measured.append((m, w)) or measure(self, m, w)
    )
    again = run.run(tmp_path / "parts", progress=False)
    assert measured == [(method, width) for method in METHODS for width in run.widths]
    assert without_cost(again) == without_cost(whole)


def test_parts_of_other_settings_are_refused(tmp_path):
    run = FeatureErrorRun("x", ONE, **SMALL)
    run.run(tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds an unfinished run of other draws"):
        replace(run, draws=4).run(tmp_path, progress=False)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (4, 8)}, r"^widths: expected at least 3 increasing positive whole numbers, got \(4, 8\)"),
        ({"widths": (8, 4, 16)}, "^widths: "),
        ({"widths": (4, 4, 8)}, "^widths: "),
        ({"widths": (0, 4, 8)}, "^widths: "),
        ({"widths": (4, 7, 8)}, "^width: expected an even number, .* got 7"),
        ({"draws": 0}, "^draws: expected a whole number of at least 1, got 0"),
        ({"fits": 1.5}, "^fits: "),
        ({"examples": 0}, "^examples: "),
        ({"train": 1792}, "^examples, train: expected at most 1,797 images together, got 6 . 1,792"),
        ({"architecture": "3 poly2 -"}, "^arch: expected kernels arccos0, arccos1, exp or dual, .* got poly2"),
        ({"architecture": "3 exo(1) -"}, "exo"),
        ({"patches": 3}, "^layer 1: "),
    ],
)
def test_bad_settings_are_refused(change, message, tmp_path):
    run = FeatureErrorRun("x", **{"architecture": ONE, **SMALL, **change})
    with pytest.raises(ValueError, match=message):
        run.run(tmp_path, progress=False)


def test_nothing_is_drawn_from_the_global_generator(tmp_path):
    before = torch.get_rng_state()
    FeatureErrorRun("x", ONE, **SMALL).run(tmp_path, progress=False)
    assert torch.equal(before, torch.get_rng_state())


# --------------------------------------------------------------------------------------------------- table and picture


def made_up():
    def method(error, deviation):
        errors = [[2 * error] * 3, [1.5 * error] * 3, [0.5 * error, error, 1.8 * error]]
        return {
            "widths": [16, 64, 2048],
            "frobenius": errors,
            "sup": errors,
            "root_mean_square": [2 * error, 1.5 * error, 1.1 * error],
            "standard_deviation": [0.0, 0.0, deviation],
            "line": [2 * error, error, 0.3 * error],
            "slope": -0.4712,
            "slope_standard_error": 0.0321,
            "seconds": [1.0, 2.0, 97.0],
        }

    methods = {"random": method(0.1, 0.02), "orthogonal": method(0.05, None), "Nyström": method(1e-4, 1e-6)}
    return {"r": {"settings": {"architecture": "1 exp(1) - | 1 exp(1) -", "data": "digits"}, "methods": methods}}


def test_the_table_sets_random_features_against_nystrom():
    lines = table(made_up()).splitlines()
    assert len(lines) == 5
    where = r"| r | `1 exp(1) - \| 1 exp(1) -`, digits |"
    assert lines[2].startswith(f"{where} random | -0.471 ± 0.032 | 2,048 | 0.11 ± 0.02 | 0.03 | 0.12 | 1,000 |")
    assert lines[2].endswith("| 1.67 minutes |")
    assert "| orthogonal | -0.471 ± 0.032 | 2,048 | 0.055 | " in lines[3]
    assert " | 1 | " in lines[4]


def test_the_picture_has_errors_in_a_band_of_quartiles():
    (panel,) = figures(made_up())["errors"]
    assert panel.slope == -0.5
    assert [curve.label for curve in panel.curves] == list(METHODS)
    first = panel.curves[0]
    assert first.x == (16, 64, 2048)
    assert first.y == pytest.approx((0.2, 0.15, 0.11))
    assert first.low == pytest.approx((0.2, 0.15, 0.075))  # half-way between 0.05 and 0.1
    assert first.high == pytest.approx((0.2, 0.15, 0.14))


def test_from_the_command_line_with_picture_and_resumed(hilbertnet, monkeypatch, tmp_path):
    room = sys.modules["hilbertnet.experiments.reproduce"]
    runs = [FeatureErrorRun("one", ONE, **SMALL), FeatureErrorRun("two", TWO, **SMALL)]
    monkeypatch.setattr(room, "read_settings", lambda name, scale: ("A title", runs))
    code, out, err = hilbertnet("reproduce", "random-features", "--out", tmp_path / "a")
    assert code == 0, err
    assert out.count("\n") == 2 + 2 * len(METHODS)
    assert out.strip() in (tmp_path / "a" / "table.md").read_text()
    assert f"picture: {tmp_path / 'a' / 'errors.svg'}" in err
    picture = tmp_path / "a" / "errors.svg"
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert hilbertnet("reproduce", "random-features", "--out", tmp_path / "a")[:2] == (0, out)
    assert kept == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    code, part, _ = hilbertnet("reproduce", "random-features", "--only", "two", "--out", tmp_path / "b")
    assert part.count("\n") == 2 + len(METHODS)
