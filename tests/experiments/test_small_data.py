"""Few examples: records of tiny runs, what is chosen, and the table."""

import json
import math
from functools import partial

import pytest
import torch

from hilbertnet.experiments.experiment import Unfinished
from hilbertnet.experiments.regularized import Network, bounds_of, cost_of_step, read_parts
from hilbertnet.experiments.reproduce import read_settings
from hilbertnet.experiments.robust_curves import CurveRun
from hilbertnet.experiments.small_data import SmallDataRun, table
from hilbertnet.robustness import pgd

TINY = {
    "train": 60, "validation": 60, "width": 4, "depth": 1, "epochs": 10, "learning_rate": 0.1, "attacked": 20,
    "radii": (0.2, 0.5), "seeds": (0, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    run = SmallDataRun("decay", ("1e-3*weight_decay", "1e6*weight_decay"), **TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hilbertnet.experiments.small_data.ATTACK", partial(pgd, steps=3))
        return json.loads(json.dumps(run.run(tmp_path_factory.mktemp("run"), progress=False)))


def test_the_candidate_that_validates_best_is_chosen(record):
    assert record["chosen"] == "1e-3*weight_decay"
    tried = record["validation_accuracy"]
    assert list(tried) == ["1e-3*weight_decay", "1e6*weight_decay"]
    assert tried["1e6*weight_decay"] is None or tried["1e6*weight_decay"] < tried["1e-3*weight_decay"]


def test_every_seed_has_its_accuracies_and_bounds(record):
    assert list(record["seeds"]) == ["0", "1"]
    for one in record["seeds"].values():
        assert 0.3 < one["test_accuracy"] <= 1
        assert one["attacked"] == sorted(one["attacked"], reverse=True)
        assert 0 < one["bounds"]["below"] <= one["bounds"]["above"] * (1 + 1e-6)
    first, second = record["seeds"].values()
    assert first["bounds"] != second["bounds"]
    assert record["cost_of_step"] > 0.5


def test_parts_are_apart_and_the_test_set_is_one_for_all_seeds():
    parts, other = (read_parts("digits", 60, 50, seed, "cpu") for seed in (0, 1))
    assert [len(part[0]) for part in parts[1:4]] == [60, 50, 599]
    rows = {tuple(x.flatten().tolist()) for part in parts[1:4] for x in part[0]}
    assert len(rows) == 60 + 50 + 599
    assert torch.equal(parts.test[0], other.test[0])
    assert not torch.equal(parts.train[0], other.train[0])
    with pytest.raises(ValueError, match="train, validation: expected at most 1,198 together, got 2,000 and 50"):
        read_parts("digits", 2000, 50, 0, "cpu")


def test_bounds_enclose_the_slope_of_a_difference_of_logits():
    parts = read_parts("digits", 40, 40, 0, "cpu")
    net = Network(4, 1).new(parts, 0).eval()
    found = bounds_of(net, parts.test[0][:30])
    x = parts.test[0][:1].requires_grad_()
    j, k = net(x).topk(2, dim=1).indices[0]
    scores = net(x)[0]
    (gradient,) = torch.autograd.grad(scores[j] - scores[k], x)
    assert gradient.norm() <= found["below"] * (1 + 1e-5)
    assert found["below"] <= found["above"]


def test_a_costlier_regularizer_is_found_to_be_one():
    parts = read_parts("digits", 40, 40, 0, "cpu")
    assert cost_of_step(Network(4, 1), parts, "delta(0.5, steps=10)", 0) > 2


def test_a_candidate_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"regularizer: unknown term 'dleta'; did you mean 'delta'\?"):
        SmallDataRun("typo", ("dleta(1.0)",), **TINY).run(tmp_path, progress=False)


def test_the_table_has_means_spreads_and_misses(record):
    published = {**record, "settings": {**record["settings"], "published": 99.9}}
    text = table({"decay": published})
    row = next(line for line in text.splitlines() if line.startswith("| decay |"))
    values = [100 * one["test_accuracy"] for one in record["seeds"].values()]
    mean, spread = sum(values) / 2, abs(values[0] - values[1]) / math.sqrt(2)
    assert f"| {mean:.1f} ± {spread:.1f} (missed by {99.9 - mean:.1f})" in row
    assert "| 1e-3*weight_decay |" in row
    assert len(row.split("|")) == len(text.splitlines()[0].split("|"))
    assert table({}) == "no run is finished yet"


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_all_settings_are_regularizers(scale):
    from hilbertnet.experiments.regularized import regularizer_of

    _, runs = read_settings("small-data", scale)
    for run in runs:
        for text in run.candidates:
            assert regularizer_of(text) == regularizer_of(str(regularizer_of(text)))


@pytest.mark.parametrize("kind", [partial(SmallDataRun, candidates=("",)), partial(CurveRun, strengths=("",))])
def test_a_run_computes_with_its_own_number_of_threads(kind, monkeypatch, tmp_path):
    before, counted = torch.get_num_threads(), []
    monkeypatch.setattr(
        f"{kind.func.__module__}.Unfinished",
        lambda *found: counted.append(torch.get_num_threads()) or Unfinished(*found),
    )
    for count in (before + 1, None):
        with pytest.raises(ValueError, match="DATA: expected one of"):
            kind("run", data="digit", seeds=(0,), threads=count).run(tmp_path, progress=False)
    assert counted == [before + 1, before]
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads: expected a whole number of at least 1 or None, got 0"):
        kind("run", threads=0).run(tmp_path, progress=False)
