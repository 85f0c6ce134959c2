"""Norms of networks from above: against dense matrices, Jacobians, sums over paths, and exact RKHS norms."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hilbertnet.architecture import Architecture, Exponential, InversePolynomial, Linear, Power, Vovk
from hilbertnet.complexity.activations import as_activation, polynomial
from hilbertnet.complexity.graph import trace
from hilbertnet.complexity.norms_above import norm_bounds
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks.cnn import ckn_like, mnist_net, resnet, vgg


def seeded(model: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """The model in evaluation mode and double precision, all its parameters and running means drawn anew."""
    rng = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=rng, dtype=torch.float64))
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=rng, dtype=torch.float64) + 0.1)
    return model


def jacobian(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda x: model(x[None])[0], x).flatten(1)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Linear(6, 2)

    def forward(self, x):
        x = torch.cat([self.left(x).relu(), -self.right(x)], dim=1)
        return self.head(x.mean((2, 3)))


NETWORKS = {
    "mlp": (nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3)), (3, 4)),
    "strides": (
        nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 2)
        ),
        (2, 4, 4),
    ),
    "pools": (
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding="same"),
            nn.LeakyReLU(2.0),
            nn.MaxPool2d(3, 2, padding=1),
            nn.AvgPool2d(2, 1, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(8, 3),
        ),
        (1, 6, 5),
    ),
    "batch norm": (
        nn.Sequential(
            nn.BatchNorm1d(2),
            nn.Conv1d(2, 4, 3, groups=2),
            nn.BatchNorm1d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.BatchNorm1d(5),
            nn.Softmax(1),
        ),
        (2, 6),
    ),
    "residual": (
        nn.Sequential(
            Residual(nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.ELU(0.5))), nn.Flatten(), nn.Linear(10, 2)
        ),
        (2, 5),
    ),
    "branches": (Branches(), (2, 4, 3)),
    "in place": (
        nn.Sequential(
            nn.Conv1d(1, 2, 2, padding=1, padding_mode="circular"),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(12, 2),
        ),
        (1, 5),
    ),
    "borders": (
        nn.Sequential(nn.ReflectionPad1d(2), nn.Conv1d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(16, 1)),
        (1, 4),
    ),
    "ckn": (
        ckn_like("3 exp(0.6) gauss2 | 2 exp(0.6) avg2", 1, (3, 4), classes=3, space=(7, 6), generator=0),
        (1, 7, 6),
    ),
    "mnist": (mnist_net(width=2, depth=2, size=8, generator=0), (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_jacobian_is_above_the_bounds(name):
    model, shape = NETWORKS[name]
    model = seeded(model)
    bounds = norm_bounds(model, shape)
    assert bounds.unbounded == ()
    assert math.isfinite(bounds.lipschitz.value)
    rng, worst = torch.Generator().manual_seed(1), 0.0
    for scale in (0.1, 1.0, 10.0):
        for _ in range(5):
            slope = jacobian(model, scale * torch.randn(shape, generator=rng, dtype=torch.float64))
            worst = max(worst, float(torch.linalg.matrix_norm(slope, 2)))
            assert float(torch.linalg.matrix_norm(slope, 2)) <= bounds.lipschitz.value * (1 + 1e-9)
            assert (slope.norm(dim=1) <= bounds.lipschitz_outputs * (1 + 1e-9)).all()
            pairs = (slope[:, None] - slope[None]).norm(dim=2)
            assert (pairs <= bounds.lipschitz_differences * (1 + 1e-9) + 1e-12).all()
            assert float(slope.abs().sum(1).max()) <= bounds.lipschitz_sup.value * (1 + 1e-9)
    assert worst > 0  # and no bound is of a network that is constant


def test_one_linear_map_in_parts_has_the_norm_of_its_matrix():
    model = seeded(
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3), nn.Flatten(), nn.Identity())
    )
    bounds = norm_bounds(model, (2, 5, 4))
    matrix = jacobian(model, torch.zeros(2, 5, 4, dtype=torch.float64))
    assert bounds.lipschitz.value == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-9)
    assert bounds.path_one.value == pytest.approx(float(matrix.abs().sum()), rel=1e-9)
    assert bounds.path_two.value == pytest.approx(float(matrix.norm()), rel=1e-9)
    assert bounds.rows[1].operation == "conv2d + batch_norm"
    assert bounds.rows[1].rows == pytest.approx(float(matrix.norm(dim=1).sum()), rel=1e-9)
    assert bounds.spectral_frobenius.value == pytest.approx(float(matrix.norm()), rel=1e-6)


def test_circular_borders_are_part_of_the_convolution():
    model = seeded(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten()))
    bounds = norm_bounds(model, (1, 4, 6))
    matrix = jacobian(model, torch.zeros(1, 4, 6, dtype=torch.float64))
    assert bounds.rows[1].operator.method == "fourier"
    assert bounds.lipschitz.value == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-9)


def test_a_residual_block_is_one_plus_its_branch():
    inner = seeded(nn.Conv1d(2, 2, 3, padding=1))
    model = nn.Sequential(Residual(inner), nn.Flatten()).eval()
    alone = norm_bounds(nn.Sequential(inner, nn.Flatten()).eval(), (2, 6)).lipschitz.value
    bounds = norm_bounds(model, (2, 6))
    assert bounds.lipschitz.value == pytest.approx(1 + alone, rel=1e-12)
    assert bounds.spectral_complexity.value == math.inf
    assert bounds.spectral_complexity.reason == "0 (add): stated for chains of layers, and here branches meet"
    assert "branches meet" in bounds.rkhs.reason


def test_capacities_of_a_perceptron_by_hand():
    model = seeded(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    first, second = (model[i].weight.detach() for i in (0, 2))
    bounds = norm_bounds(model, (4,))
    sizes = [float(torch.linalg.matrix_norm(w, 2)) for w in (first, second)]
    rows = [sum(math.sqrt(sum(v * v for v in row)) for row in w.tolist()) for w in (first, second)]
    wanted = math.prod(sizes) * sum((r / s) ** (2 / 3) for r, s in zip(rows, sizes, strict=True)) ** 1.5
    assert bounds.lipschitz.value == pytest.approx(math.prod(sizes), rel=1e-9)
    assert bounds.spectral_complexity.value == pytest.approx(wanted, rel=1e-9)
    assert bounds.frobenius.value == pytest.approx(float(first.norm() * second.norm()), rel=1e-12)
    assert bounds.reshaped.value == pytest.approx(math.prod(sizes), rel=1e-9)
    squares = sum(float(w.square().sum()) / s**2 for w, s in zip((first, second), sizes, strict=True))
    assert bounds.spectral_frobenius.value == pytest.approx(math.prod(sizes) * math.sqrt(squares), rel=1e-9)
    paths = [float(second[o, h] * first[h, i]) for o, h, i in itertools.product(range(2), range(3), range(4))]
    assert bounds.path_one.value == pytest.approx(sum(map(abs, paths)), rel=1e-12)
    assert bounds.path_two.value == pytest.approx(math.sqrt(sum(v * v for v in paths)), rel=1e-12)


def test_squared_paths_through_average_pooling():
    model = seeded(nn.Sequential(nn.Conv2d(1, 1, 2), nn.AvgPool2d(2, 1, padding=1), nn.Flatten()))
    matrices = [
        jacobian(part, torch.zeros(shape, dtype=torch.float64))
        for part, shape in (
            (nn.Sequential(model[0], nn.Flatten()), (1, 4, 4)),
            (nn.Sequential(model[1], nn.Flatten()), (1, 3, 3)),
        )
    ]
    wanted = (matrices[1].square() @ matrices[0].square()).sum().sqrt()
    assert norm_bounds(model, (1, 4, 4)).path_two.value == pytest.approx(float(wanted), rel=1e-9)


def test_overlapping_maxima():
    slopes = [
        norm_bounds(nn.Sequential(pool, nn.Flatten()).eval(), (1, 8, 8)).lipschitz.value
        for pool in (nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1, dilation=2))
    ]
    assert slopes == [1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(-3.0), nn.LeakyReLU(0.1), nn.PReLU(init=2.5), nn.ELU(2.0), nn.SELU(),
        nn.CELU(0.3), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Softplus(3.0), nn.LogSigmoid(), nn.Sigmoid(), nn.Tanh(),
        nn.Hardtanh(-2.0, 1.5), nn.Hardsigmoid(), nn.Hardswish(),
    ],
    ids=str,
)  # fmt: skip
def test_the_slope_of_an_activation_is_its_largest_derivative(module):
    u = torch.linspace(-8, 8, 160001, dtype=torch.float64, requires_grad=True)
    model = nn.Sequential(module.double(), nn.Identity()).eval()
    (slopes,) = torch.autograd.grad(module(u).sum(), u)
    bound = norm_bounds(model, (3,)).lipschitz.value
    assert float(slopes.abs().max()) <= bound * (1 + 1e-12)
    assert float(slopes.abs().max()) >= 0.999 * bound


def test_softmax_is_half_lipschitz():
    model = nn.Softmax(1).eval()
    assert norm_bounds(model, (2,)).lipschitz.value == 0.5
    assert float(torch.linalg.matrix_norm(jacobian(model, torch.zeros(2)), 2)) == pytest.approx(0.5)


def test_the_same_maps_joined_twice():
    class Twice(nn.Module):
        def forward(self, x):
            return torch.cat([x, x], 1) + torch.cat([x, -x], 1)

    assert norm_bounds(Twice().eval(), (3,)).lipschitz.value == pytest.approx(2 * math.sqrt(2))


def test_weights_under_a_parametrization():
    layer = nn.utils.parametrizations.weight_norm(seeded(nn.Linear(4, 3)))
    model = nn.Sequential(layer, nn.Identity()).eval()
    matrix = jacobian(model, torch.zeros(4, dtype=torch.float64))
    assert norm_bounds(model, (4,)).lipschitz.value == pytest.approx(
        float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-9
    )


# --- RKHS norms


def layer_values(x, weights, norms, activation):
    """One layer of the homogeneous network on a signal (maps, length), and the norms of its patches: naive loops."""
    out, maps, patch = weights.shape
    length = x.shape[1] - patch + 1
    values, sizes = np.zeros((out, length)), np.zeros(length)
    for u in range(length):
        sizes[u] = math.sqrt(sum(norms[u + v] ** 2 for v in range(patch)) / patch)
        for o in range(out):
            c = sum(weights[o, i, v] * x[i, u + v] for i in range(maps) for v in range(patch))
            values[o, u] = sizes[u] * float(activation(torch.tensor([c / sizes[u]], dtype=torch.float64))[0])
    return values, sizes


def exact_norm(convolutions, head, activation, text, shape, samples):
    """RKHS norm of the homogeneous network, from its values and the kernel's: sqrt(f' K^+ f), the RKHS being finite."""
    rng = np.random.RandomState(0)
    signals = rng.randn(samples, *shape)
    values = []
    for x in signals:
        norms = np.sqrt((x**2).sum(0))
        for weights in convolutions:
            x, norms = layer_values(x, weights, norms, activation)
        values.append(float(head @ x.flatten()))
    gram = ConvKernel(Architecture.parse(text, boundary="valid")).gram(signals)
    sizes, vectors = np.linalg.eigh(gram)
    kept = sizes > 1e-12 * sizes[-1]
    assert kept.sum() < samples - 10  # the samples span the RKHS
    parts = vectors.T @ np.array(values)
    assert np.abs(parts[~kept]).max() < 1e-6 * np.abs(parts).max()  # and the network is in it
    return math.sqrt((parts[kept] ** 2 / sizes[kept]).sum())


def network(convolutions, head):
    parts = []
    for weights in convolutions:
        layer = nn.Conv1d(weights.shape[1], weights.shape[0], weights.shape[2], bias=False)
        layer.weight.data = torch.from_numpy(weights)
        parts += [layer, nn.ReLU()]
    last = nn.Linear(len(head), 1, bias=False)
    last.weight.data = torch.from_numpy(head[None])
    return nn.Sequential(*parts, nn.Flatten(), last).eval()


@pytest.mark.parametrize("coefficients", [[0.0, 1.0, 0.5], [0.7, -0.4, 1.0], [0.0, 1.0, 0.0]])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_exact_norm_is_below_the_recursion(depth, coefficients):
    rng = np.random.RandomState(depth)
    activation = polynomial(coefficients)
    if depth == 1:
        convolutions, head, shape, samples = [rng.randn(3, 2, 2)], rng.randn(9), (2, 4), 120
    else:
        convolutions, head, shape, samples = [rng.randn(2, 1, 2), rng.randn(2, 2, 2) / 2], rng.randn(4), (1, 4), 260
    text = " | ".join(["2 vovk3 -"] * depth)
    exact = exact_norm(convolutions, head, activation, text, shape, samples)
    bounds = norm_bounds(network(convolutions, head), shape, kernel=Vovk(), surrogate=activation).rkhs_surrogate
    assert bounds.reason == ""
    assert exact <= bounds.gram * (1 + 1e-6)
    assert bounds.gram <= min(bounds.spectral, bounds.filters) * (1 + 1e-9)
    assert exact > 0.1 * bounds.gram
    if coefficients[2]:
        assert bounds.spectral > 1.01 * bounds.gram


@pytest.mark.parametrize(("name", "kernel", "activation"), [("poly2", Power(2), "power2"), ("vovk3", Vovk(), "linear")])
def test_one_position_is_met_with_equality(name, kernel, activation):
    """One patch and features that no other is made of (||z|| of vovk3 is the trace of z z' / ||z||, but not linear)."""
    rng = np.random.RandomState(3)
    convolutions, head = [rng.randn(3, 1, 3)], rng.randn(3)
    exact = exact_norm(convolutions, head, as_activation(activation), f"3 {name} -", (1, 3), 60)
    bounds = norm_bounds(network(convolutions, head), (1, 3), kernel=kernel, surrogate=activation)
    assert bounds.rkhs_surrogate.gram == pytest.approx(exact, rel=1e-6)


def test_the_correction_for_an_activation_that_is_not_zero_at_zero():
    """W_1 = 0, s = 1 + u, 1/(2 - u), four maps, v = 1: the exact squared norm is 32, uncorrected forms give 8."""
    model = network([np.zeros((4, 1, 1))], np.ones(4))
    bounds = norm_bounds(model, (1, 1), kernel=InversePolynomial(), surrogate=polynomial([1.0, 1.0])).rkhs_surrogate
    assert bounds.gram**2 == pytest.approx(32.0)
    assert bounds.spectral**2 == pytest.approx(32.0)
    assert bounds.filters**2 == pytest.approx(4 * 4 * 2.0)


def test_linear_networks_have_the_product_of_the_norms():
    rng = np.random.RandomState(0)
    convolutions, head = [rng.randn(3, 2, 2), rng.randn(4, 3, 2)], rng.randn(4 * 3)
    bounds = norm_bounds(network(convolutions, head), (2, 5), kernel=Linear(), surrogate="linear").rkhs_surrogate
    sizes = [2 * np.linalg.norm(w.reshape(len(w), -1), 2) ** 2 for w in convolutions]
    assert bounds.spectral**2 == pytest.approx(math.prod(sizes) * (head**2).sum(), rel=1e-9)
    assert bounds.layers[0].patch == 2
    assert bounds.layers[1].argument == pytest.approx(math.prod(sizes), rel=1e-9)


def test_a_series_too_long_for_matrices_goes_on_by_its_spectral_form(monkeypatch):
    rng = np.random.RandomState(0)
    model = network([rng.randn(3, 1, 2) / 3, rng.randn(2, 3, 2) / 3], rng.randn(4))
    arguments = {"kernel": InversePolynomial(), "surrogate": "sin"}
    bounds = norm_bounds(model, (1, 4), **arguments)
    exact = bounds.rkhs_surrogate
    assert str(exact) in str(bounds)
    monkeypatch.setattr("hilbertnet.complexity.rkhs_recursion._MOST", 1)
    loose = norm_bounds(model, (1, 4), **arguments).rkhs_surrogate
    assert exact.gram < loose.gram <= loose.spectral * (1 + 1e-12)
    assert loose.spectral == exact.spectral
    table = str(exact).splitlines()
    assert table[0].split()[:3] == ["layer", "|S|", "activation"]
    assert table[2].startswith("0 (conv1d)")


def test_groups_pooling_and_flattened_heads_in_the_recursion():
    model = seeded(
        nn.Sequential(
            nn.Conv1d(2, 4, 3, groups=2, bias=False),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.Flatten(),
            nn.Linear(12, 3, bias=False),
            nn.ReLU(),
            nn.Linear(3, 2),
        ),
        scale=0.3,
    )
    ours = norm_bounds(model, (2, 8), kernel=Exponential(1.0), surrogate="sin").rkhs_surrogate
    dense = nn.Conv1d(2, 4, 3, bias=False).double()
    dense.weight.data = torch.zeros(4, 2, 3, dtype=torch.float64)
    dense.weight.data[:2, :1], dense.weight.data[2:, 1:] = model[0].weight.data[:2], model[0].weight.data[2:]
    as_patch = nn.Conv1d(4, 3, 3, bias=False).double()
    as_patch.weight.data = model[4].weight.data.view(3, 4, 3)
    same = nn.Sequential(dense, nn.ReLU(), nn.AvgPool1d(2), as_patch, nn.ReLU(), nn.Flatten(), model[6]).eval()
    theirs = norm_bounds(same, (2, 8), kernel=Exponential(1.0), surrogate="sin").rkhs_surrogate
    assert ours.gram == pytest.approx(theirs.gram, rel=1e-9)
    assert ours.layers[1].patch == 3
    assert ours.notes == ("without the bias of the last layer",)
    assert ours.outputs.shape == (2,)
    assert float(ours.outputs.max()) == pytest.approx(ours.gram)
    per_layer = norm_bounds(model, (2, 8), kernel=[Exponential(1.0), InversePolynomial()], surrogate="sin")
    assert per_layer.rkhs_surrogate.gram != ours.gram
    assert per_layer.kernel == "exp(1) | inverse"


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (
            nn.Sequential(nn.Conv1d(1, 1, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3, 1)),
            (1, 4),
            "0 (conv1d): relu is not in",
        ),
        (
            nn.Sequential(nn.Conv1d(1, 1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(3, 1)),
            (1, 4),
            "0 (conv1d): it has a bias",
        ),
        (
            nn.Sequential(nn.Conv1d(1, 1, 2, bias=False), nn.GELU(), nn.MaxPool1d(3), nn.Flatten(), nn.Linear(1, 1)),
            (1, 4),
            "2 (max_pool1d): a maximum over positions",
        ),
        (
            nn.Sequential(nn.Conv1d(1, 1, 2, bias=False), nn.Hardtanh(), nn.Flatten(), nn.Linear(3, 1)),
            (1, 4),
            "1 (hardtanh): no Taylor",
        ),
        (nn.Sequential(nn.Linear(2, 2, bias=False), nn.GELU()), (2,), "the last step is not a linear layer"),
    ],
)
def test_outside_the_rkhs_is_infinity_with_its_reason(model, shape, reason):
    bounds = norm_bounds(seeded(model), shape)
    assert bounds.rkhs.gram == math.inf
    assert bounds.rkhs.reason.startswith(reason)
    assert math.isfinite(bounds.lipschitz.value)
    assert reason in str(bounds)


