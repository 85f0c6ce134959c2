"""The theorems: constants against quadrature and measured operators, terms by hand, fits against enumeration."""

import itertools
import math

import pytest
import torch
from scipy.integrate import dblquad, quad
from sklearn.datasets import load_digits

from hilbertnet.architecture import Architecture, GaussianPool
from hilbertnet.deformations import displacement_norm, gradient_norm, scale_field, warp
from hilbertnet.kernels import ConvKernel
from hilbertnet.stability.bound import fit_constants, stability_bound
from hilbertnet.stability.constants import (
    Constant,
    commutator_constant,
    gradient_mass,
    translation_constant,
    warp_norm,
)
from hilbertnet.stability.growth import wave
from hilbertnet.stability.operators import commutator, deformation, difference, operator_norm, patches, pooling

ARCH = Architecture.parse("3 exp(1) gauss2 | 3 exp(1) gauss4", sigma0=1.0)


def random_field(count: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 2, 4, 4, dtype=torch.float64, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)


# ------------------------------------------------------------------------------------------------------ constants


def test_the_gradient_of_a_gaussian_has_the_mass_of_its_closed_form():
    line = quad(lambda u: abs(u) * math.exp(-u * u / 2) / math.sqrt(2 * math.pi), -12, 12)[0]
    plane = dblquad(lambda v, u: math.hypot(u, v) * math.exp(-(u * u + v * v) / 2) / (2 * math.pi), -9, 9, -9, 9)[0]
    assert gradient_mass(1) == pytest.approx(line)
    assert gradient_mass(2) == pytest.approx(plane, rel=1e-6)
    assert gradient_mass(2) == pytest.approx(1.2533, abs=5e-5)


def test_constants_at_the_ends():
    for axes in (1, 2):
        assert translation_constant(axes) == pytest.approx(2 ** (axes / 2) * gradient_mass(axes))
        assert translation_constant(axes, 0.0) == gradient_mass(axes)
        assert warp_norm(axes) == pytest.approx(2 ** (axes / 2))
        for beta in (0.0, 1.5):
            limit = 2 * axes + beta * gradient_mass(axes)
            assert commutator_constant(beta, axes, 0.0) == pytest.approx(limit)
            assert commutator_constant(beta, axes, 1e-5) == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize(("axes", "beta", "g"), [(1, 0.0, 0.3), (2, 1.0, 0.5), (2, 3.0, 0.2)])
def test_the_commutator_constant_is_its_formula_by_quadrature(axes, beta, g):
    m = axes + beta * gradient_mass(axes)
    rows = m * quad(lambda t: (1 + g * (1 - 2 * t)) ** axes / (1 - t * g) ** (axes + 1), 0, 1)[0]
    columns = m * quad(lambda t: (1 - t * g) ** -(axes + 1), 0, 1)[0]
    rows, columns = rows + ((1 + g) ** axes - 1) / g, columns + ((1 - g) ** -axes - 1) / g
    assert commutator_constant(beta, axes, g) == pytest.approx(math.sqrt(rows * columns))


@pytest.mark.parametrize("space", [(200,), (40, 40)])
@pytest.mark.parametrize("g", [0.05, 0.5])
def test_operators_of_a_fine_grid_stay_below_the_known_constants(space, g):
    """Filters many pixels wide are near those of R^d."""
    axes, size = len(space), 6
    torus = Architecture.parse("1 linear -", boundary="circular")
    smooth, sigma = pooling(GaussianPool(1, size), torus, space), size / math.sqrt(2)
    steep = [wave(space, g)]
    if axes == 1:
        at = torch.arange(space[0], dtype=torch.float64) * (2 * math.pi / space[0])
        for waves in (3, 8):
            steep.append(scale_field(torch.sin(waves * at + 1).view(1, 1, -1), gradient=g, periodic=True))
    for field in steep:
        moved = deformation(field, boundary="circular")
        shift = float(displacement_norm(field))
        found = operator_norm(difference(smooth, moved, inside=False)).value
        assert found <= translation_constant(axes, g) * shift / sigma
        for patch in (1, 5) if axes == 1 else (3,):
            beta = math.sqrt(axes) * (patch - 1) / 2 / sigma
            found = operator_norm(commutator(patches(patch, torus, space) @ smooth, moved)).value
            assert found <= commutator_constant(beta, axes, g) * g
            assert found > 0.05 * commutator_constant(beta, axes, g) * g  # and not far below


# -------------------------------------------------------------------------------------------------------- theorem


def test_the_ckn_bound_is_the_theorem_term_by_term():
    found = stability_bound(ARCH, (0.2, 3.0))
    sigma, beta = 4 / math.sqrt(2) * 2, 2.0
    assert float(found.terms["gradient"]) == pytest.approx(commutator_constant(beta, 2, 0.2) * 3 * 0.2)
    assert float(found.terms["translation"]) == pytest.approx(gradient_mass(2) / 0.8 * 3 / sigma)
    assert float(found.value) == pytest.approx(sum(float(term) for term in found.terms.values()))
    assert all(constant.status.startswith("known (Schur") for constant in found.constants)


