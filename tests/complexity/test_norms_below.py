"""Lower bounds of RKHS norms: below the exact ones of kernel ridge solutions, and equal to what closed forms give."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertnet.architecture import Architecture
from hilbertnet.complexity.functions import KernelMachine, scalar
from hilbertnet.complexity.lower_bound import LowerBounds
from hilbertnet.complexity.moved import Moved, embedding_lipschitz
from hilbertnet.complexity.norms_below import (
    ball_bound,
    deformation_bound,
    gradient_bound,
    interpolation_bound,
    lower_bounds,
    pair_bound,
)
from hilbertnet.data import load
from hilbertnet.deformations import warp
from hilbertnet.estimators import ConvKernelRidge
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.ridge import ridge_solve
from hilbertnet.stability.adversarial import worst_field

RIDGE_ARCHITECTURES = [
    ("3 exp(0.6) gauss2 | 2 exp(0.6) gauss2", {}),
    ("2 arccos1 gauss1 | 2 arccos1 global", {"boundary": "valid"}),
    ("3 poly3 -", {"boundary": "circular"}),
    ("2 exp(0.6) gauss2", {"layout": "ckn_kernel"}),
]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def digits(n=12, seed=0):
    """Images and +-1 targets: 3 against 8, of half the size for speed."""
    data = load("digits")
    keep = (data.y == 3) | (data.y == 8)
    x, y = torch.from_numpy(data.x[keep]).double(), torch.from_numpy(data.y[keep])
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    return nn.functional.avg_pool2d(x[rows], (2, 1)), (y[rows] == 3).double() * 2 - 1


def ridge_function(kernel, x, targets, lam=1e-3):
    """A function with its exact norm, ``sqrt(alpha' K alpha)``."""
    gram = kernel.gram(x)
    found = ridge_solve(gram, targets[:, None], lam * float(gram.diagonal().mean()))
    return KernelMachine(kernel, x, found.coefficients), float(found.squared_norm.sqrt())


def seeded(net, seed=0):
    """Weights from a seed, in place."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=rng))
    return net


def linear(weight):
    return lambda z: z.flatten(1) @ weight


# --- lower <= exact


@pytest.mark.parametrize(("text", "conventions"), RIDGE_ARCHITECTURES)
@pytest.mark.parametrize("seed", range(2))
def test_below_the_exact_norm_of_kernel_ridge_solutions_on_digits(text, conventions, seed):
    kernel = ConvKernel(Architecture.parse(text, **conventions))
    x, y = digits(10, seed)
    targets = y if seed == 0 else y * torch.rand(10, generator=torch.Generator().manual_seed(seed)).double()
    f, exact = ridge_function(kernel, x, targets, lam=[1e-3, 1e-1][seed])
    new = digits(16, seed + 10)[0][10:14]
    data = torch.cat([x[:2], new])
    found = lower_bounds(
        f,
        data,
        radii=[0.05, 1.0],
        deformations=[("rotation", 10.0), ("gaussian(2)", 0.4)],
        lipschitz=kernel.arch,
        representation=kernel,
        gram=kernel.gram(data),
        exact=exact,
        steps=6,
        restarts=2,
        draws=2,
        generator=seed,
    )
    assert len(found.bounds) == 7
    for bound in found.bounds:
        assert 0 < bound.value <= exact * (1 + 1e-9), f"{bound.name} of {kernel.arch}\n{found}"
        assert (bound.ratios <= exact * (1 + 1e-9)).all()
    assert found.best.value > 0.3 * exact, str(found)  # the gaps are in the table
    assert str(found).count("%") == 7
    assert json.loads(json.dumps(found.to_dict()))["bounds"][-1]["value"] == found.bounds[-1].value


@settings(max_examples=30, deadline=None)
@given(
    text=st.sampled_from(["3 exp(0.6) gauss2", "2 arccos1 avg2 | 2 arccos1 -", "3 poly2 -", "3 exp(0.2) global"]),
    boundary=st.sampled_from(["zero", "circular"]),
    seed=st.integers(0, 10_000),
    near=st.sampled_from([1e-6, 1e-3, 1.0]),
)
def test_below_the_exact_norm_of_drawn_functions_of_one_dimensional_signals(text, boundary, seed, near):
    """Any coefficients, and pairs of data that are ever nearer."""
    kernel = ConvKernel(Architecture.parse(text, boundary=boundary))
    points, x = draw(5, 2, 7, seed=seed), draw(4, 2, 7, seed=seed + 1)
    x = torch.cat([x, x[:2] + near * draw(2, 2, 7, seed=seed + 2), points[:1]])
    f = KernelMachine(kernel, points, draw(5, seed=seed + 3))
    exact = float(f.products().sqrt())
    found = [
        gradient_bound(f, x, lipschitz=kernel.arch),
        pair_bound(f, x, lipschitz=kernel.arch),
        pair_bound(f, x, representation=kernel),
        deformation_bound(f, x, "translation", size=0.3, draws=1, representation=kernel, generator=seed),
        interpolation_bound(f, x, kernel.gram(x)),
        interpolation_bound(f, points, kernel.gram(points)),
    ]
    for bound in found:
        assert 0 < bound.value <= exact * (1 + 1e-6), bound.name
    assert found[-1].value > 0.99 * exact


def test_lipschitz_constants_alone_bound_too_and_a_distance_is_never_worse():
    kernel, (x, y) = ConvKernel("3 exp(0.6) gauss2"), digits(8)
    f, exact = ridge_function(kernel, x, y)
    options = {"steps": 5, "restarts": 1, "generator": 0}
    alone = ball_bound(f, x[:4], 0.5, lipschitz=kernel.arch, **options)
    both = ball_bound(f, x[:4], 0.5, lipschitz=kernel.arch, representation=kernel, **options)
    assert alone.source == "Lipschitz"
    assert 0 < alone.value < both.value < exact
    slope = gradient_bound(f, x[:4], lipschitz=kernel.arch)
    assert slope.value < exact
    for way in ({"lipschitz": kernel.arch}, {"representation": kernel}):
        assert pair_bound(f, x, **way).value < exact


def test_tangent_kernels_through_their_distance():
    """Their map has no Lipschitz constant, and values near the diagonal are good to 1e-8 only."""
    kernel, (x, y) = ConvKernel("3 arccos1 gauss2", kind="ntk"), digits(8)
    f, exact = ridge_function(kernel, x, y)
    found = lower_bounds(f, x, radii=[0.5], representation=kernel, exact=exact, steps=4, restarts=1, generator=0)
    assert [bound.name for bound in found.bounds] == ["ball of radius 0.5", "pairs"]
    assert all(0.1 * exact < bound.value <= exact * (1 + 1e-6) for bound in found.bounds)


def test_the_constant_of_an_architecture_is_not_that_of_its_tangent_kernel():
    """With it "lower" bounds came out above the norm: at radius 0.01 by 40%."""
    x, kernel = digits(3)[0], ConvKernel("3 arccos1 -", kind="ntk")
    f = KernelMachine(kernel, x, torch.tensor([1.0, -1.0, 0.5]))
    with pytest.raises(ValueError, match="lipschitz: .* its own kernel, and not of the tangent kernel of 3 arccos1"):
        ball_bound(f, x, 0.01, lipschitz=kernel.arch, representation=kernel, generator=0)
    other = Architecture.parse("3 arccos1 gauss2")
    with pytest.raises(ValueError, match="lipschitz: .* and not of the kernel of 3 arccos1 -"):
        pair_bound(f, x, lipschitz=other, representation=ConvKernel("3 arccos1 -"))
    exact = float(f.products().sqrt())
    assert ball_bound(f, x, 0.01, representation=kernel, steps=4, restarts=1, generator=0).value <= exact
    assert Moved(representation=kernel).rounding == Moved(representation=ConvKernel("3 arccos0 -")).rounding == 1e-7
    assert Moved(kernel.arch, ConvKernel("3 arccos1 -")).rounding == 1e-12


def test_an_estimator_with_an_intercept():
    x, y = digits(12)
    model = ConvKernelRidge("3 exp(0.6) gauss2", alpha=1e-3).fit(x, y + 5)
    f = KernelMachine(model.kernel_, model.X_fit_, model.dual_coef_, model.intercept_)
    torch.testing.assert_close(f(x)[:, 0], torch.as_tensor(model.predict(x)).double())
    torch.testing.assert_close(f.products().diagonal().sqrt(), torch.as_tensor(model.rkhs_norm_))
    exact = float(model.rkhs_norm_[0])
    found = pair_bound(f, x, representation=model.kernel_)
    assert 0.5 * exact < found.value <= exact * (1 + 1e-9)


def test_undivided_differences_and_slopes_are_no_bounds():
    """K(a, .) has norm ||a|| = 1; with kappa'(1) = 11 it is steeper than that, and steeper in larger balls."""
    kernel, a = ConvKernel("1 exp(0.3) -"), torch.tensor([[1.0, 0.0]]).double()
    f = KernelMachine(kernel, a, torch.ones(1))
    angle = torch.linspace(0, 1, 50, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], 1)
    slope = gradient_bound(f, x, lipschitz=kernel.arch)
    assert slope.difference > 1.5
    assert slope.value <= 1
    far = ball_bound(f, x, 3.0, lipschitz=kernel.arch, representation=kernel, steps=20, generator=0)
    assert far.difference > 1.5
    assert 0.9 < far.value <= 1 + 1e-9


