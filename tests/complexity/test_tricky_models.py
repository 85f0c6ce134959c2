"""Models made to mislead the bounds: no Jacobian, and no exact RKHS norm, may be above what is said of them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from hilbertnet.architecture import Exponential, Linear
from hilbertnet.complexity.convolutions import convolution_norms
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_above import norm_bounds
from hilbertnet.complexity.pooled_spectrum import pooled_spectrum


class Function(nn.Module):
    """A forward pass given as a function of the linear layer and the input."""

    def __init__(self, forward, layer=None) -> None:
        super().__init__()
        self.layer, self.run = layer if layer is not None else nn.Identity(), forward

    def forward(self, x):
        return self.run(self.layer, x)


def linear(*rows) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def slopes(model: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """The largest spectral norm and the largest row of absolute values of Jacobians at random points."""
    rng, largest, row = torch.Generator().manual_seed(0), 0.0, 0.0
    for scale in (0.1, 1.0, 5.0):
        for _ in range(6):
            x = scale * torch.randn(1, *shape, generator=rng, dtype=torch.float64)
            found = torch.autograd.functional.jacobian(lambda x: model(x)[0], x).flatten(1)
            largest = max(largest, float(torch.linalg.matrix_norm(found, 2)))
            row = max(row, float(found.abs().sum(1).max()))
    return largest, row


def through_view(layer, x):
    h = layer(x)
    h.view(-1, 3).mul_(3)
    return h


def through_slice(layer, x):
    h = layer(x)
    h[:, 1:].mul_(30)
    return h


def view_before(layer, x):
    h = layer(x)
    view = h.view(-1, 3)
    h.mul_(9)
    return view


def into_constant(layer, x):
    h = torch.zeros(1, 3, dtype=x.dtype)
    h.add_(x * 7)
    return x + h


def part_of_constant(layer, x):
    h = torch.zeros(1, 3, dtype=x.dtype)
    h[:, :1].add_(x[:, :1] * 7)
    return x + h


TRICKS = {
    "softmax mixes entries": (nn.Sequential(linear([0.0], [100.0]), nn.Softmax(1), linear([1.0, 0.0])), (1,)),
    "bounds of another shape": (
        Function(lambda layer, x: torch.clamp(x, min=-50 * torch.ones(5, 4, dtype=x.dtype)).flatten(1)), (1, 4),
    ),
    "celu with negative alpha": (nn.CELU(-2.0), (3,)),
    "in place through a view": (Function(through_view, nn.Linear(3, 3)), (3,)),
    "in place through a slice": (Function(through_slice, nn.Linear(3, 3)), (3,)),
    "in place under a view": (Function(view_before, nn.Linear(3, 3)), (3,)),
    "in place into a constant": (Function(into_constant), (3,)),
    "in place into a part of a constant": (Function(part_of_constant), (3,)),
    "noise as a factor": (Function(lambda layer, x: x * (3 + torch.rand(1))), (4,)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_no_jacobian_of_a_tricky_model_is_above_its_bounds(name):
    model, shape = TRICKS[name]
    bounds = norm_bounds(model.double().eval(), shape)
    largest, row = slopes(model, shape)
    assert largest <= bounds.lipschitz.value * (1 + 1e-9)
    assert row <= bounds.lipschitz_sup.value * (1 + 1e-9)
    assert math.isfinite(bounds.lipschitz.value) or bounds.unbounded


def test_what_jumps_has_no_lipschitz_constant():
    rounded = Function(lambda layer, x: torch.div(x, 0.5, rounding_mode="floor"))
    for model in (rounded, nn.Softplus(1.0, 0.5)):
        assert norm_bounds(model.eval(), (3,)).lipschitz.value == math.inf


def test_what_is_changed_in_place_before_all_views_is_followed():
    plain, chained = nn.Sequential(nn.Linear(3, 3), nn.Dropout(inplace=True), nn.ReLU(inplace=True)), nn.Linear(3, 3)
    assert math.isfinite(norm_bounds(plain.eval(), (3,)).lipschitz.value)
    model = Function(lambda layer, x: layer(x).mul_(3).add_(1), chained).double().eval()
    assert norm_bounds(model, (3,)).lipschitz.value == pytest.approx(slopes(model, (3,))[0], rel=1e-9)


def test_channels_and_positions_are_told_apart_in_the_recursion():
    """A row of two positions is no map of two channels: with the weights 1 and -1 their sum would vanish."""
    first, second, head = nn.Conv2d(1, 1, 1, bias=False), nn.Conv1d(2, 1, 1, bias=False), nn.Linear(3, 1, bias=False)
    second.weight.data = torch.tensor([[[1.0], [-1.0]]])
    rows = Function(
        lambda layer, x: layer[2](layer[1](layer[0](x).squeeze(1)).flatten(1)), nn.ModuleList((first, second, head))
    )
    flat = Function(
        lambda layer, x: layer[1](layer[0](x).flatten(1).unsqueeze(-1)).flatten(1),
        nn.ModuleList((nn.Conv1d(1, 1, 1, bias=False), second)),
    )
    for model, shape, reason in ((rows, (1, 2, 3), "moves entries"), (flat, (1, 2), "takes positions for channels")):
        bounds = norm_bounds(model.eval(), shape, kernel=Linear())
        assert bounds.rkhs.gram == math.inf
        assert reason in bounds.rkhs.reason
        assert math.isfinite(bounds.lipschitz.value)


def test_rows_read_as_signals():
    conv, head = nn.Conv1d(1, 1, 1, bias=False), nn.Linear(4, 1, bias=False)
    model = Function(lambda layer, x: layer[1](layer[0](x.unsqueeze(1)).flatten(1)), nn.ModuleList((conv, head)))
    found = norm_bounds(model.eval(), (4,), kernel=Linear()).rkhs.gram
    assert found == pytest.approx((conv.weight.norm() * head.weight.norm()).item(), rel=1e-6)


def patches(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """All patches of signals over the square root of their size, one unit filter after the other."""
    size = conv.kernel_size[0]
    units = torch.eye(x.shape[1] * size, dtype=x.dtype).view(-1, x.shape[1], size)
    return functional.conv1d(x, units, None, conv.stride, conv.padding, conv.dilation) / math.sqrt(size)


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 0, 1, 2), (2, 2, 2, 1)])
def test_linear_networks_against_the_pseudo_inverse_of_their_features(stride, padding, dilation, groups):
    """The exact norm of f = <w, .> in the RKHS of K = <A ., A .> is that of the shortest g with A' g = w."""
    torch.manual_seed(stride + padding)
    first = nn.Conv1d(2, 4, 3, stride, padding, dilation, groups, bias=False)
    second, pool = nn.Conv1d(4, 3, 2, padding=1, bias=False), nn.AvgPool1d(2, 1)
    model = nn.Sequential(first, pool, second, nn.Flatten(), nn.LazyLinear(1, bias=False))
    model(torch.zeros(1, 2, 9))
    model = model.double().eval()
    basis = torch.eye(18, dtype=torch.float64).view(18, 2, 9)
    features = patches(second, pool(patches(first, basis))).flatten(1)
    weights = model(basis)[:, 0].detach()
    shortest = torch.linalg.pinv(features) @ weights
    torch.testing.assert_close(features @ shortest, weights)
    bounds = norm_bounds(model, (2, 9), kernel=Linear()).rkhs
    assert float(shortest.norm()) <= bounds.gram <= bounds.spectral * (1 + 1e-9)
    assert bounds.gram <= bounds.filters * (1 + 1e-9)


