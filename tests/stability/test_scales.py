"""Scales in pixels of the input, against closed forms and against the impulse responses of the operators."""

import math

import pytest
import torch

from hilbertnet.architecture import Architecture, AveragePool, GaussianPool, GlobalPool, Subsample
from hilbertnet.architecture.operators import pool_features
from hilbertnet.stability.scales import PIXEL, filter_std, scales


def test_gaussian_poolings_have_the_declared_scale_times_the_strides_before():
    found = scales(Architecture.parse("3 exp(1) gauss2 | 5 exp(1) gauss6/3 | 3 exp(1) gauss2", sigma0=0.7))
    assert found.sigmas == pytest.approx([0.7, math.sqrt(2), 6 / math.sqrt(2) * 2, 2 / math.sqrt(2) * 6])
    assert [layer.step for layer in found.layers] == [1, 1, 2, 6]
    assert found.radii == pytest.approx([math.sqrt(2), 2 * math.sqrt(2) * 2, math.sqrt(2) * 6])
    assert found.gaussian


def test_beta_is_the_largest_ratio_of_a_radius_to_the_sigma_before():
    found = scales(Architecture.parse("3 exp(1) gauss2 | 7 exp(1) gauss2 | 3 exp(1) gauss2", sigma0=1.0))
    ratios = [r / s for r, s in zip(found.radii, found.sigmas, strict=False)]
    assert found.beta == pytest.approx(max(ratios))
    assert found.beta == pytest.approx(6.0)  # sqrt(2) * 3 * 2 / sqrt(2)
    assert found.beta_layer == 2
    assert scales("1 linear gauss2").beta == 0.0


def test_signals_have_one_axis():
    found = scales(Architecture.parse("5 exp(1) gauss2", sigma0=1.0), axes=1)
    assert found.radii == (2.0,)
    assert found.axes == 1


def test_lipschitz_constants_multiply():
    arch = Architecture.parse("3 exp(0.6) gauss2 | 3 poly2 - | 3 arccos1 gauss2")
    assert scales(arch).lipschitz == pytest.approx(math.sqrt(1 / 0.36) * math.sqrt(2))
    assert scales(arch).lipschitz == pytest.approx(arch.lipschitz)


@pytest.mark.parametrize("pool", [GaussianPool(1, 3), AveragePool(1, 5), AveragePool(1, 4), GaussianPool(1)])
def test_std_of_taps_is_that_of_the_impulse_response(pool):
    torus = Architecture.parse("1 linear -", boundary="circular")
    impulse = torch.zeros(1, 1, 41, dtype=torch.float64)
    impulse[0, 0, 20] = 1.0
    response = pool_features(impulse, pool, torus).flatten()
    at = torch.arange(41, dtype=torch.float64)
    mean = response @ at
    assert filter_std(pool) == pytest.approx(math.sqrt(response @ (at - mean) ** 2))


def test_variances_of_composed_filters_add_in_pixels_of_the_input():
    arch = Architecture.parse("1 linear gauss2 | 1 linear avg3 | 1 linear gauss4/2", boundary="circular")
    length = 241  # so that all windows are centred on pixels
    x = torch.eye(length, dtype=torch.float64).unsqueeze(1)
    for layer in arch.layers:
        x = pool_features(x, layer.pool, arch)
    filters = x[:, 0]  # column j is the filter of output j on the input's pixels
    middle = filters[:, filters.shape[1] // 2]
    at = torch.arange(length, dtype=torch.float64)
    mean = middle @ at
    variance = float(middle @ (at - mean) ** 2)
    assert math.sqrt(variance) == pytest.approx(math.hypot(*(layer.taps for layer in scales(arch).layers)))


def test_without_a_filter_a_pixel_stands_for_it_and_it_says_so():
    found = scales("3 exp(1) - | 3 exp(1) stride2 | 3 exp(1) avg2")
    assert [layer.source for layer in found.layers] == ["pixel", "pixel", "pixel", "taps"]
    assert found.sigmas[:3] == pytest.approx([PIXEL, PIXEL, PIXEL])
    assert found.layers[3].step == 2
    assert not found.gaussian
    assert "pixel's own square" in str(found)
    assert "pixel's own" not in str(scales(Architecture.parse("3 exp(1) gauss2", sigma0=1.0)))


def test_global_pooling_is_as_wide_as_what_it_pools():
    found = scales("3 exp(1) gauss2 | 3 exp(1) global", space=(16, 24))
    line = torch.arange(8, dtype=torch.float64)
    assert found.sigmas[-1] == pytest.approx(2 * float(line.std(correction=0)))
    assert filter_std(GlobalPool(), 8) == pytest.approx(float(line.std(correction=0)))
    assert filter_std(Subsample(3)) == 0.0


def test_the_table_is_aligned_and_names_its_unit():
    lines = str(scales(Architecture.parse("3 exp(1) gauss2 | 5 exp(0.6) gauss2", sigma0=1.0))).splitlines()
    assert lines[0] == "lengths in pixels of the input"
    assert lines[-1] == "beta = 4, attained by layer 2; product of the Lipschitz constants 1.67"
    ends = [line.rstrip() for line in lines[1:6]]
    assert len({len(line) for line in ends}) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scales(3), "arch: expected an Architecture or its text form, got 3"),
        (lambda: scales("3 exp(1) gauss2", axes=3), r"axes: expected 1 \(signals\) or 2 \(images\), got 3"),
        (lambda: scales("3 exp(1) global"), "space: expected the input's spatial shape, since layer 1 pools globally"),
        (lambda: scales("9 exp(1) global", space=(8, 8)), "layer 1: expected a patch of at most 8"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