def test_lipschitz_constants_multiply_the_bound():
    steep = Architecture.parse("3 exp(0.6) gauss2 | 3 poly2 gauss4", sigma0=1.0)
    ratio = stability_bound(steep, (0.2, 3.0)).value / stability_bound(ARCH, (0.2, 3.0)).value
    assert float(ratio) == pytest.approx(math.sqrt(2) / 0.6)


def test_kernels_without_a_lipschitz_constant_have_no_bound_but_for_the_zero_field():
    found = stability_bound(Architecture.parse("3 arccos0 gauss2", sigma0=1.0), ([0.0, 0.0], [0.0, 1.0]))
    assert found.value.tolist() == [0.0, math.inf]


def test_a_field_and_its_norms_give_the_same():
    field = scale_field(random_field(4, 16), gradient=0.3)
    one = stability_bound(ARCH, field)
    other = stability_bound(ARCH, (gradient_norm(field), displacement_norm(field)))
    assert torch.equal(one.value, other.value)
    assert one.value.shape == (4,)


def test_beyond_a_gradient_of_a_half_the_theorem_says_nothing():
    found = stability_bound(ARCH, ([0.5, 0.51], 1.0))
    assert found.holds.tolist() == [True, False]
    assert math.isfinite(found.value[0])
    assert found.value[1] == math.inf
    assert "does not hold" in str(found)
    assert "needs sup||grad tau|| <= 0.5" in str(found)


def test_filters_that_are_not_gaussian_make_constants_assumptions():
    found = stability_bound("3 exp(1) avg2 | 3 exp(1) gauss2", (0.1, 1.0))
    assert [c.status for c in found.constants] == ["assumed (as if A_0, A_1 were Gaussian)"] * 2


def test_ntk_translations_move_by_sqrt_n_plus_one_times_c_over_sigma():
    for depth in (1, 2, 3):
        relu = Architecture.parse(" | ".join(["3 arccos1 gauss2"] * depth), sigma0=1.0)
        found = stability_bound(relu, (0.0, 2.0), kind="ntk")
        sigma = math.sqrt(2) * 2 ** (depth - 1)
        assert float(found.value) == pytest.approx(math.sqrt(depth + 1) * gradient_mass(2) * 2 / sigma)


def test_the_ntk_bound_behaves_as_a_square_root_for_small_fields_and_the_ckn_bound_does_not():
    relu = Architecture.parse("3 arccos1 gauss2 | 3 arccos1 gauss2", sigma0=1.0)
    for kind, slope in (("ckn", 1.0), ("ntk", 0.5)):
        low, high = stability_bound(relu, ([1e-8, 1e-6], 0.0), kind=kind).value.tolist()
        assert math.log(high / low) / math.log(100) == pytest.approx(slope, abs=0.01)


def test_given_constants_enter_proposition_12():
    relu = Architecture.parse("3 arccos1 gauss2 | 3 arccos1 gauss2", sigma0=1.0)
    given = {"root": 2.0, "gradient": 3.0, "translation": 5.0}
    found = stability_bound(relu, (0.25, 1.5), kind="ntk", constants=given)
    sigma = 2 * math.sqrt(2)
    expected = 2 * 2**1.75 * 0.5 + 3 * 4 * 0.25 + 5 * math.sqrt(3) * 1.5 / sigma
    assert float(found.value) == pytest.approx(expected)
    partly = stability_bound(relu, ([0.25, 0.0], 1.5), kind="ntk", constants={"gradient": 3.0, "translation": 5.0})
    assert partly.value[0] == math.inf
    assert math.isfinite(partly.value[1])  # the unknown constant is multiplied by 0
    assert "root: inf, not known" in str(partly)


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
@pytest.mark.parametrize("text", ["3 exp(1) gauss2 | 3 exp(1) gauss2", "3 exp(0.6) gauss2 | 3 arccos1 gauss2"])
def test_digits_never_move_further_than_the_known_theorem(kind, text):
    arch = Architecture.parse(text, sigma0=1.0)
    x = torch.tensor(load_digits().images[:6] / 16).unsqueeze(1)
    kernel = ConvKernel(arch, kind=kind)
    for gradient in (0.001, 0.03, 0.2, 0.5):
        fields = scale_field(random_field(4, 8, seed=1), gradient=gradient)
        bound = stability_bound(arch, fields, kind=kind).value
        for field, most in zip(fields.split(1), bound, strict=True):
            moved = kernel.distance(warp(x, field), x) / x.flatten(1).norm(dim=1)
            assert bool((moved <= most).all())


# ------------------------------------------------------------------------------------------------------------ fit


