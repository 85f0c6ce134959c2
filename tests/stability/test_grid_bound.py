"""The computed bound: against exact norms where Phi is linear, against sums by hand, and never below what digits do."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.deformations import scale_field, warp
from hilbertnet.kernels import ConvKernel
from hilbertnet.stability.constants import gradient_mass
from hilbertnet.stability.grid_bound import grid_bound
from hilbertnet.stability.operators import deformation, identity, patches_after_pooling, pooling
from hilbertnet.stability.telescope import Step, ckn_sum, ntk_sum, size_factor
from hilbertnet.stability.transport import layer_grids, sampling

SIZES = (0.01, 0.1, 0.4, 1.0, 2.5, 6.0)


def digits(count: int) -> Tensor:
    return torch.tensor(load_digits().images[:count] / 16).unsqueeze(1)


def random_fields(space: tuple[int, ...], seed: int, sizes: tuple[float, ...] = SIZES) -> Tensor:
    """One random field for each sup|tau| of `sizes`: smooth ones and rough ones."""
    generator = torch.Generator().manual_seed(seed)
    fields = []
    for number, size in enumerate(sizes):
        coarse = torch.randn(1, len(space), *[3 + number % 3] * len(space), dtype=torch.float64, generator=generator)
        mode = "bilinear" if len(space) == 2 else "linear"
        field = torch.nn.functional.interpolate(coarse, space, mode=mode, align_corners=True)
        fields.append(scale_field(field, displacement=size))
    return torch.cat(fields)


CASES = [
    ("3 {0} gauss2 | 3 {0} gauss2", {}),
    ("3 {0} gauss2 | 3 {0} gauss2", {"sigma0": 1.0}),
    ("3 {0} avg2 | 2 {0} stride2 | 1 {0} global", {"sigma0": 1.5, "boundary": "circular"}),
    ("3 {0} gauss2/1 | 2 {0} -", {"boundary": "valid"}),
    ("3 {0} gauss2/1 | 3 {0} gauss2", {"layout": "ckn_kernel"}),
]
every_case = pytest.mark.parametrize(("text", "rules"), CASES, ids=str)


@every_case
def test_where_phi_is_linear_the_bound_covers_the_exact_norm(text, rules):
    arch = Architecture.parse(text.format("linear"), **rules)
    space = (8, 9)
    fields = random_fields(space, seed=3)
    found = grid_bound(arch, fields, boundary="edge", progress=False)
    chain = identity(space)
    for layer in range(1, len(arch.layers) + 1):
        chain = patches_after_pooling(arch, layer, space) @ chain
    chain = pooling(arch.layers[-1].pool, arch, arch.shapes(space)[-1][0]) @ chain
    for field, bound in zip(fields.split(1), found.value, strict=True):
        moved = (chain @ deformation(field, boundary="edge")) - chain
        exact = float(torch.linalg.svdvals(moved.dense())[0])
        assert 0.05 * float(bound) < exact <= float(bound)


@every_case
@pytest.mark.parametrize("kind", ["ckn", "ntk"])
@pytest.mark.parametrize("kernel", ["exp(0.6)", "arccos1", "inverse"])
def test_digits_never_move_further(text, rules, kind, kernel):
    arch = Architecture.parse(text.format(kernel), **rules)
    x = digits(5)
    how = {"interpolation": "cubic", "boundary": "circular"} if rules else {}
    fields = random_fields((8, 8), seed=5)
    bounds = grid_bound(arch, fields, kind=kind, progress=False, **how)
    model = ConvKernel(arch, kind=kind)
    ratios = []
    for field, bound in zip(fields.split(1), bounds.value, strict=True):
        moved = model.distance(warp(x, field, **how), x) / x.flatten(1).norm(dim=1)
        ratios.append(float(moved.max() / bound))
    assert max(ratios) <= 1.0
    assert max(ratios) > 0.02  # a bound that says something


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_images_sought_to_move_far_do_not_move_further(kind):
    arch = Architecture.parse("3 arccos1 gauss2 | 3 exp(1) gauss2", sigma0=1.0)
    field = random_fields((8, 8), seed=8, sizes=(1.5,))
    bound = float(grid_bound(arch, field, kind=kind).value)
    model = ConvKernel(arch, kind=kind)
    x = digits(2).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)

    def moved() -> Tensor:
        return model.distance(warp(x, field), x) / x.flatten(1).norm(dim=1)

    first = float(moved().detach().max())
    for _ in range(25):
        optimizer.zero_grad()
        (-moved().sum()).backward()
        optimizer.step()
    assert 1.5 * first < float(moved().detach().max()) <= bound


def test_signals_do_not_move_further(generator):
    arch = Architecture.parse("5 exp(1) gauss3 | 3 arccos1 gauss2", boundary="circular", sigma0=1.0)
    fields = random_fields((40,), seed=2)
    x = torch.randn(6, 2, 40, dtype=torch.float64, generator=generator)
    for kind in ("ckn", "ntk"):
        bounds = grid_bound(arch, fields, kind=kind, boundary="circular", progress=False).value
        for field, bound in zip(fields.split(1), bounds, strict=True):
            moved = ConvKernel(arch, kind=kind).distance(warp(x, field, boundary="circular"), x)
            assert bool((moved / x.flatten(1).norm(dim=1) <= bound).all())


def test_the_sum_by_hand_for_two_layers():
    arch = Architecture.parse("3 exp(0.5) gauss2 | 3 poly2 gauss2", sigma0=1.0)
    field = random_fields((8, 8), seed=1, sizes=(2.0,))
    found = grid_bound(arch, field)
    b1, b2 = (patches_after_pooling(arch, k, (8, 8)).dense() for k in (1, 2))
    a = pooling(arch.layers[1].pool, arch, arch.shapes((8, 8))[1][0]).dense()
    warped = deformation(field).dense()
    t1, t2 = (sampling(field, grid).operator.dense() for grid in layer_grids(arch, (8, 8))[1:])

    def norm(matrix: Tensor) -> float:
        return float(torch.linalg.svdvals(matrix)[0])

    def blocks(matrix: Tensor) -> Tensor:  # the same on each of the 9 channels of a patch
        return torch.kron(torch.eye(9, dtype=torch.float64), matrix)

    first, second = norm(b1 @ warped - blocks(t1) @ b1), norm(b2 @ t1 - blocks(t2) @ b2)
    rho1, rho2 = 2.0, math.sqrt(2)
    sums = [
        norm(a) * rho2 * norm(b2) * rho1 * norm(b1 @ warped - b1),
        norm(a) * rho2 * (norm(b2) * rho1 * first + norm(b2 @ t1 - b2) * norm(b1)),
        norm(a) * rho2 * (norm(b2) * rho1 * first + second * norm(b1)) + norm(a @ t2 - a) * norm(b2) * norm(b1),
    ]
    assert found.commutators[0].tolist() == pytest.approx([first, second])
    assert found.followed[0].tolist() == pytest.approx(sums)
    assert float(found.value) == pytest.approx(min(*sums, norm(a) * norm(b2) * norm(b1) * (1 + norm(warped))))


def test_whole_pixel_shifts_of_the_torus_move_by_at_most_c_over_sigma():
    arch = Architecture.parse("3 exp(1) gauss2/1 | 3 exp(1) gauss4/1", boundary="circular", sigma0=1.0)
    model, sigma = ConvKernel(arch), 4 / math.sqrt(2)
    x = digits(3)
    for shift in ((1, 0), (1, -2), (0, 3)):
        field = torch.tensor(shift, dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 8, 8)
        found = grid_bound(arch, field, boundary="circular")
        assert float(found.commutators.abs().max()) < 1e-14
        most = gradient_mass(2) * math.hypot(*shift) / sigma
        assert float(found.value) <= float(found.followed[0, -1]) <= most
        moved = model.distance(x.roll(shift, (2, 3)), x) / x.flatten(1).norm(dim=1)
        assert bool((moved <= found.value).all())


def test_the_zero_field_moves_nothing():
    arch = Architecture.parse("3 exp(0.6) gauss2 | 3 arccos1 gauss2")
    for kind in ("ckn", "ntk"):
        assert float(grid_bound(arch, torch.zeros(1, 2, 8, 8), kind=kind).value) == 0.0


def test_an_infinite_slope_gives_an_infinite_sum_and_the_norms_remain():
    arch = Architecture.parse("3 arccos0 gauss2 | 3 exp(1) gauss2")
    found = grid_bound(arch, random_fields((8, 8), seed=0, sizes=(1.0,)))
    assert math.isinf(float(found.followed.amin()))
    assert float(found.value) == float(found.still)
    assert "norms" in str(found).splitlines()[3]


# ------------------------------------------------------------------------------------------- the sums themselves


def test_sums_add_what_the_docstring_says():
    kernels = [layer.kernel for layer in Architecture.parse("3 exp(0.5) - | 3 exp(1) -").layers]
    assert ckn_sum(kernels, [Step(0.9, 0.1), Step(0.8, 0.2)], 0.7, 0.3) == pytest.approx(
        0.7 * (0.8 * 2.0 * 0.1 + 0.2 * 0.9) + 0.3 * 0.9 * 0.8
    )
    relu = [layer.kernel for layer in Architecture.parse("3 arccos1 -").layers]
    # one layer: x and y move by e alone; M by their root of squares and the jump of phi_0
    assert ntk_sum(relu, [Step(1.0, 0.04)], 1.0, 0.3) == pytest.approx(math.sqrt(2) * 0.04 + 0.2 + 0.3 * math.sqrt(2))


@pytest.mark.parametrize("text", ["exp(0.6)", "arccos1", "poly3", "linear", "inverse", "poly(2,3)", "vovk3"])
def test_tangent_kernels_stay_below_their_multiple_of_the_kernel(text, generator):
    """T <= b K, from which the jump of phi_0 is bounded, also for signals of both signs."""
    x = torch.randn(6, 1, 6, 6, dtype=torch.float64, generator=generator)
    for boundary in ("zero", "circular"):
        second = "arccos1" if text == "vovk3" else text
        arch = Architecture.parse(f"3 {text} gauss2/1 | 3 {second} avg2", boundary=boundary)
        ckn, ntk = ConvKernel(arch).gram_pair(x)
        ratio = 1.0
        for layer in arch.layers:
            ratio = 1.0 + layer.kernel.slope * ratio
        if bool((ckn >= 0).all()):
            assert bool((ntk <= ratio * ckn * (1 + 1e-9)).all())
        assert bool((ntk.diag() <= ratio * ckn.diag() * (1 + 1e-9)).all())
        assert size_factor([layer.kernel for layer in arch.layers], "ntk") == pytest.approx(math.sqrt(ratio))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: grid_bound(7, f), "arch: expected an Architecture or its text form, got 7"),
        (lambda f: grid_bound("3 exp(1) gauss2", f, kind="cnk"), "kind: expected 'ckn' or 'ntk', got 'cnk'; did you"),
        (lambda f: grid_bound("9 exp(1) gauss2", f), "layer 1: expected a patch of at most 8"),
        (lambda f: grid_bound("3 exp(1) gauss2", f[:, :1]), "field: expected a field"),
        (lambda f: grid_bound("3 exp(1) gauss2", f / 0), "field: expected finite numbers"),
        (lambda f: grid_bound("3 exp(1) gauss2", f, boundary="torus"), "boundary: expected one of"),
        (
            lambda f: grid_bound("3 dual(gelu) gauss2", f, kind="ntk"),
            r"kind: .* needs kappa''\(1\), which dual\(gelu\)",
        ),
        (lambda f: grid_bound("3 linear - | 3 vovk3 -", f, kind="ntk"), "vovk3 of layer 2 does not satisfy"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 2, 8, 8, dtype=torch.float64))
