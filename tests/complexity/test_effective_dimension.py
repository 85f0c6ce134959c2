"""Degrees of freedom, on the sphere and of Gram matrices, and the two spectra side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sphere_points import unit

from hilbertnet import ConvKernel
from hilbertnet.architecture import ArcCosine
from hilbertnet.complexity.effective_dimension import compare_spectra, degrees_of_freedom, gram_spectrum
from hilbertnet.complexity.spectrum import mercer


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_gram_matrices_have_the_same_spectrum(kind):
    gram = ConvKernel("1 arccos1 -", kind=kind).gram(unit(0, 800, 4))
    found, exact = gram_spectrum(gram), mercer(ArcCosine(1), 4, 2000, kind=kind)
    assert found.eigenvalues.sum() == pytest.approx(exact.kernel.at_one, rel=1e-7)
    assert found.eigenvalues[0] == pytest.approx(exact.eigenvalues[0], rel=0.02)
    assert found.eigenvalues[1:5].mean() == pytest.approx(exact.eigenvalues[1], rel=0.02)
    assert found.eigenvalues[5:14].mean() == pytest.approx(exact.eigenvalues[2], rel=0.02)
    bounds = degrees_of_freedom(exact, [0.1, 0.01])
    assert (bounds.lower <= bounds.upper).all()
    np.testing.assert_allclose(found.degrees_of_freedom([0.1, 0.01]), bounds.lower, rtol=0.03)
    assert "N(p, k)" in compare_spectra(exact, found)


def test_degrees_of_freedom_of_a_gram_matrix_are_a_trace():
    x = np.random.RandomState(0).standard_normal((30, 5))
    gram, lam = x @ x.T, 0.07
    hat = gram @ np.linalg.inv(gram + 30 * lam * np.eye(30))
    found = gram_spectrum(gram)
    assert found.degrees_of_freedom(lam) == pytest.approx([np.trace(hat)], rel=1e-10)
    np.testing.assert_allclose(found.leverage(lam), 30 * np.diag(hat), rtol=1e-8, atol=1e-12)
    assert found.leverage(lam).mean() == pytest.approx(np.trace(hat), rel=1e-10)


def test_degrees_of_freedom_between_their_bounds():
    """A short spectrum's bounds hold a long one's value, and mu / (mu + lambda) by hand."""
    short, long = (mercer(ArcCosine(1), 3, last, kind="ntk") for last in (20, 20_000))
    lam = np.array([1.0, 1e-2, 1e-4])
    found, exact = degrees_of_freedom(short, lam), degrees_of_freedom(long, lam)
    assert (found.lower < exact.lower).all()
    assert (exact.upper < found.upper).all()
    counts = np.array(short.multiplicities)
    by_hand = [(counts * short.eigenvalues / (short.eigenvalues + value)).sum() for value in lam]
    np.testing.assert_allclose(found.lower, by_hand, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.ones(4), np.array([[1.0, 2.0], [0.0, 1.0]]), -np.eye(3)])
def test_no_gram_matrix(bad):
    with pytest.raises(ValueError, match="^gram: expected"):
        gram_spectrum(bad)
    with pytest.raises(ValueError, match="^gram: expected finite"):
        gram_spectrum(np.full((2, 2), np.nan))


@pytest.mark.parametrize("lam", [0, -1.0, math.nan, math.inf, "1", [], [0.1, 0.0]])
def test_no_lambda(lam):
    spectrum = mercer(ArcCosine(1), 3, 5)
    with pytest.raises(ValueError, match="^lam: expected"):
        degrees_of_freedom(spectrum, lam)
    with pytest.raises(ValueError, match="^lam: expected"):
        gram_spectrum(np.eye(3)).degrees_of_freedom(lam)


def test_tables_of_degrees_of_freedom():
    assert "at most" in str(degrees_of_freedom(mercer(ArcCosine(1), 3, 50), 0.1))
    assert "largest leverage" in str(gram_spectrum(np.eye(3)))