# --- closed forms and naive references


def test_a_linear_function_reaches_its_norm():
    weight = draw(12)
    f, x, exact = linear(weight), draw(5, 1, 3, 4, seed=1), float(weight.norm())
    assert gradient_bound(f, x, lipschitz=1.0).value == pytest.approx(exact, rel=1e-12)
    assert gradient_bound(f, x, lipschitz=4.0).value == pytest.approx(exact / 4, rel=1e-12)
    ball = ball_bound(f, x, 0.3, lipschitz=1.0, steps=5, generator=0)
    assert ball.value == pytest.approx(exact, rel=1e-9)
    torch.testing.assert_close(ball.ratios, torch.full((5,), exact, dtype=torch.float64))
    # of two signals that differ along the weights
    pair = torch.stack([torch.zeros(12).double(), weight])
    assert pair_bound(f, pair, lipschitz=1.0).value == pytest.approx(exact, rel=1e-12)


def test_every_bound_is_its_difference_over_its_distance_at_its_signals():
    kernel, (x, y) = ConvKernel("3 exp(0.6) gauss2"), digits(6)
    f, _ = ridge_function(kernel, x, y)
    found = lower_bounds(f, x[:4], radii=[0.5], deformations=[("rotation", 20.0)], lipschitz=kernel.arch,
                         representation=kernel, gram=kernel.gram(x[:4]), steps=4, restarts=1, generator=0)  # fmt: skip
    for name in ("ball of radius 0.5", "rotation of 20 degrees", "pairs"):
        bound = found[name]
        torch.testing.assert_close(bound.x, x[bound.index])
        one, two = bound.x[None], bound.x_prime[None]
        assert bound.difference == pytest.approx(float((f(one) - f(two)).abs()), rel=1e-9)
        assert bound.distance == pytest.approx(float(kernel.distance(one, two)), rel=1e-5)
        assert bound.value == pytest.approx(bound.difference / bound.distance)
        assert bound.to_dict()["value"] == bound.value
    assert found["ball of radius 0.5"].ratios.shape == (4,)
    assert (found["ball of radius 0.5"].x_prime - found["ball of radius 0.5"].x).norm() <= 0.5
    with pytest.raises(KeyError):
        found["balls"]


