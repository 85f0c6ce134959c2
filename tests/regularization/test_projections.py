"""Constraints on the weights: against dense decompositions of the weights and of the maps that they make."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from hilbertnet.regularization.projections import OperatorProjection, SpectralProjection
from hilbertnet.states import load_state, save_state

X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TERMS = [SpectralProjection, OperatorProjection]


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def network(scale=3.0, dtype=torch.float32):
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, padding_mode="circular"),
        nn.Conv2d(6, 6, 3, padding="same", padding_mode="reflect"),
        nn.Dropout(),
        nn.ConvTranspose2d(6, 2, 3, stride=2, output_padding=1),
        nn.Flatten(),
        nn.Linear(200, 4),
    ).to(dtype)
    with torch.no_grad():
        for layer in layers(model):
            layer.weight *= scale
    return model


def layers(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]


def matrix(layer):
    weight = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = np.stack([weight[:, i] for i in range(weight.shape[1])])
    return weight.reshape(len(weight), -1)


def singular_values(layer):
    return np.linalg.svd(matrix(layer), compute_uv=False)


def clipped(found, tau):
    u, s, vt = np.linalg.svd(found, full_matrices=False)
    return u * np.minimum(s, tau) @ vt


def dense_norm(layer, shape):
    """Norm of the layer's matrix on inputs of a shape, which is made of what it does to each unit vector."""
    plain = copy.deepcopy(layer).double()
    plain.bias = None
    size = math.prod(shape)
    with torch.no_grad():
        return float(torch.linalg.matrix_norm(plain(torch.eye(size).double().view(size, *shape)).flatten(1), 2))


def grids(model):
    """Norm of every layer on the grid that it sees."""
    x, found = X[:1].to(model[0].weight.dtype), []
    for layer in copy.deepcopy(model).eval():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            found.append(dense_norm(layer, x.shape[1:]))
        x = layer(x).detach()
    return found


# --- singular values of the reshaped filters


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_singular_values_are_clipped_as_by_a_dense_decomposition(dtype, rel):
    model = network(dtype=dtype)
    before = [matrix(layer) for layer in layers(model)]
    tau = 1.1
    SpectralProjection(tau, 0).bind(X).project_(model, 0)
    moved = 0
    for layer, old in zip(layers(model), before, strict=True):
        assert singular_values(layer)[0] <= tau * (1 + rel)
        np.testing.assert_allclose(matrix(layer), clipped(old, tau), atol=rel)
        moved += np.linalg.norm(old, 2) > tau
    assert moved >= 5


def test_a_second_projection_changes_nothing():
    for dtype in (torch.float32, torch.float64):
        model, constraint = network(dtype=dtype), SpectralProjection(0.7, None).bind(X)
        constraint.project_(model, 0)
        before = copy.deepcopy(model.state_dict())
        constraint.project_(model, 0)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_inside_stay_as_they_are_to_the_bit():
    model = network()
    before = copy.deepcopy(model.state_dict())
    SpectralProjection(max(singular_values(layer)[0] for layer in layers(model)), 0).bind(X).project_(model, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("ratio", [1e2, 1e6, 1e9])
def test_singular_values_of_very_different_size(ratio):
    u, v = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for n in (6, 9))
    layer = nn.Linear(9, 6).double()
    layer.weight.data = u * torch.tensor([ratio, 1.5, 1.1, 0.9, 1e-3, 0.0]).double() @ v[:6]
    SpectralProjection(1.0, 0).bind(X).project_(layer, 0)
    expected = u * torch.tensor([1, 1, 1, 0.9, 1e-3, 0]).double() @ v[:6]
    assert singular_values(layer)[0] <= 1 + 1e-10
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-15 * ratio + 1e-10)


def test_the_published_schedule():
    term = SpectralProjection(0.5, kappa=3)
    for epoch in (0, 1, 7, 50):
        layer = nn.Linear(8, 8)
        layer.weight.data *= 100
        term.bind(X).project_(layer, epoch)
        assert singular_values(layer)[0] == pytest.approx(0.5 * (1 + 4 * math.exp(-epoch / 3)), rel=1e-5)
    assert SpectralProjection(0.5).radius(2) == pytest.approx(0.5 * (1 + 4 / math.e))
    assert SpectralProjection(0.5, None).radius(0) == SpectralProjection(0.5, 0).radius(0) == 0.5


@pytest.mark.parametrize("kind", TERMS)
def test_single_layers_have_radii_of_their_own(kind):
    model = network(30.0)
    before = model[3].weight.detach().clone()
    term = kind(0.5, 0, {"0": 2.0, "3": math.inf})
    term.bind(X).project_(model, 0)
    norms = [singular_values(layer)[0] for layer in layers(model)] if kind is SpectralProjection else grids(model)
    assert norms[0] == pytest.approx(2, rel=2e-4)
    assert torch.equal(model[3].weight, before)
    np.testing.assert_allclose(norms[2:], 0.5, rtol=2e-4)
    assert term == kind(0.5, 0, "3:inf, 0:2") == kind(0.5, 0, {"3": math.inf, "0": 2})
    assert hash(term) == hash(kind(0.5, 0, " 0:2,3 : inf"))