def test_a_power_is_in_the_rkhs_and_not_lipschitz():
    class Square(nn.Module):
        def forward(self, x):
            return x**2

    model = seeded(nn.Sequential(nn.Linear(3, 2, bias=False), Square(), nn.Linear(2, 1, bias=False)))
    bounds = norm_bounds(model, (3,), kernel=InversePolynomial())
    gram = (model[0].weight @ model[0].weight.T).detach() ** 2 * 8  # 1 / b_2
    weight = model[2].weight.detach()[0]
    assert bounds.rkhs.gram**2 == pytest.approx(float(weight @ gram @ weight), rel=1e-9)
    assert bounds.lipschitz.value == math.inf
    assert bounds.unbounded == ("1: u^2 is not Lipschitz",)


def test_too_large_is_said():
    model = seeded(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Sigmoid(), nn.Linear(2, 1)), scale=1e-3)
    assert norm_bounds(model, (3,)).rkhs.gram > 0
    deep = [part for _ in range(4) for part in (nn.Linear(8, 8, bias=False), nn.GELU())]
    bounds = norm_bounds(seeded(nn.Sequential(*deep, nn.Linear(8, 1))), (8,))
    assert bounds.rkhs.gram == math.inf
    assert "gelu is in the RKHS" in bounds.rkhs.reason