def test_gradients_and_pairs_against_loops():
    net = seeded(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))).double()
    x = draw(7, 1, 4, 4)
    slopes, ratios = [], []
    for i in range(7):
        jacobian = torch.autograd.functional.jacobian(net, x[i : i + 1]).reshape(3, 16)
        slopes.append(float((jacobian[2] - jacobian[0]).norm()))
        for j in range(i + 1, 7):
            values = net(x[[i, j]])[:, 2] - net(x[[i, j]])[:, 0]
            ratios.append(abs(values[0] - values[1]).item() / (3 * float((x[i] - x[j]).norm())))
    found = gradient_bound(net, x, lipschitz=1.0, output=(2, 0), batch_size=3)
    torch.testing.assert_close(found.ratios, torch.tensor(slopes).double())
    assert found.index == slopes.index(max(slopes))
    pairs = pair_bound(net, x, lipschitz=3.0, output=(2, 0), batch_size=4)
    torch.testing.assert_close(pairs.ratios, torch.tensor(ratios).double())
    assert len(pair_bound(net, x, lipschitz=3.0, output=1, pairs=5, generator=0).ratios) == 5


def test_a_ball_is_searched_better_than_by_chance():
    net = seeded(nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 1))).double()
    x, radius = 2 * draw(4, 6, seed=2), 2.0
    found = ball_bound(net, x, radius, lipschitz=1.0, steps=30, restarts=3, generator=0)
    best = torch.zeros(4).double()
    for seed in range(300):
        delta = draw(4, 6, seed=seed)
        delta = delta / delta.norm(dim=1, keepdim=True) * radius * (0.01 + 0.99 * (seed + 1) / 300)
        best = torch.maximum(best, ((net(x + delta) - net(x))[:, 0].abs() / delta.norm(dim=1)).detach())
    assert (found.ratios >= best).all()


