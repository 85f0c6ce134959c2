"""Spectra of one convolutional layer with its pooling: Gram matrices, published traces, norms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sphere_points import unit

from hilbertnet import Architecture, ConvKernel
from hilbertnet.architecture import ArcCosine, Exponential
from hilbertnet.complexity.effective_dimension import gram_spectrum
from hilbertnet.complexity.pooled_spectrum import pooled_spectrum
from hilbertnet.complexity.spectrum import mercer
from hilbertnet.complexity.zonal import absolute_power, activation, kernel_section


@pytest.mark.parametrize(
    ("text", "kind"),
    [("1 arccos1 gauss2/1", "ckn"), ("1 arccos1 gauss2", "ntk"), ("1 arccos1 global", "ckn"), ("1 exp(1) -", "ntk")],
)
def test_pooled_spectrum_is_that_of_gram_matrices(text, kind):
    arch = Architecture.parse(text, boundary="circular")
    n, p, positions = 600, 3, 4
    found = pooled_spectrum(arch, p, positions, 300, kind=kind)
    gram = ConvKernel(arch, kind=kind).gram(unit(0, n, p, positions))
    empirical = gram_spectrum(gram)
    assert np.trace(gram) / n == pytest.approx(found.trace, rel=0.01)
    assert empirical.eigenvalues[0] == pytest.approx(found.constant, rel=0.01)
    exact = found.eigenvalues(40)
    assert exact[0] == pytest.approx(found.constant, rel=1e-14)
    equal = 1 + int(np.isclose(exact[1:], exact[1]).sum())
    assert empirical.eigenvalues[1:equal].mean() == pytest.approx(exact[1], rel=0.08)
    lam = 0.05 * found.trace
    assert empirical.degrees_of_freedom(lam)[0] == pytest.approx(found.degrees_of_freedom(lam).lower[0], rel=0.02)


def test_pooling_reduces_the_trace_as_published():
    """``n ||h||^2 + eps n (1 - ||h||^2)`` on the torus; 1 + eps (n - 1) for a global mean, at n outputs."""
    n, eps = 16, float(mercer(Exponential(1.0), 5, 0).eigenvalues[0])
    flat = pooled_spectrum("1 exp(1) -", 5, n)
    assert flat.trace == pytest.approx(n, rel=1e-14)
    np.testing.assert_allclose(flat.gains, 1.0)
    blur = pooled_spectrum(Architecture.parse("1 exp(1) avg3/1", boundary="circular"), 5, n)
    assert blur.trace == pytest.approx(n / 3 + eps * n * (1 - 1 / 3), rel=1e-12)
    frequencies = np.abs(np.fft.fft(np.r_[1, 1, np.zeros(n - 3), 1] / 3)) ** 2
    np.testing.assert_allclose(blur.gains, np.sort(frequencies)[::-1], atol=1e-14)
    whole = pooled_spectrum("1 exp(1) global", 5, (4, 4))
    assert whole.trace * n == pytest.approx(1 + (n - 1) * eps, rel=1e-12)


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_norms_under_pooling(kind):
    """``K(., z)`` for a signal z of one patch w at all positions is ``sum_u (A' A 1)_u kappa(<x_u, w>)``."""
    arch = Architecture.parse("1 arccos1 gauss2", boundary="circular")
    found = pooled_spectrum(arch, 3, 6, 2000, kind=kind)
    weights = found.pooling.sum(1)
    exact = math.sqrt(found.pooling.sum() * found.spectrum.kernel.at_one)
    assert found.norm(kernel_section(ArcCosine(1), kind=kind), weights) == pytest.approx(exact, rel=1e-7)
    assert found.norm(absolute_power(2), np.r_[1, -1, 0, 0, 0, 0]) == math.inf  # stride 2 drops it
    assert found.norm(absolute_power(2), np.zeros(6)) == 0.0
    smooth = pooled_spectrum("1 arccos1 -", 3, 6, 2000, kind=kind)
    alternating = smooth.norm(absolute_power(2), np.array([1, -1, 1, -1, 1, -1]))
    assert alternating < smooth.norm(absolute_power(2), np.ones(6))  # the means cancel
    with pytest.raises(ValueError, match="^weights: expected 6 finite numbers"):
        found.norm(activation(1), [1.0, 2.0])


def test_bad_architectures_and_spaces():
    with pytest.raises(ValueError, match="^arch: expected an architecture of one layer"):
        pooled_spectrum("1 arccos1 - | 1 arccos1 -", 3, 4)
    with pytest.raises(ValueError, match="^space: expected one or two"):
        pooled_spectrum("1 arccos1 -", 3, 0)


def test_table_of_a_pooled_spectrum():
    assert "constant function" in str(pooled_spectrum("1 arccos1 gauss2", 3, 8))