# --- what is not bounded, and bad input


class Product(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class MovesExamples(nn.Module):
    def forward(self, x):
        return x.flatten(0).unsqueeze(0)


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"norm": nn.LayerNorm(4), "head": nn.Linear(4, 2)})

    def forward(self, x):
        return self.parts["head"](self.parts["norm"](x))


@pytest.mark.parametrize(
    ("model", "shape", "where"),
    [
        (Last(), (4,), "parts.norm: no bound of it is known"),
        (nn.Sequential(nn.Linear(4, 4), Product()), (4,), "1: it combines more than one map"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()), (2, 5), "1: no bound of it is known"),
        (
            nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4, track_running_stats=False), nn.Flatten()),
            (2, 5),
            "1: it normalizes by",
        ),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.LPPool2d(2, 2), nn.Flatten()), (1, 4, 4), "1: "),
        (nn.Sequential(MovesExamples()), (2, 4), "0: it moves the axis of examples"),
        (nn.Sequential(nn.Linear(4, 3)), (2, 4), "0: a linear layer along the last axis"),
    ],
)
def test_what_is_not_bounded_is_named_with_its_place(model, shape, where):
    model = nn.Sequential(*model, nn.Flatten()) if isinstance(model, nn.Sequential) else model
    bounds = norm_bounds(model.eval(), shape)
    assert any(line.startswith(where) for line in bounds.unbounded)
    place = where.split(":")[0]
    for bound in (bounds.lipschitz, bounds.path_one, bounds.frobenius, bounds.spectral_complexity):
        assert bound.value == math.inf
        assert bound.reason.startswith(place)
    assert bounds.rkhs.reason.startswith(place)
    assert bounds.lipschitz_outputs.isinf().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_bounds(nn.Linear(2, 2), (2,)), r"^model: expected evaluation mode"),
        (
            lambda: norm_bounds(nn.Sequential(nn.Linear(2, 2), nn.Dropout().train()).eval().train(False), (3,)),
            r"^input_shape: the model does not take",
        ),
        (
            lambda: norm_bounds(nn.Linear(2, 2).half().eval(), (2,)),
            r"^model: expected weights in single or double precision, got torch.float16 at 'weight'",
        ),
        (
            lambda: norm_bounds(nn.Linear(2, 2, dtype=torch.complex64).eval(), (2,)),
            r"^model: expected weights in single or double precision",
        ),
        (lambda: norm_bounds(nn.Linear(2, 2).bfloat16().eval(), (2,)), r"^model: expected weights"),
        (lambda: norm_bounds("vgg", (2,)), r"^model: expected an nn.Module"),
        (lambda: norm_bounds(nn.Linear(2, 2).eval(), (0,)), r"^input_shape: expected"),
        (lambda: norm_bounds(nn.Linear(2, 2).eval(), "ab"), r"^input_shape: expected"),
        (lambda: norm_bounds(nn.Conv1d(1, 1, 2).eval(), (1, 4)), r"^model: expected outputs of shape"),
        (lambda: norm_bounds(nn.Linear(2, 2).eval(), (2,), kernel="exp"), r"^kernel: "),
        (lambda: norm_bounds(nn.Linear(2, 2).eval(), (2,), kernel=[3]), r"^kernel: "),
        (
            lambda: norm_bounds(nn.Linear(2, 2).eval(), (2,), surrogate="rely"),
            r"^activation: unknown name 'rely'; did you mean 'relu'",
        ),
        (lambda: norm_bounds(nn.Linear(2, 2).eval(), (2,), tolerance=2.0), r"^tolerance: "),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_module_in_training_mode_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(ValueError, match=r"training mode \(module '1'\)"):
        norm_bounds(model, (2,))