def test_interpolation_against_a_dense_solve():
    kernel, (x, y) = ConvKernel("3 exp(0.6) gauss2"), digits(12)
    f, exact = ridge_function(kernel, x, y, lam=1e-2)
    gram = kernel.gram(x)
    values = f(x)[:, 0]
    assert interpolation_bound(f, x, gram).value == pytest.approx(exact, rel=1e-4)  # f is in the span of the data
    few = interpolation_bound(f, x[:5], gram[:5, :5], ridge=1e-10)
    assert few.value == pytest.approx(
        float((values[:5] @ torch.linalg.solve(gram[:5, :5], values[:5])).sqrt()), rel=1e-6
    )
    assert few.value < exact
    assert few.value >= pair_bound(f, x[:5], representation=kernel).value  # which uses values too
    assert interpolation_bound(f, x[:5], gram[:5, :5], ridge=0.1).value < few.value
    assert few.x_prime is None


def test_deformations_by_fields_and_by_a_search():
    kernel, (x, y) = ConvKernel("3 exp(0.6) gauss2"), digits(6)
    f, exact = ridge_function(kernel, x, y)
    fields = 0.3 * draw(6, 2, *x.shape[2:])
    found = deformation_bound(f, x, fields, representation=kernel)
    moved = warp(x, fields)
    ratios = (f(moved) - f(x))[:, 0].abs() / kernel.distance(moved, x)
    torch.testing.assert_close(found.ratios, ratios, rtol=1e-5, atol=0)

    def search(signals, generator):
        return worst_field(f, signals, displacement=0.5, gradient=0.2, steps=2, restarts=1, generator=generator).field

    worst = deformation_bound(f, x[:2], search, draws=1, representation=kernel, generator=0)
    assert worst.name == "search"
    assert 0 < worst.value <= exact * (1 + 1e-9)
    first = deformation_bound(f, x, "rotation", size=10.0, draws=1, representation=kernel, generator=0)
    more = deformation_bound(f, x, "rotation", size=10.0, draws=4, representation=kernel, generator=0)
    assert (more.ratios >= first.ratios).all()


# --- the distance moved