def test_activations_with_the_defaults_of_their_modules_are_known():
    def norm(activation):
        return norm_bounds(nn.Sequential(linear([0.3, 0.4]), activation, linear([1.0])).eval(), (2,)).rkhs

    assert math.isfinite(norm(nn.Softplus()).gram)
    assert "with options" in norm(nn.Softplus(2.0)).reason or "no Taylor series" in norm(nn.Softplus(2.0)).reason
    assert norm(nn.ELU()).reason.endswith("(elu has no Taylor series at 0)")


def test_the_exponential_is_in_the_rkhs_and_not_lipschitz():
    """Exp on the exponential kernel of alpha = 1: C^2(L) = sum_j e L^j / j! = e^(1 + L)."""
    model = Function(
        lambda layer, x: layer[1](torch.exp(layer[0](x))), nn.ModuleList((linear([0.3, 0.4]), linear([1.0])))
    )
    bounds = norm_bounds(model.eval(), (2,), kernel=Exponential(1.0))
    assert bounds.rkhs.gram == pytest.approx(math.exp((1 + 0.25) / 2), rel=1e-7)
    assert bounds.lipschitz.value == math.inf
    assert "exp" in bounds.lipschitz.reason


def test_spaces_are_any_sequences():
    """Lists too; a number alone has no axes for images."""
    layer = nn.Conv2d(1, 1, 3)
    assert convolution_norms(layer, [6, 6]).operator == convolution_norms(layer, (6, 6)).operator
    assert pooled_spectrum("1 arccos1 gauss2", 3, [6]).trace == pooled_spectrum("1 arccos1 gauss2", 3, 6).trace
    for call in (lambda: embedding_lipschitz("3 arccos1 -", 8), lambda: embedding_lipschitz("3 arccos1 -", (8, 0))):
        with pytest.raises(ValueError, match="space: expected height and width"):
            call()


@pytest.mark.parametrize("shape", [3, None, "3"])
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match="input_shape: expected"):
        norm_bounds(nn.Linear(3, 3).eval(), shape)