def test_control_flow_on_the_numbers_is_refused():
    class Chooses(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"^model: torch.export cannot list its operations"):
        norm_bounds(Chooses().eval(), (3,))


def test_recurrent_and_three_dimensional_layers_are_named():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reader, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.reader(x)[0][:, -1])

    with pytest.raises(ValueError, match=r"^model: no bound is known of module 'reader', LSTM\(4, 3"):
        norm_bounds(Recurrent().eval(), (5, 4))
    solid = nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten()).eval()
    assert norm_bounds(solid, (1, 3, 3, 3)).unbounded == ("0: no bound of it is known",)


def test_the_model_is_left_as_it_was():
    model = vgg(width=2, generator=0).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    norm_bounds(model, (3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_small_vgg_and_resnet_with_their_tables():
    deep = norm_bounds(vgg(width=4, generator=0).eval(), (3, 32, 32))
    assert "body.0 (conv2d)" in str(deep)
    assert "body.2 (max_pool2d): a maximum over positions" in str(deep)
    assert len([row for row in deep.rows if row.operator]) == 11
    residual = norm_bounds(resnet(width=4, generator=0).eval(), (3, 32, 32))
    blocks = {row.place: row for row in residual.rows if row.operation == "conv2d"}
    assert len(blocks) == 20
    norms = {place: row.slope for place, row in blocks.items()}
    wanted = (
        residual.rows[2].lipschitz * norms["body.0"]
        if residual.rows[2].operator is None
        else residual.rows[3].lipschitz
    )
    for block in range(2, 10):
        shortcut = norms.get(f"body.{block}.shortcut", 1.0)
        wanted *= shortcut + norms[f"body.{block}.first"] * norms[f"body.{block}.second"]
    assert residual.lipschitz.value == pytest.approx(
        wanted * 0.25 * norms.get("head", residual.rows[-1].slope), rel=1e-9
    )


def test_what_changes_in_place():
    class InPlace(nn.Module):
        def __init__(self, view: bool) -> None:
            super().__init__()
            self.view = view

        def forward(self, x):
            y = 3 * x
            seen = y.view(4) if self.view else y
            y.mul_(2).add_(x)
            return (seen + y.flatten(1)) if not self.view else (seen[None] + y.flatten(1))

    assert norm_bounds(InPlace(False).eval(), (4,)).lipschitz.value == pytest.approx(14.0)
    assert norm_bounds(InPlace(True).eval(), (4,)).lipschitz.value == math.inf


def test_functions_and_constants_in_a_forward():
    class Forward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0)))
            self.register_buffer("scale", torch.tensor([1.0, -2.0]).view(2, 1))

        def forward(self, x):
            x = functional.conv1d((x - 0.5) / self.scale * 3, self.weight / self.weight.norm(), padding=1)
            return 2 * functional.relu(x, inplace=True).amax(2) - 1

    model = Forward().eval()
    bounds = norm_bounds(model, (2, 5))
    convolution = float(bounds.rows[4].slope)
    assert [row.operation for row in bounds.rows] == [
        "input",
        "sub",
        "div",
        "mul",
        "conv1d",
        "relu",
        "amax",
        "mul",
        "sub",
    ]
    assert bounds.lipschitz.value == pytest.approx(1.0 * 3 * convolution * 2)
    assert [step.kind for step in trace(model, (2, 5))][1:4] == ["shift", "scale", "scale"]


@pytest.mark.slow
@pytest.mark.parametrize("build", [vgg, resnet])
def test_networks_at_cifar_size_in_twenty_seconds(build):
    model = build(generator=0).eval()
    start = time.perf_counter()
    bounds = norm_bounds(model, (3, 32, 32))
    assert time.perf_counter() - start < 20
    assert math.isfinite(bounds.lipschitz.value)
    assert all(row.operator.gap <= 0.051 for row in bounds.rows if row.operator)
