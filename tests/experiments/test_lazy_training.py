"""Lazy training as an experiment: agreement with theory on a small problem, resumed, as a table and as a picture."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hilbertnet.data import load
from hilbertnet.experiments.lazy_training import LazyRun, LazyStudy, figures, stable_rate, table
from hilbertnet.kernels.empirical import empirical_ntk
from hilbertnet.networks import mnist_net
from hilbertnet.networks.tangent import ntk_network
from hilbertnet.records import settings_of
from hilbertnet.report.curves import curves
from hilbertnet.training import Recipe

ALPHAS = (1.0, 10.0, 100.0)
RUN = LazyRun(
    "small", "3 dual(gelu) avg2 | 3 dual(gelu) global", 8, ALPHAS, train=30, test=60, epochs=25, batch_size=30
)
COST = ("seconds", "peak_memory", "time")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return RUN.run(tmp_path_factory.mktemp("lazy"), progress=False)


def test_large_scales_agree_with_kernel_regression_and_do_not_move(record):
    trained = record["trained"]
    distances = [found["distance"] for found in trained]
    assert record["regression"]["distance"] == 0
    assert distances[0] > 10 * distances[2]
    assert distances[2] < 1.2 * record["linearized"]["distance"] + 0.01  # what the size of steps leaves
    for layer in trained[0]["movement"][-1]:
        moved = [found["movement"][-1][layer] for found in trained]
        assert np.log10(moved[2] / moved[1]) == pytest.approx(-1, abs=0.1)
        linear = record["linearized"]["movement"][-1][layer]
        assert moved[2] * 100 == pytest.approx(linear, rel=0.02)
    losses = [found["train_loss"] for found in trained]
    assert losses[2] == pytest.approx(record["linearized"]["train_loss"], rel=0.02)


def test_the_record_is_json_and_has_the_settings(record):
    assert json.loads(json.dumps(record, allow_nan=False))["settings"] == settings_of(RUN)
    assert [len(found["movement"]) for found in record["trained"]] == [25] * 3
    assert list(record["trained"][0]["movement"][0]) == list(record["linearized"]["movement"][0])


def test_accuracies_are_those_of_regression_written_out(record):
    """Kernel ridge flow with numpy on the blocks of the kernel, and the images counted by hand."""
    data = load("digits")
    order = np.random.RandomState(0).permutation(len(data.x))[:90]
    x, y = torch.from_numpy(data.x[order]).double(), data.y[order].astype(int)
    net = ntk_network(RUN.architecture, 1, 8, space=(8, 8), outputs=10, generator=0).double()
    gram = empirical_ntk(net, x[:30], trace=False).permute(0, 2, 1, 3).reshape(300, 300).numpy()
    cross = empirical_ntk(net, x[30:], x[:30], trace=False).permute(0, 2, 1, 3).reshape(600, 300).numpy()
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 1e-14 * values[-1])
    assert record["learning_rate"] == pytest.approx(30 / values[-1], rel=1e-9)
    targets = 2 * np.eye(10)[y[:30]].ravel() - 1
    grown = -np.expm1(-values * 25 * record["learning_rate"] / 30) / values
    outputs = (cross @ (vectors * grown) @ vectors.T @ targets).reshape(60, 10)
    assert record["regression"]["accuracy"]["value"] == pytest.approx(np.mean(outputs.argmax(1) == y[30:]))


def test_an_interrupted_run_goes_on(record, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        RUN.run(tmp_path, progress=stop)
    finished = sorted(tmp_path.iterdir())
    assert len(finished) == 3
    times = [file.stat().st_mtime_ns for file in finished]
    again = RUN.run(tmp_path, progress=False)
    assert [file.stat().st_mtime_ns for file in finished] == times
    assert {k: v for k, v in again.items() if k not in COST} == {k: v for k, v in record.items() if k not in COST}


def test_table_and_pictures_are_made_from_the_record(record):
    lines = table({"small": record}).splitlines()
    assert len(lines) == 2 + 2 + len(ALPHAS)
    assert lines[-1].startswith("| small | network, alpha = 100 |")
    panels = figures({"small": record})["small"]
    for panel in panels:
        axes = curves(panel)
        assert len(axes.lines) >= 3
    by_alpha, by_epoch, accuracy = panels
    assert [curve.label for curve in by_alpha.curves] == list(record["trained"][0]["movement"][0])
    assert by_alpha.curves[0].y == tuple(next(iter(found["movement"][-1].values())) for found in record["trained"])
    assert by_epoch.curves[0].x[0] == 1
    assert by_epoch.curves[0].x[-1] == 25
    assert accuracy.curves[0].y == tuple(100 * found["accuracy"]["value"] for found in record["trained"])


def test_any_module_can_be_studied():
    model = mnist_net(width=4, depth=1, size=8, mean=(0.3,), std=(0.4,), generator=0).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = load("digits")
    x, y = torch.from_numpy(data.x[:60]).double(), torch.from_numpy(data.y[:60]).long()
    study = LazyStudy(model, (x[:20], y[:20]), (x[20:], y[20:]), Recipe(2, 20))
    assert study.rate == stable_rate(model, x[:20])
    near, far = study.at(300.0), study.at(1.0)
    assert near["distance"] < far["distance"]
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphas": ()}, "^alphas: expected increasing positive numbers"),
        ({"alphas": (1.0, 0.5)}, "^alphas: expected increasing positive numbers"),
        ({"alphas": (0.0, 1.0)}, "^alphas: expected increasing positive numbers"),
        ({"width": 0}, "^width: expected a whole number of at least 1"),
        ({"train": 1000, "test": 1000}, "^train, test: expected at most 1,797 images"),
        ({"architecture": "3 arccos0 -"}, r"^arch: a tangent kernel needs a finite kappa'\(1\)"),
        ({"architecture": "3 poly2 -"}, "^layer 1: arch: expected kernels"),
    ],
)
def test_bad_settings_are_named(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        replace(RUN, **change).run(tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
