"""The designer's table: what it promises of each row is computed again from the row's own text."""

import itertools
import math

import pytest
import torch

from hilbertnet.architecture import Architecture, Exponential
from hilbertnet.stability.bound import stability_bound
from hilbertnet.stability.designer import design_table
from hilbertnet.stability.operators import identity, patches_after_pooling, pooling
from hilbertnet.stability.scales import scales


def test_rows_are_texts_that_parse_with_the_scales_and_bounds_they_claim():
    table = design_table(10.0, sigma0=1.5, gradient=0.2, displacement=2.0)
    assert len(table.rows) == 2 + 4 + 6
    for row in table.rows:
        arch = Architecture.parse(str(row.arch), sigma0=1.5)
        assert arch == row.arch
        assert str(row.arch) in str(table)
        assert row.scales == scales(arch)
        assert torch.equal(row.bound.value, stability_bound(arch, (0.2, 2.0)).value)


@pytest.mark.parametrize("sigma", [1.0, 3.0, 8.0, 25.0, 100.0])
def test_the_wanted_invariance_is_reached_and_not_much_overshot(sigma):
    for row in design_table(sigma, patches=[2, 3, 5, 9]).rows:
        reached = row.scales.sigmas[-1]
        window = row.arch.layers[-1].pool.window
        assert sigma <= reached * (1 + 1e-9)
        assert reached <= sigma * window / max(window - 1, 0.5)  # one pixel less would not do


def test_the_depth_is_the_logarithm_of_the_wanted_invariance():
    for stride in (2, 3):
        depths = [design_table(s, patches=[3], strides=[stride]).rows[0].scales.depth for s in (8.0, 64.0, 512.0)]
        steps = [b - a for a, b in itertools.pairwise(depths)]
        assert all(abs(step - math.log(8) / math.log(stride)) <= 1 for step in steps)


def test_designs_that_skip_positions_lose_the_signal_and_come_last():
    table = design_table(8.0, patches=[3], strides=[2, 3, 5])
    assert [row.keeps_signal for row in table.rows] == [True, True, False]
    assert table.rows[-1].stride == 5
    assert float(table.rows[0].bound.value) <= float(table.rows[1].bound.value)


def test_a_kernel_without_linear_functions_keeps_no_signal():
    assert not any(row.keeps_signal for row in design_table(4.0, kernel="poly2").rows)
    assert all(row.keeps_signal for row in design_table(4.0, kernel=Exponential(0.6)).rows)


def test_patches_are_tied_to_the_pooling_before():
    for row in design_table(30.0, patches=[3, 5]).rows:
        layers = row.scales.layers[1:]
        assert [layer.ratio for layer in layers[1:]] == pytest.approx([row.patch - 1] * (len(layers) - 1))


def test_what_an_output_sees_is_what_it_depends_on():
    row = design_table(3.0, patches=[3], strides=[2], axes=1, boundary="circular").rows[0]
    length = 4 * row.field_of_view + 1
    arch = Architecture.parse(str(row.arch), boundary="circular")  # without A_0
    chain = identity((length,))
    for layer in range(1, len(arch.layers) + 1):
        chain = patches_after_pooling(arch, layer, (length,)) @ chain
    chain = pooling(arch.layers[-1].pool, arch, arch.shapes((length,))[-1][0]) @ chain
    seen = chain(torch.eye(length, dtype=torch.float64).unsqueeze(1)).abs().sum(1).T  # (positions, pixels)
    assert int((seen > 0).sum(1).max()) in (row.field_of_view, row.field_of_view - 1)


def test_tangent_kernels_have_a_table_too():
    table = design_table(8.0, kernel="arccos1", kind="ntk", patches=[3])
    assert "sum of the proof" in str(table)
    ckn = design_table(8.0, kernel="arccos1", patches=[3])
    assert float(table.rows[0].bound.value) > float(ckn.rows[0].bound.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: design_table(0), "sigma: expected a finite number of pixels above 0, got 0"),
        (lambda: design_table(8.0, sigma0=math.nan), "sigma0: expected a finite number of pixels above 0, got nan"),
        (lambda: design_table(8.0, displacement=-1), "displacement: expected a finite number of pixels, 0 or more"),
        (lambda: design_table(8.0, gradient=0.6), "gradient: expected a number from 0 to 0.5, where the theorem"),
        (lambda: design_table(8.0, patches=[]), "patches: expected whole numbers of at least 1"),
        (lambda: design_table(8.0, patches=[1]), "patches: expected some patch of at least 2"),
        (lambda: design_table(8.0, strides=[1]), "strides: expected whole numbers of at least 2"),
        (lambda: design_table(8.0, kernel="expo(1)"), "unknown kernel 'expo'"),
        (lambda: design_table(8.0, kind="kcn"), "kind: expected 'ckn' or 'ntk'"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
