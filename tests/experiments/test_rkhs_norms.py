"""Norms of activations and of ridge functions: records against closed forms, and what is made of them."""

import json
import math

import numpy as np
import pytest
import torch

from hilbertnet import ConvKernel
from hilbertnet.architecture import Architecture
from hilbertnet.experiments.rkhs_norms import ActivationRun, RidgeRun, figures, table

ACTIVATIONS = ActivationRun("activations", ("linear", "sin", "smooth_relu", "relu"), ("exp(1)", "inverse"), (0.1, 1.0))
RIDGE = RidgeRun("ridge", "3 exp(0.6) gauss2", train=12, seeds=(0, 1))


@pytest.fixture(scope="module")
def activations(tmp_path_factory):
    return json.loads(json.dumps(ACTIVATIONS.run(tmp_path_factory.mktemp("run"), progress=False)))


@pytest.fixture(scope="module")
def ridge(tmp_path_factory):
    return json.loads(json.dumps(RIDGE.run(tmp_path_factory.mktemp("run"), progress=False)))


def test_norms_of_activations_are_the_closed_forms(activations):
    exponential, inverse = activations["norms"]["exp(1)"], activations["norms"]["inverse"]
    assert exponential["linear"]["norms"] == pytest.approx([0.1 * math.sqrt(math.e), math.sqrt(math.e)])
    assert exponential["sin"]["norms"][1] == pytest.approx(math.sqrt(math.e * math.sinh(1)))
    assert exponential["smooth_relu"]["norms"][1] is None
    assert "0.398942" in exponential["smooth_relu"]["reasons"][1]
    assert inverse["smooth_relu"]["norms"][1] == pytest.approx(math.sqrt(23.3126533))
    assert inverse["relu"]["norms"] == [None, None]
    assert [row[1] for row in activations["surrogates"]["inverse"]] == pytest.approx(
        [1 / (2 * math.pi * scale) for scale in ACTIVATIONS.scales]
    )


def test_functions_and_neurons_are_drawn(activations):
    x = np.linspace(-2, 2, 161)
    np.testing.assert_allclose(activations["functions"]["relu"], np.maximum(x, 0))
    np.testing.assert_allclose(activations["neurons"]["relu"]["0.5"], np.maximum(x, 0) / 2)
    panels = figures({"activations": activations})["activations"]
    assert [panel.title for panel in panels] == [
        "activations",
        "neurons |x| s(w x / |x|)",
        "norms in the RKHS of exp(1)",
        "norms in the RKHS of inverse",
        "surrogates of ReLU",
    ]
    assert [curve.label for curve in panels[2].curves] == ["linear", "sin", "smooth_relu"]
    assert [panel.log_x for panel in panels] == [False] * 4 + [True]


def test_ridge_functions_are_bounded_below_by_less_than_their_norm(ridge, digits):
    assert list(ridge["functions"]) == ["0", "1"]
    for one in ridge["functions"].values():
        for bound in one["bounds"]:
            assert 0 < bound["value"] <= one["exact"] * (1 + 1e-6)
    rng = np.random.RandomState(0)
    chosen = rng.permutation(len(digits.x))[:12]
    target = np.where(digits.y[chosen] == rng.choice(np.unique(digits.y[chosen])), 1.0, -1.0)
    kernel = ConvKernel(Architecture.parse(RIDGE.architecture))
    gram = kernel.gram(digits.x[chosen], dtype=torch.float64)
    alpha = np.linalg.solve(gram + 1e-3 * 12 * np.trace(gram) / 12 * np.eye(12), target)
    assert ridge["functions"]["0"]["exact"] == pytest.approx(math.sqrt(alpha @ gram @ alpha))


def test_tables_say_why_not_and_how_much(activations, ridge):
    text = table({"activations": activations, "ridge": ridge})
    assert "| inverse | relu | infinite | infinite | relu has no Taylor series at 0 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| 0 |"))
    shares = [float(cell.strip().rstrip("%")) for cell in row.split("|")[3:-1]]
    assert len(shares) == 5
    assert max(shares) <= 100


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (ActivationRun("bad", ("sine",), ("inverse",), (1.0,)), "did you mean 'sin'"),
        (ActivationRun("bad", ("sin",), ("invers",), (1.0,)), "did you mean 'inverse'"),
        (ActivationRun("bad", ("sin",), ("inverse",), (-1.0,)), "radius: expected a number of at least 0"),
        (RidgeRun("bad", "3 exq(0.6) -"), "did you mean 'exp'"),
        (RidgeRun("bad", "3 exp(0.6) -", train=0), "train: "),
    ],
)
def test_bad_settings_are_refused(run, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run.run(tmp_path, progress=False)