def test_layers_of_one_shape_are_projected_as_each_alone():
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    for number, layer in enumerate(model):
        layer.weight.data *= 3.0**number
    expected = [clipped(matrix(layer), tau) for layer, tau in zip(model, (1.5, 1.5, 0.2, 1.5), strict=True)]
    SpectralProjection(1.5, 0, {"2": 0.2}).bind(X).project_(model, 0)
    for layer, weight in zip(model, expected, strict=True):
        np.testing.assert_allclose(matrix(layer), weight, atol=1e-6)


# --- norms of the layers as linear maps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_are_brought_to_the_bound_on_their_grids(dtype):
    model = network(dtype=dtype)
    old, weights = grids(model), [layer.weight.detach().clone() for layer in layers(model)]
    tau = sorted(old)[1] * 1.01
    OperatorProjection(tau, 0).bind(X).project_(model, 0)
    for layer, norm, before, weight in zip(layers(model), grids(model), old, weights, strict=True):
        assert norm <= tau * (1 + 1e-5)
        assert norm == pytest.approx(min(before, tau), rel=2e-4)
        if not isinstance(layer, nn.Linear):
            torch.testing.assert_close(layer.weight, weight * min(1, norm / before), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(matrix(model[-1]), clipped(weights[-1].double().numpy(), tau), atol=1e-6)


def test_a_second_operator_projection_changes_nothing():
    model, constraint = network(), OperatorProjection(0.7, 0).bind(X, 0)
    constraint.project_(model, 0)
    before = copy.deepcopy(model.state_dict())
    for other in (constraint, OperatorProjection(0.7, 0).bind(X, 1)):
        other.project_(model, 0)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_operators_stay_at_the_bound_while_weights_move():
    model, constraint = network(), OperatorProjection(1.0, 0).bind(X, 0)
    for _ in range(4):
        with torch.no_grad():
            for layer in layers(model):
                layer.weight += 0.02 * torch.randn_like(layer.weight)
        constraint.project_(model, 0)
        np.testing.assert_array_less(grids(model), 1 + 1e-5)


def test_a_large_convolution_against_certified_bounds():
    from hilbertnet.complexity.convolutions import convolution_norms

    layer = nn.Conv2d(4, 8, 5, padding=2)
    layer.weight.data *= 9
    OperatorProjection(1.0, 0).bind(torch.rand(1, 4, 16, 16), 0).project_(layer, 0)
    norm = convolution_norms(layer, (16, 16), tolerance=1e-3).operator
    assert norm.value <= 1 + 1e-4
    assert norm.upper >= 1 - 1e-4


def test_a_weight_used_on_two_grids_is_bounded_on_both():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(layer, nn.AvgPool2d(2), layer)
    layer.weight.data *= 9
    constraint = OperatorProjection(1.0, 0).bind(X, 0)
    constraint.project_(model, 0)
    assert max(dense_norm(layer, (3, 8, 8)), dense_norm(layer, (3, 4, 4))) == pytest.approx(1, rel=1e-4)
    assert len(constraint.state_dict()["vectors"]) == 2


def test_other_axes():
    for layer, shape in [(nn.Conv1d(2, 3, 5, stride=3), (2, 31)), (nn.ConvTranspose1d(2, 3, 5, padding=2), (2, 9))]:
        layer.weight.data *= 20
        OperatorProjection(1.0, 0).bind(torch.rand(1, *shape), 0).project_(layer, 0)
        assert dense_norm(layer, shape) == pytest.approx(1, rel=1e-4)
    layer = nn.Conv3d(1, 2, 2)
    layer.weight.data *= 20
    OperatorProjection(1.0, 0).bind(torch.rand(1, 1, 4, 4, 4), 0).project_(layer, 0)
    assert dense_norm(layer, (1, 4, 4, 4)) == pytest.approx(1, rel=1e-4)


def test_the_state_goes_through_a_file(tmp_path):
    model, constraint = network(), OperatorProjection(1.0).bind(X, 0)
    for epoch in range(2):
        constraint.project_(model, epoch)
    save_state(tmp_path / "state", constraint.state_dict(), "constraint")
    other, twin = OperatorProjection(1.0).bind(X, 7), copy.deepcopy(model)
    other.load_state_dict(load_state(tmp_path / "state", "constraint"))
    for one, net in ((constraint, model), (other, twin)):
        one.project_(net, 30)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert SpectralProjection(1.0).bind(X).state_dict() == {}


# --- both


@pytest.mark.parametrize("kind", TERMS)
def test_all_but_the_weights_is_left_as_it_was(kind):
    model = network().train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    kind(0.5, 0).bind(X, 0).project_(model, 0)
    assert all(p.grad is None for p in model.parameters())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert [m.training for m in model] == [number != 1 for number in range(10)]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{number}.weight" for number in (0, 3, 4, 5, 7, 9)}
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", TERMS)
def test_shared_weights_are_projected_once(kind):
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.weight = first.weight
    first.weight.data *= 5
    kind(1.0, 0, "1:0.5").bind(X, 0).project_(nn.Sequential(first, second), 0)
    norm = singular_values(first)[0] if kind is SpectralProjection else dense_norm(first, (3, 8, 8))
    assert norm == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(ValueError, match=r"^radii: expected one for 0 and 1, which share a weight"):
        kind(1.0, 0, "0:1, 1:0.5").bind(X, 0).project_(nn.Sequential(first, second), 0)


@pytest.mark.parametrize("kind", TERMS)
def test_zero_weights_and_weights_that_are_not_finite_stay(kind):
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    nn.init.zeros_(model[0].weight)
    model[1].weight.data[0, 0, 0, 0] = math.nan
    model[2].weight.data *= 9
    before = model[1].weight.detach().clone()
    kind(1.0, 0).bind(X, 0).project_(model, 0)
    assert not model[0].weight.any()
    torch.testing.assert_close(model[1].weight.detach(), before, rtol=0, atol=0, equal_nan=True)
    assert torch.isfinite(model[2].weight).all()


@pytest.mark.parametrize("kind", TERMS)
def test_autocast_plays_no_part(kind):
    plain, cast = network(), network()
    cast.load_state_dict(plain.state_dict())
    kind(0.5, 0).bind(X, 0).project_(plain, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kind(0.5, 0).bind(X, 0).project_(cast, 0)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), cast.parameters(), strict=True))