@settings(max_examples=40, deadline=None)
@given(
    text=st.sampled_from(
        ["3 exp(0.4) gauss2 | 2 exp(0.6) avg2", "2 arccos1 gauss3/2", "3 linear gauss3 | 2 poly2 global"]
    ),
    boundary=st.sampled_from(["zero", "valid", "circular", "ckn_kernel"]),
    space=st.sampled_from([(13,), (12, 13)]),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.01, 1.0]),
)
def test_no_pair_moves_further_than_the_constant_says(text, boundary, space, seed, scale):
    conventions = {"layout": boundary} if boundary == "ckn_kernel" else {"boundary": boundary}
    arch = Architecture.parse(text, sigma0=0.7 * (seed % 2), **conventions)
    x = draw(4, 2, *space, seed=seed)
    y = x + scale * draw(4, 2, *space, seed=seed + 1)
    bound = embedding_lipschitz(arch, space) * (x - y).flatten(1).norm(dim=1)
    assert (ConvKernel(arch).distance(x, y) <= bound * (1 + 1e-9)).all()
    if boundary != "ckn_kernel":
        assert embedding_lipschitz(arch, space) <= arch.lipschitz * (1 + 1e-12)


def test_the_constant_is_reached():
    x, y = draw(3, 2, 8, 8), draw(3, 2, 8, 8, seed=1)
    torus = Architecture.parse("3 linear -", boundary="circular")
    assert embedding_lipschitz(torus, (8, 8)) == pytest.approx(1.0)
    torch.testing.assert_close(ConvKernel(torus).distance(x, y), (x - y).flatten(1).norm(dim=1))
    # constant signals through a global mean of 64 pixels
    flat, other = torch.ones(1, 1, 8, 8).double(), 3 * torch.ones(1, 1, 8, 8).double()
    mean = Architecture.parse("1 linear global")
    assert embedding_lipschitz(mean, (8, 8)) == pytest.approx(1 / 8)
    torch.testing.assert_close(ConvKernel(mean).distance(flat, other), (flat - other).flatten(1).norm(dim=1) / 8)


def test_the_smaller_of_two_bounds_of_the_distance():
    kernel, x, y = ConvKernel("3 exp(0.6) gauss2"), draw(4, 1, 6, 6), draw(4, 1, 6, 6, seed=1)
    apart, length = kernel.distance(x, y), (x - y).flatten(1).norm(dim=1)
    torch.testing.assert_close(Moved(1.0).upper(x, y), length)
    torch.testing.assert_close(Moved(None, kernel).upper(x, y), apart)
    assert (Moved(None, kernel).upper(x, y) >= apart).all()
    tight = float((apart / length).median())
    torch.testing.assert_close(
        Moved(tight, kernel).upper(x, y), torch.minimum(tight * length, apart), rtol=1e-6, atol=0
    )
    assert (Moved(None, kernel).upper(x, x) < 1e-5 * kernel.norm(x)).all()
    assert Moved(2.0, kernel).upper(x, x).max() == 0


# --- functions and modules


def test_kernel_machines_against_gram_matrices():
    kernel, x, points = ConvKernel("3 exp(0.6) gauss2"), draw(5, 2, 6, 6), draw(4, 2, 6, 6, seed=1)
    weights = draw(4, 3, seed=2)
    f = KernelMachine(kernel, points, weights, torch.tensor([1.0, 2.0, 3.0]))
    expected = kernel.gram(x, points) @ weights + torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(f(x), expected)
    torch.testing.assert_close(f.products(), weights.T @ kernel.gram(points) @ weights)
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(z)[:, 1].sum(), z)
    step, move = 1e-6, draw(5, 2, 6, 6, seed=3)
    slope = (f(x + step * move) - f(x - step * move))[:, 1] / (2 * step)
    torch.testing.assert_close((gradient * move).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-7)
    assert not f(x).requires_grad


