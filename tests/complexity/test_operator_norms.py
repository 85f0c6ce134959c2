"""Operator norms of convolutions and linear layers, against their dense matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertnet.complexity.convolutions import Convolution, convolution_norms
from hilbertnet.complexity.operator_norms import LinearMap, OperatorNorm, operator_norm, spectral_norm


def dense_matrix(layer: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix of a layer by what the layer itself gives at the unit vectors, less its value at 0."""
    size = math.prod(shape)
    with torch.no_grad():
        layer = layer.double()
        unit = torch.eye(size, dtype=torch.float64).view(size, *shape)
        return (layer(unit) - layer(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).T


def norm_of(matrix: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(matrix)[0])


@st.composite
def layers(draw):
    axes = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 2))
    patch = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    space = tuple(draw(st.integers(5, 7)) for _ in range(axes))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    same = draw(st.booleans())
    padding = "same" if same else tuple(draw(st.integers(0, 3)) for _ in range(axes))
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    layer = kind(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 3)),
        patch if axes > 1 else patch[0],
        stride=1 if same else stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )
    rng = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    nn.init.normal_(layer.weight, generator=rng)
    return layer.double(), space


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch copies its input there
@given(layers())
@settings(max_examples=100, deadline=None)
def test_any_convolution_against_its_dense_matrix(drawn):
    layer, space = drawn
    matrix = dense_matrix(layer, (layer.in_channels, *space))
    true, norms = norm_of(matrix), convolution_norms(layer, space)
    assert norms.operator.value == pytest.approx(true, rel=1e-6)
    assert norms.operator.certain
    for upper in (norms.operator.upper, norms.torus, norms.overlap, norms.schur):
        assert upper >= true * (1 - 1e-9)
    convolution = Convolution.of(layer, space)
    torch.testing.assert_close(convolution.map.dense(), matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(convolution.rows.flatten(), matrix.norm(dim=1), rtol=1e-9, atol=1e-9)
    iterated = operator_norm(convolution.map, dense=0)
    assert iterated.value <= true * (1 + 1e-9)
    assert iterated.upper >= true * (1 - 1e-9)
    assert iterated.value >= true / 1.011


@pytest.mark.parametrize(
    ("layer", "space"),
    [
        (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (7,)),
        (nn.Conv1d(2, 3, 5, padding=2, stride=2, padding_mode="circular"), (8,)),
        (nn.Conv2d(2, 4, (3, 5), padding=(1, 2), padding_mode="circular", groups=2), (6, 7)),
        (nn.Conv2d(2, 3, 3, padding=2, dilation=2, stride=(1, 3), padding_mode="circular"), (5, 6)),
        (nn.Conv2d(3, 2, 4, padding="same", padding_mode="circular"), (6, 5)),
        (nn.Conv2d(3, 2, 1, stride=2), (6, 4)),
    ],
)
def test_on_a_torus_the_fourier_norm_is_exact(layer, space):
    true = norm_of(dense_matrix(layer, (layer.in_channels, *space)))
    norms = convolution_norms(layer, space)
    assert norms.operator.method == "fourier"
    assert norms.operator.value == pytest.approx(true, rel=1e-12)
    assert norms.operator.upper >= true


def test_a_patch_larger_than_the_torus_wraps_around_it():
    torch.manual_seed(0)
    layer = nn.Conv1d(1, 1, 5, padding=2, padding_mode="circular").double()
    assert convolution_norms(layer, (3,)).operator.value == pytest.approx(
        norm_of(dense_matrix(layer, (1, 3))), rel=1e-12
    )


def test_lanczos_on_a_large_layer_is_between_its_bounds_and_near():
    layer = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    norm = convolution_norms(layer, (12, 12), tolerance=0.01).operator
    assert norm.method == "lanczos"
    assert norm.value <= norm.upper <= 1.01 * norm.value
    true = norm_of(Convolution.of(layer, (12, 12)).map.dense())
    assert norm.value <= true * (1 + 1e-12)
    assert true <= norm.upper
    loose = operator_norm(Convolution.of(layer, (12, 12)).map, tolerance=0.2)
    assert not loose.certain
    assert loose.products < norm.products
    assert loose.value <= true <= loose.upper <= 1.2 * loose.value


def test_the_reshaped_norm_is_another_quantity():
    """Averaging over a patch of 9 pixels: reshaped norm 1/3 but operator norm near 1."""
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(layer.weight, 1 / 9)
    norms = convolution_norms(layer, (24, 24))
    assert norms.reshaped == pytest.approx(1 / 3, rel=1e-6)
    assert 0.98 < norms.operator.value < 1
    # and it may be the larger one: with a stride of the patch, each pixel is seen once, by one of the filters
    layer = nn.Conv1d(1, 2, 2, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    norms = convolution_norms(layer, (7,))
    assert norms.operator.value == pytest.approx(norms.reshaped, rel=1e-12)
    assert norms.overlap == pytest.approx(2.0)


def test_linear_layers_and_their_text():
    torch.manual_seed(1)
    layer = nn.Linear(6, 4)
    norms = convolution_norms(layer)
    true = norm_of(layer.weight.double().detach())
    assert norms.operator.value == pytest.approx(true, rel=1e-12)
    assert norms.reshaped == pytest.approx(true, rel=1e-12)
    assert str(norms).splitlines()[0].split() == ["norm", "value", "what", "it", "is"]


def test_zero_map_and_closed_span():
    zero = operator_norm(LinearMap(lambda x: 0 * x, (5,)), dense=0)
    assert (zero.value, zero.upper, zero.gap) == (0.0, 0.0, 0.0)
    two = operator_norm(LinearMap(lambda x: torch.cat([3 * x[:, :2], x[:, 2:]], 1), (5,)), dense=0)
    assert two.certain
    assert two.value == pytest.approx(3.0, rel=1e-12)
    assert two.products == 2


def test_a_batch_of_matrices_and_an_empty_one():
    matrices = torch.stack([torch.eye(3), 2 * torch.eye(3)]).double()
    assert spectral_norm(matrices) == pytest.approx(2.0)
    assert spectral_norm(torch.zeros(0, 3)) == 0.0
    assert "lanczos, 7 products" in str(OperatorNorm(1.0, 1.1, "lanczos", False, 7, 1e-3))


def test_bad_input():
    conv = nn.Conv2d(1, 1, 3)
    with pytest.raises(ValueError, match=r"^layer: expected an nn.Conv1d"):
        convolution_norms(nn.ReLU(), (3, 3))
    with pytest.raises(ValueError, match=r"^space: expected 2 positive whole numbers, got \(3,\)"):
        convolution_norms(conv, (3,))
    with pytest.raises(ValueError, match=r"^space: too small"):
        convolution_norms(conv, (2, 2))
    with pytest.raises(ValueError, match=r"^tolerance: "):
        convolution_norms(nn.Linear(2, 2), tolerance=1.0)
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(ValueError, match=r"^layer: expected real and finite"):
        convolution_norms(broken)
    with pytest.raises(ValueError, match=r"^operator: expected finite"):
        operator_norm(LinearMap(lambda x: x / 0, (2,)))