def test_parametrized_weights_are_projected_if_they_can_be():
    layer = nn.Linear(5, 4).double()
    layer.weight.data *= 9
    expected = clipped(matrix(layer), 1.0)
    parametrizations.weight_norm(layer)
    SpectralProjection(1.0, 0).bind(X).project_(layer, 0)
    np.testing.assert_allclose(matrix(layer), expected, atol=1e-9)
    normed = parametrizations.spectral_norm(nn.Linear(5, 4))
    before = copy.deepcopy(normed.state_dict())
    SpectralProjection(1.5, 0).bind(X).project_(normed, 0)
    with pytest.raises(ValueError, match=r"^model: the parametrization of .*weight cannot take the weight"):
        SpectralProjection(0.5, 0).bind(X).project_(normed, 0)
    assert all(torch.equal(value, before[name]) for name, value in normed.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on import of its compiler
@pytest.mark.parametrize("kind", TERMS)
def test_compiled_models(kind):
    model = network()
    compiled, plain = torch.compile(model), copy.deepcopy(model)
    out = compiled(X)
    kind(0.5, 0, "0:0.3").bind(X, 0).project_(compiled, 0)
    kind(0.5, 0, "0:0.3").bind(X, 0).project_(plain, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert compiled(X).std() < out.std()


# --- bad input


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 0.0}, "tau: expected a finite number above 0, got 0.0"),
        ({"tau": math.nan}, "tau: expected a finite number above 0, got nan"),
        ({"tau": "1"}, "tau: expected a finite number above 0, got '1'"),
        ({"tau": 1.0, "kappa": -1}, "kappa: expected a finite number of at least 0, got -1"),
        ({"tau": 1.0, "radii": "fc"}, "radii: expected numbers above 0 by layers' names"),
        ({"tau": 1.0, "radii": "fc:0"}, "radii: expected numbers above 0"),
        ({"tau": 1.0, "radii": "fc:1, fc:2"}, "radii: expected numbers above 0"),
        ({"tau": 1.0, "radii": {"fc": -1}}, "radii: expected numbers above 0"),
        ({"tau": 1.0, "radii": {}}, "radii: expected numbers above 0"),
        ({"tau": 1.0, "radii": 3}, "radii: expected numbers above 0"),
    ],
)
def test_bad_arguments(kind, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        kind(**arguments)


@pytest.mark.parametrize("kind", TERMS)
def test_bad_models(kind):
    constraint = kind(1.0).bind(X, 0)
    with pytest.raises(ValueError, match=r"^model: expected convolutions or linear layers of torch.nn"):
        constraint.project_(nn.ReLU(), 0)
    with pytest.raises(
        ValueError, match=r"^model: expected weights in float32 or float64, and 0.weight is in torch.bf"
    ):
        constraint.project_(network(dtype=torch.bfloat16), 0)
    with pytest.raises(
        ValueError, match=r"^radii: the model has no convolution or linear layer '33'; did you mean '3'"
    ):
        kind(1.0, radii="33:2").bind(X, 0).project_(network(), 0)
    for epoch in (-1, 0.5, True):
        with pytest.raises(ValueError, match=r"^epoch: expected a whole number"):
            constraint.project_(network(), epoch)
    with pytest.raises(ValueError, match=r"^state: expected"):
        constraint.load_state_dict({"u": 1})


def test_bad_tolerance_and_layers_out_of_reach():
    for bad in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"^tolerance: expected"):
            OperatorProjection(1.0, tolerance=bad)
    model = network()
    model.append(nn.Identity())
    model[-1].unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^model: its forward pass does not reach 10.unused, .*radii='10.unused:inf'"):
        OperatorProjection(1.0).bind(X, 0).project_(model, 0)
    OperatorProjection(1.0, radii="10.unused:inf").bind(X, 0).project_(model, 0)