def enumerated(sizes: torch.Tensor, distances: torch.Tensor) -> float:
    """The least mean bound over all corners of the constants that cover the measurements, two constants."""
    best = math.inf
    lines = [*zip(sizes.tolist(), distances.tolist(), strict=True), ((1.0, 0.0), 0.0), ((0.0, 1.0), 0.0)]
    for (a, p), (b, q) in itertools.combinations(lines, 2):
        det = a[0] * b[1] - a[1] * b[0]
        if abs(det) < 1e-12:
            continue
        c = torch.tensor([(p * b[1] - q * a[1]) / det, (a[0] * q - b[0] * p) / det], dtype=torch.float64)
        if bool((c >= -1e-9).all()) and bool((sizes @ c >= distances - 1e-9).all()):
            best = min(best, float((sizes @ c).mean()))
    return best


def test_fitted_constants_cover_with_the_least_mean_bound(generator):
    g = torch.rand(20, dtype=torch.float64, generator=generator) * 0.5
    shift = torch.rand(20, dtype=torch.float64, generator=generator) * 3
    moved = 0.3 * g + 0.05 * shift + 0.02 * torch.rand(20, dtype=torch.float64, generator=generator)
    constants = fit_constants(ARCH, g, shift, moved)
    bound = stability_bound(ARCH, (g, shift), constants=constants).value
    assert bool((bound >= moved).all())
    sigma = 4 * math.sqrt(2)
    sizes = torch.stack([3 * g, shift / sigma], 1)
    assert float(bound.mean()) == pytest.approx(enumerated(sizes, moved), rel=1e-6)
    assert [c.status for c in constants] == ["fitted to 20 measurements"] * 2


def test_a_known_constant_is_kept_and_the_rest_fitted():
    known = {"translation": 0.1}
    found = {c.name: c for c in fit_constants(ARCH, [0.1, 0.4], [1.0, 1.0], [0.2, 0.3], known=known)}
    sigma = 4 * math.sqrt(2)
    assert found["gradient"].value == pytest.approx((0.2 - 0.1 / sigma) / 0.3)
    assert found["translation"] == Constant("translation", 0.1, "given")


def test_measurements_beyond_the_theorem_are_left_out_and_counted():
    found = fit_constants(ARCH, [0.1, 0.9], [0.0, 0.0], [0.03, 99.0])
    assert found[0].value == pytest.approx(0.1)
    assert found[0].status == "fitted to 1 measurements, 1 beyond the theorem left out"


def test_three_constants_of_the_tangent_kernel_are_recovered():
    relu = Architecture.parse("3 arccos1 gauss2 | 3 arccos1 gauss2", sigma0=1.0)
    g = torch.tensor([0.0, 0.001, 0.01, 0.1, 0.3, 0.5], dtype=torch.float64)
    shift = torch.tensor([1.0, 0.2, 3.0, 0.0, 1.0, 0.5], dtype=torch.float64)
    given = {"root": 0.2, "gradient": 0.7, "translation": 0.4}
    moved = stability_bound(relu, (g, shift), kind="ntk", constants=given).value
    found = fit_constants(relu, g, shift, moved, kind="ntk")
    assert {c.name: c.value for c in found} == pytest.approx(given, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stability_bound(ARCH, 3.0), r"field: expected fields \(n, axes, \*space\) or a pair"),
        (lambda: stability_bound(ARCH, (-0.1, 1.0)), "field: expected finite numbers of at least 0, got"),
        (lambda: stability_bound(ARCH, (math.nan, 1.0)), "field: expected finite numbers of at least 0, got"),
        (lambda: stability_bound(ARCH, ([0.1, 0.2], [1, 2, 3])), "field: expected numbers or vectors of one length"),
        (lambda: stability_bound(ARCH, (0.1, 1.0), kind="nkt"), "kind: expected 'ckn' or 'ntk', got 'nkt'; did you"),
        (lambda: stability_bound("3 arccos0 gauss2", (0.1, 1.0), kind="ntk"), r"kind: .* finite kappa'\(1\)"),
        (
            lambda: stability_bound(ARCH, (0.1, 1.0), constants={"root": 1.0}),
            "constants: expected names among gradient",
        ),
        (lambda: stability_bound(ARCH, (0.1, 1.0), constants={"gradient": -1.0}), "constants: expected gradient to be"),
        (lambda: fit_constants(ARCH, 0.1, 1.0, -1.0), "gradient, displacement, distances: expected finite numbers of"),
        (lambda: fit_constants(ARCH, 0.9, 1.0, 1.0), "gradient: expected some measurement with sup"),
        (lambda: fit_constants(ARCH, 0.0, 0.0, 1.0), "distances: expected 0 where the field is zero, got 1"),
        (lambda: fit_constants("3 arccos0 gauss2", 0.1, 1.0, 1.0), r"arch: expected kernels with a finite kappa'\(1\)"),
        (lambda: commutator_constant(1.0, 2, 1.0), "gradient: expected a norm from 0 to below 1, got 1.0"),
        (lambda: commutator_constant(math.inf, 2), "beta: expected a number of at least 0, got inf"),
        (lambda: gradient_mass(3), r"axes: expected 1 \(signals\) or 2 \(images\), got 3"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
