"""What ``hilbertnet spectrum`` prints, draws and refuses."""

from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from hilbertnet.cli import app
from hilbertnet.complexity.spectrum import mercer
from hilbertnet.experiments.spectra import decay_panel, spectra


def run(*arguments):
    return CliRunner().invoke(app, ["spectrum", *arguments])


def test_eigenvalues_of_both_kernels_are_printed_with_decay_trace_and_degrees_of_freedom(tmp_path):
    picture = tmp_path / "decay.svg"
    done = run(
        "arccos1", "--kind", "both", "--dimension", "3", "--degrees", "30", "--lam", "0.1,0.01", "--out", str(picture)
    )
    assert done.exit_code == 0, done.output
    text = done.output
    assert "arccos1 (ckn) on S^2" in text
    assert "arccos1 (ntk) on S^2" in text
    for value in ("0.02344", "0.07812", "0.3333"):  # mu_2 of both, mu_1 of the tangent kernel: 3/128, 5/64, 1/3
        assert value in text
    assert text.count("fitted: even degrees") == 2
    assert "kappa(1) = 2" in text
    assert text.count("N(lambda) at least") == 2
    ElementTree.parse(picture)


def test_layers_stand_for_a_stack():
    (found,) = spectra("arccos1 | exp(0.6)", 5, 6, "ckn")
    expected = mercer("1 arccos1 - | 1 exp(0.6) -", 5, 6)
    np.testing.assert_array_equal(found.spectrum.eigenvalues, expected.eigenvalues)


def test_the_picture_leaves_out_what_is_zero():
    (first,), (second,) = (spectra(kernel, 4, 9, "ckn") for kernel in ("arccos1", "exp(0.6)"))
    panel = decay_panel({"first": (first.logs, first.spectrum.predicted), "second": (second.logs, None)}, 4)
    assert panel.curves[0].x == (1, 2, 4, 6, 8)
    assert panel.slope == -6
    np.testing.assert_allclose(panel.curves[1].y, mercer("1 exp(0.6) -", 4, 9).eigenvalues[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arcos1"], "did you mean 'arccos1'"),
        (["arccos1", "--dimension", "1"], "p: expected a whole number of at least 2"),
        (["arccos1", "--kind", "ntkk"], "did you mean 'ntk'"),
        (["arccos0", "--kind", "ntk"], "needs a finite kappa'(1)"),
        (["arccos1", "--lam", "a"], "lam: expected numbers"),
        (["arccos1", "--lam", "-1"], "lam: "),
        (["arccos1", "--degrees", "-1"], "degrees: "),
        (["arccos1", "--out", "x.txt"], "out: expected a file that ends in .svg"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    done = run(*arguments)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