def test_modules_are_taken_in_eval_mode_and_left_alone():
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 1)
    net = seeded(nn.Sequential(*layers))
    net[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x = draw(6, 1, 4, 4).float()
    options = {"lipschitz": 1.0, "steps": 3, "generator": 0}
    first = ball_bound(net, x, 0.5, **options)
    assert first.value == ball_bound(net, x, 0.5, **options).value
    gradient_bound(net, x, lipschitz=1.0)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert all(parameter.grad is None for parameter in net.parameters())


def test_outputs_are_chosen():
    x, weight = draw(5, 1, 2, 2), draw(4, 3, seed=1)
    f = linear(weight)
    for output, expected in ((1, weight[:, 1]), ((2, 0), weight[:, 2] - weight[:, 0])):
        torch.testing.assert_close(scalar(f, output)(x), x.flatten(1) @ expected)
        assert gradient_bound(f, x, lipschitz=1.0, output=output).value == pytest.approx(float(expected.norm()))


def nan_slope(z):
    return (z.flatten(1).sum(1) * 0).sqrt()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 1, 3, 3, 3)}, "x: expected images"),
        ({"radius": 0.0}, "radius: expected a finite number above 0, got 0.0"),
        ({"radius": "1"}, "radius: expected a finite number above 0, got '1'"),
        ({"lipschitz": None}, "lipschitz, representation: expected at least one of them, got neither"),
        ({"lipschitz": 0.0}, "lipschitz: expected a positive finite number, an Architecture or None, got 0.0"),
        ({"lipschitz": math.nan}, "lipschitz: expected a positive finite number"),
        ({"lipschitz": Architecture.parse("3 arccos0 -")}, "lipschitz: expected an architecture whose kappa'"),
        ({"representation": linear}, "representation: expected one with distance and norm, got function"),
        ({"rounding": -1.0}, "rounding: expected a number from 0"),
        ({"output": 1}, "output: expected numbers below 1, the model's outputs, got 1"),
        ({"output": True}, "output: expected the number of an output"),
        ({"output": (0, 1, 2)}, "output: expected the number of an output"),
        ({"f": lambda z: z.flatten(1)}, "output: expected the number of one of the model's 9 outputs"),
        (
            {"f": lambda z: z},
            r"model: expected a real tensor of shape \(4,\) or \(4, outputs\), got shape \(4, 1, 3, 3\)",
        ),
        ({"f": lambda z: 1.0}, "model: expected a real tensor .* got float"),
        ({"f": lambda z: z.sum((1, 2, 3)) / 0}, "model: expected finite values, got others at example 0"),
        ({"f": lambda z: z.detach().sum((1, 2, 3))}, "f: expected values that depend differentiably"),
        ({"f": nan_slope}, "f: expected finite gradients"),
        ({"steps": 0}, "steps: expected a whole number"),
        ({"batch_size": 0}, "batch_size: expected a whole number"),
    ],
)
def test_bad_input(change, message):
    arguments = {"f": lambda z: z.sum((1, 2, 3)), "x": draw(4, 1, 3, 3), "radius": 1.0, "lipschitz": 1.0} | change
    with pytest.raises(ValueError, match=message):
        ball_bound(arguments.pop("f"), arguments.pop("x"), arguments.pop("radius"), **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: pair_bound(f, x[:1], lipschitz=1.0), "x: expected at least two signals, got one"),
        (lambda f, x: pair_bound(f, x, lipschitz=1.0, pairs=0), "pairs: expected a whole number"),
        (lambda f, x: deformation_bound(f, x, "rotation", lipschitz=1.0), "size: expected the size of a rotation"),
        (lambda f, x: deformation_bound(f, x, "rotatoin", size=1.0, lipschitz=1.0), "did you mean 'rotation'"),
        (lambda f, x: deformation_bound(f, x, 3, size=1.0, lipschitz=1.0), "deformation: expected a family"),
        (lambda f, x: deformation_bound(f, x, "shear", size=1.0, draws=0, lipschitz=1.0), "draws: expected a whole"),
        (lambda f, x: interpolation_bound(f, x, torch.eye(3)), r"gram: expected a finite matrix of shape \(4, 4\)"),
        (lambda f, x: interpolation_bound(f, x, torch.eye(4), ridge=0.0), "ridge: expected a finite number above 0"),
        (lambda f, x: embedding_lipschitz("9 linear -", (8, 8)), "expected a patch of at most 8"),
        (lambda f, x: embedding_lipschitz(3, (8, 8)), "arch: expected an Architecture or its text form"),
        (lambda f, x: KernelMachine(ConvKernel("3 linear -"), x, torch.ones(3)), "coefficients: expected 4 rows"),
        (lambda f, x: KernelMachine(ConvKernel("3 linear -"), x, torch.ones(4), [1.0, 2.0]), "intercept: expected 1"),
        (
            lambda f, x: KernelMachine(ConvKernel("3 linear -"), x, torch.ones(4))(x[:, :, :2]),
            r"x: expected shape \(n, 1, 3, 3\), got \(4, 1, 2, 3\)",
        ),
    ],
)
def test_bad_input_elsewhere(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda z: z.sum((1, 2, 3)), draw(4, 1, 3, 3))


