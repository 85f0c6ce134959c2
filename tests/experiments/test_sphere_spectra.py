"""Spectra on spheres: records against closed forms, and what is made of them."""

import json

import numpy as np
import pytest

from hilbertnet.experiments.sphere_spectra import SpectraRun, figures, table

RUN = SpectraRun("small", ("ntk: arccos1", "ckn: arccos1", "ckn: exp(0.6)"), 3, degrees=60)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return json.loads(json.dumps(RUN.run(tmp_path_factory.mktemp("run"), progress=False)))


def test_eigenvalues_and_exponents_are_those_of_the_closed_forms(record):
    tangent, features, smooth = record["spectra"].values()
    assert np.exp(list(tangent["log_eigenvalues"][:3])) == pytest.approx([1 / 2, 1 / 3, 5 / 64])
    assert tangent["log_eigenvalues"][3] is None
    assert np.exp(features["log_eigenvalues"][0]) == pytest.approx(3 / 8)
    assert (tangent["predicted"], features["predicted"], smooth["predicted"]) == (-3, -5, None)
    for found in (tangent, features):
        assert found["far"]["even"] == pytest.approx(found["predicted"], abs=0.05)
        assert found["near"]["even"] == pytest.approx(found["predicted"], abs=0.3)
        assert found["sum"] + found["tail"] == pytest.approx(found["at_one"], rel=1e-4)


def test_the_table_and_the_picture_are_made_from_the_record(record):
    lines = table({"small": record}).splitlines()
    assert len(lines) == 5
    assert "-3.00 (even) | -3 |" in lines[2]
    assert "faster than powers" in lines[4]
    (panel,) = figures({"small": record})["small"]
    assert [curve.label for curve in panel.curves] == list(RUN.kernels)
    assert panel.slope == -3
    assert panel.curves[0].x[:4] == (1, 2, 4, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": ("rf: arccos1",)}, "kind: expected 'ckn' or 'ntk'"),
        ({"kernels": ("ckn: arcos1",)}, "did you mean 'arccos1'"),
        ({"dimension": 1}, "p: expected a whole number of at least 2"),
        ({"degrees": 0}, "degrees: "),
    ],
)
def test_bad_settings_are_refused(change, message, tmp_path):
    settings = {"kernels": RUN.kernels, "dimension": 3, "degrees": 60} | change
    with pytest.raises(ValueError, match=message):
        SpectraRun("bad", **settings).run(tmp_path, progress=False)
