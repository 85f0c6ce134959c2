"""Robustness, locally and globally: records of tiny runs, the inequality, table and pictures."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from hilbertnet import ConvKernel
from hilbertnet.architecture import Architecture
from hilbertnet.experiments.robust_curves import PLACES, CurveRun, figures, make_run, table
from hilbertnet.experiments.robust_inequality import InequalityRun
from hilbertnet.robustness import pgd

CURVES = CurveRun(
    "pgd", ("", "pgd_l2(1.0) + sn(1.0)"), train=60, validation=60, seeds=(0,), width=4, depth=1, epochs=4,
    points=8, radii=(0.2, 0.6),
)  # fmt: skip
INEQUALITY = InequalityRun("exp", "3 exp(1.0) gauss4", train=12, points=4, steps=3, seeds=(0,), radii=(0.3, 1.0))


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hilbertnet.experiments.robust_curves.ATTACK", partial(pgd, steps=3))
        return json.loads(json.dumps(CURVES.run(tmp_path_factory.mktemp("run"), progress=False)))


@pytest.fixture(scope="module")
def inequality(tmp_path_factory):
    return json.loads(json.dumps(INEQUALITY.run(tmp_path_factory.mktemp("run"), progress=False)))


def test_all_places_are_measured(curves):
    for by_seed in curves["strengths"].values():
        for one in by_seed.values():
            assert list(one["places"]) == list(PLACES)
            for place in one["places"].values():
                assert place["gradient"] > 0
                assert 1 >= place["kept"][0] >= place["kept"][1] >= 0
            assert one["robust"][0] <= 1


def test_a_robust_loss_and_a_constraint_flatten_the_network(curves):
    plain, robust = (by_seed["0"] for by_seed in curves["strengths"].values())
    for place in PLACES:
        assert robust["places"][place]["gradient"] < plain["places"][place]["gradient"]


def test_known_norms_bound_the_loss_under_attack(inequality):
    assert set(inequality["functions"]) == {"ridge", "svm"}
    for by_seed in inequality["functions"].values():
        for one in by_seed.values():
            assert 0 < one["lipschitz"] <= 1
            for found in one["losses"].values():
                for at in found["radii"]:
                    assert found["clean"] < at["attacked"] <= at["allowed"]
                    assert at["allowed"] == pytest.approx(
                        found["clean"] + at["radius"] * one["norm"] * one["lipschitz"]
                    )


def test_the_norm_of_the_support_vector_machine_is_scikit_learns(inequality, digits):
    from sklearn.svm import SVC

    rng = np.random.RandomState(0)
    chosen = rng.permutation(len(digits.x))[:12]
    target = np.where(digits.y[chosen] == rng.choice(np.unique(digits.y[chosen])), 1.0, -1.0)
    kernel = ConvKernel(Architecture.parse(INEQUALITY.architecture))
    gram = np.asarray(kernel.gram(digits.x[chosen], dtype=torch.float64))
    scale = np.trace(gram) / 12
    model = SVC(kernel="precomputed", C=100).fit(gram / scale, target)
    beta = model.dual_coef_[0]
    inside = gram[np.ix_(model.support_, model.support_)]
    norm = np.sqrt(beta @ inside @ beta) / scale
    assert inequality["functions"]["svm"]["0"]["norm"] == pytest.approx(norm, rel=1e-5)


def test_table_and_pictures(curves, inequality):
    text = table({"pgd": curves, "exp": inequality})
    assert "| pgd | pgd_l2(1.0) + sn(1.0) |" in text
    assert "| NO |" not in text
    assert text.count("| yes |") == 2 * 2 * 2
    panels = figures({"pgd": curves, "exp": inequality})
    assert [panel.title for panel in panels["robust"]] == ["radius 0.2", "radius 0.6"]
    assert [panel.title for panel in panels["gradients"]] == [f"{place} images" for place in PLACES]
    assert len(panels["robust"][0].curves[0].x) == 2
    assert figures({"exp": inequality}) == {}
    assert table({}) == "no run is finished yet"


def test_a_training_that_diverges_is_said_to_have(curves):
    broken = {**curves, "strengths": {"": {"0": {"diverged": "epoch 0"}}}}
    assert "| pgd | none | diverged |" in table({"pgd": broken})


def test_runs_are_told_apart_by_their_settings():
    assert isinstance(make_run(name="a", architecture="3 exp(1.0) -"), InequalityRun)
    assert isinstance(make_run(name="a", strengths=("",)), CurveRun)
    with pytest.raises(ValueError, match=r"machines: expected some of ridge, svm, got 'svn'; did you mean 'svm'\?"):
        InequalityRun("a", "3 exp(1.0) -", machines=("svn",)).run(None)