def test_a_function_that_tells_apart_what_the_representation_does_not():
    class Zero:
        differentiable = True

        def distance(self, x, y):
            return 0 * (x - y).flatten(1).norm(dim=1)

        def norm(self, x):
            return torch.zeros(len(x), dtype=torch.float64)

    with pytest.raises(ValueError, match="f: expected equal values at signals of distance 0 in the RKHS"):
        pair_bound(lambda z: z.sum((1, 2, 3)), draw(3, 1, 3, 3), representation=Zero())


def test_a_table_of_one():
    x = torch.eye(2, dtype=torch.float64)
    bound = gradient_bound(linear(torch.tensor([3.0, 4.0]).double()), x, lipschitz=2.0)
    lines = str(LowerBounds((bound,), exact=5.0)).splitlines()
    assert lines[0].split("  ")[0] == "lower bound from"
    assert lines[2].split() == ["gradient", "2.5", "0", "5", "2", "Lipschitz", "50.0%"]
    assert lines[-1] == "exact: ||f|| = 5"
    torch.testing.assert_close(bound.x_prime - bound.x, torch.tensor([0.6, 0.8]).double())


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("radius", [1.0, 1e-3])
def test_rounding_errors_of_single_precision_raise_no_bound(offset, radius):
    """An ascent finds them: a thousandth of a pixel beside a value of 1,000 is 1% too much without a margin."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(64, generator=rng)
    x = torch.rand(10, 1, 8, 8, generator=rng)
    x = torch.cat([x, x + 1e-6 * torch.randn(x.shape, generator=rng)])

    def f(z: torch.Tensor) -> torch.Tensor:
        return (z.flatten(1) @ weight + offset)[:, None]

    exact = float(weight.double().norm())
    ball = ball_bound(f, x, radius, lipschitz=1.0, generator=0, steps=10)
    assert ball.value <= exact
    assert ball.value > 0.3 * exact
    assert pair_bound(f, x, lipschitz=1.0).value <= exact
    both = scalar_pair(f, offset)
    assert ball_bound(both, x, radius, lipschitz=1.0, output=(0, 1), generator=0, steps=10).value <= exact


def scalar_pair(f, offset):
    """Two outputs whose difference is f without its offset, each as large as the offset."""
    return lambda z: torch.cat([f(z), torch.full((len(z), 1), offset)], dim=1)


def test_signals_that_are_twice_in_the_data():
    """A network's values may differ by the place in a batch, in the last digits."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 300), torch.nn.ReLU(), torch.nn.Linear(300, 1))
    x = torch.rand(20, 1, 8, 8)
    once = pair_bound(net.eval(), x, lipschitz=1.0).value
    for size in (3, 7, 16):
        assert pair_bound(net, torch.cat([x, x]), lipschitz=1.0, batch_size=size).value == pytest.approx(once, rel=1e-4)
