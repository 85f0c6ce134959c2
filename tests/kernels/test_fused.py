"""The compiled recursion against the reference in plain torch, and its kernels against mpmath."""

import logging
import math
import os
import subprocess
import sys
from contextlib import contextmanager

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recursion_cases import cases, coarse, relative, signals

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.dot_product import (
    ArcCosine,
    DotProductKernel,
    Dual,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Power,
    Vovk,
)
from hilbertnet.architecture.layers import Layer
from hilbertnet.kernels import ConvKernel, engine, fused_kappa, recursion
from hilbertnet.kernels.fused_program import make_program

KERNELS = [
    Exponential(0.6),
    Exponential(0.05),
    ArcCosine(0),
    ArcCosine(1),
    Linear(),
    Power(2),
    Power(3),
    Power(9),
    Polynomial(1.5, 5),
    InversePolynomial(),
    Vovk(),
    Dual("gelu"),
    Dual("erf"),
]
DTYPES = [torch.float32, torch.float64]


def both_ways(arch, x, y, tangent, **how):
    """Passes of x with itself, and of all pairs, compiled and by the reference."""
    assert make_program(arch, tuple(x.shape[1:]), np.dtype(str(x.dtype)[6:]), own=False) is not None
    found = []
    for code in (engine, recursion):
        own, other = (code.self_pass(arch, part, tangent=tangent) for part in (x, y))
        found.append((own, code.cross_pass(arch, own, other, tangent=tangent, **how)))
    return found


# ------------------------------------------------------------------------------------------- kappa


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_rows_of_kappa_and_its_slope(kernel, dtype):
    u = np.concatenate([np.linspace(-1, 1, 301), [0.999999, -0.999999, 1 - 1e-7, 1.0000001, -1.0000001]]).astype(dtype)
    code, par = fused_kappa.encode(kernel, np.dtype(dtype))
    ones, tmp = np.ones_like(u), np.zeros((5, len(u)), dtype)
    value, both = np.zeros_like(u), np.zeros_like(u)
    one, three = dtype(1), dtype(3)
    terms = (np.zeros_like(u), u, np.zeros_like(u))
    fused_kappa.value_row(code, np.array(par, dtype), *terms, one, three, ones, ones, value, tmp)
    exact = torch.from_numpy(u).double().clamp(-1, 1)
    expected = 3 * kernel.value(exact).numpy()
    eps = 1e-6 if dtype == np.float32 else 2e-14
    size = abs(expected).max()
    loose = 4e-4 if dtype == np.float32 else 4e-8
    np.testing.assert_allclose(value, expected, rtol=50 * eps, atol=eps * size)
    if math.isfinite(kernel.slope):
        slope = kernel.derivative(exact).numpy()
        for same, other in ((False, 1.0), (True, u)):
            fused_kappa.both_row(
                code, np.array(par, dtype), *terms, ones, same, one, one, three, ones, ones, value, both, tmp
            )
            error = np.abs(both - (other * slope + expected)).max()
            assert error <= (loose if isinstance(kernel, ArcCosine) else 10 * eps) * max(size, kernel.slope)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_polynomials_of_arc_cosine_kernels_against_extended_precision(dtype):
    u = np.linspace(-1, 1, 401).astype(dtype)
    ones, tmp, out = np.ones_like(u), np.zeros((5, len(u)), dtype), np.zeros_like(u)
    with mpmath.workdps(30):
        angle = [mpmath.acos(mpmath.mpf(float(c))) for c in u]
        exact = {
            0: [float(1 - t / mpmath.pi) for t in angle],
            1: [float((mpmath.cos(t) * (mpmath.pi - t) + mpmath.sin(t)) / mpmath.pi) for t in angle],
        }
    for order, expected in exact.items():
        code, _ = fused_kappa.encode(ArcCosine(order), np.dtype(dtype))
        fused_kappa.value_row(code, np.zeros(0, dtype), u, 0 * u, 0 * u, dtype(1), dtype(1), ones, ones, out, tmp)
        assert np.abs(out - expected).max() < 2 * np.finfo(dtype).eps


def test_far_exponentials_stay_positive_and_do_not_wrap_around():
    for dtype in (np.float32, np.float64):
        u, tmp, out = np.linspace(-1, 1, 99).astype(dtype), np.zeros((5, 99), dtype), np.zeros(99, dtype)
        code, par = fused_kappa.encode(Exponential(0.01), np.dtype(dtype))
        fused_kappa.value_row(
            code, np.array(par, dtype), u, 0 * u, 0 * u, dtype(1), dtype(1), np.ones_like(u), np.ones_like(u), out, tmp
        )
        assert (out > 0).all()
        assert (np.diff(out) >= 0).all()
        assert out[-1] == 1


class Kinked(DotProductKernel):
    """No series in the angle stands for it."""

    def value(self, u):
        return (u.abs() + (u - 0.3).abs()) / 1.7

    def derivative(self, u):
        return (u.sign() + (u - 0.3).sign()) / 1.7

    def coefficients(self, count):
        raise NotImplementedError

    slope = 2.0

    def __str__(self):
        return "kinked"

    def __eq__(self, other):
        return isinstance(other, Kinked)

    def __hash__(self):
        return 1


class Cosine(Kinked):
    """A user's own kernel: smooth."""

    def value(self, u):
        return torch.exp(u - 1) * (2 + u) / 3

    def derivative(self, u):
        return torch.exp(u - 1) * (3 + u) / 3

    slope = 4 / 3

    def __eq__(self, other):
        return isinstance(other, Cosine)

    def __hash__(self):
        return 2


def test_a_kernel_of_the_users_own_is_tabulated():
    arch = Architecture([Layer(3, Cosine())])
    x = signals(3, (1, 6, 5))
    fast, slow = both_ways(arch, x, x, True)
    for found, expected in zip(fast[1], slow[1], strict=True):
        assert relative(found, expected) < 1e-12


def test_what_has_no_table_takes_the_reference_and_says_so_once(caplog):
    engine._made.cache_clear()
    arch, x = Architecture([Layer(3, Kinked())]), signals(3, (1, 6, 5)).numpy()
    with caplog.at_level(logging.WARNING, logger="hilbertnet"):
        for _ in range(3):
            found = ConvKernel(arch).gram(x)
    assert len(caplog.records) == 1
    assert "slower" in caplog.text
    own = recursion.self_pass(arch, torch.from_numpy(x), tangent=False)
    np.testing.assert_allclose(found, recursion.cross_pass(arch, own, own, tangent=False)[0], rtol=1e-12)


# --------------------------------------------------------------------------------------- recursion


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 100))
def test_compiled_is_the_reference(case, dtype, seed):
    arch, shape, tangent = case
    try:
        arch.shapes(shape[1:])
    except ValueError:
        return
    x, y = signals(4, shape, dtype, seed), signals(3, shape, dtype, seed + 1)
    fast, slow = both_ways(arch, x, y, tangent)
    single = dtype == torch.float32
    exact = slow if not single else both_ways(arch, x.double(), y.double(), tangent)[1]
    limit = (2e-4 if coarse(arch, tangent) else 1e-5) if single else (1e-8 if coarse(arch, tangent) else 1e-12)
    for found, expected in zip(fast[1], exact[1], strict=True):
        if expected is not None:
            assert relative(found, expected) < limit
    own = (2e-4 if single else 1e-8) if coarse(arch, tangent) else limit
    assert relative(fast[0].ckn, exact[0].ckn) < own
    if tangent:
        assert relative(fast[0].ntk, exact[0].ntk) < own
    for found, expected in zip(fast[0].norms, exact[0].norms, strict=True):
        assert found.shape == expected.shape
        assert relative(found, expected) < own


UNEVEN = [("3 exp(0.6) gauss2/1 | 3 linear stride2", (1, 7, 8)), ("3 exp(0.6) avg3/1 | 3 exp(0.6) stride3", (1, 6, 8))]


@settings(max_examples=60, deadline=None)
@given(case=cases(), seed=st.integers(0, 100))
@example(case=(Architecture.parse(UNEVEN[0][0]), UNEVEN[0][1], True), seed=0)
@example(case=(Architecture.parse(UNEVEN[1][0]), UNEVEN[1][1], False), seed=0)
def test_what_was_in_the_workspace_before_changes_nothing(case, seed):
    """Layers share their rows; where the ranges of rows differ, sums reach beyond what is there of some."""
    arch, shape, tangent = case
    try:
        arch.shapes(shape[1:])
    except ValueError:
        return
    x, found = signals(4, shape, seed=seed), []
    for rubbish in (0.0, 1e3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "_Workspaces", lambda *how, value=rubbish: Rubbish(value, *how))
            own = engine.self_pass(arch, x, tangent=tangent)
            found.append((own, engine.cross_pass(arch, own, own, tangent=tangent)))
    (clean, values), (other, others) = found
    assert (clean.ckn == other.ckn).all()
    for one, two in zip((*clean.norms, *values), (*other.norms, *others), strict=True):
        assert one is two is None or (one == two).all()


class Rubbish(engine._Workspaces):
    """Workspaces whose rows are not empty at first, as they are not after another layer."""

    def __init__(self, value, *how):
        super().__init__(*how)
        self.value = value

    @contextmanager
    def lent(self):
        with super().lent() as (work, whole, states):
            work[:] = self.value
            yield work, whole, states


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (20, 60)])
def test_compiled_is_the_reference_at_the_sizes_people_use(shape, tangent):
    arch = Architecture.parse("3 exp(0.6) gauss2 | 3 exp(0.6) gauss5")
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fast, slow = both_ways(arch, x, x, tangent)
    for found, expected in zip(fast[1], slow[1], strict=True):
        assert expected is None or relative(found, expected) < 1e-12
    single, _ = both_ways(arch, x.float(), x.float(), tangent)
    for found, expected in zip(single[1], slow[1], strict=True):
        assert expected is None or relative(found, expected) < 1e-5


def test_pairs_one_by_one_and_half_of_them_are_the_same_numbers():
    arch = Architecture.parse("3 arccos1 gauss2 | 2 exp(0.6) -")
    x = signals(19, (2, 8, 9))
    own = engine.self_pass(arch, x, tangent=True)
    for whole, half, single in zip(
        engine.cross_pass(arch, own, own, tangent=True),
        engine.cross_pass(arch, own, own, tangent=True, symmetric=True),
        engine.cross_pass(arch, own, own, tangent=True, elementwise=True),
        strict=True,
    ):
        assert (half == half.T).all()
        torch.testing.assert_close(half, whole, rtol=1e-12, atol=1e-12)
        assert (single == whole.diagonal()).all()


def test_the_number_of_threads_changes_nothing():
    kernel, x = ConvKernel("3 exp(0.6) gauss2 | 3 arccos1 -", "ntk"), signals(21, (1, 9, 9)).numpy()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(kernel.gram(x))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_signals_that_need_a_gradient_take_the_reference():
    kernel = ConvKernel("3 exp(0.6) gauss2")
    x = signals(3, (1, 6, 6))[:2].clone().requires_grad_()
    kernel.diag(x).sum().backward()
    assert x.grad.abs().sum() > 0
    own = engine.self_pass(kernel.arch, x.detach(), tangent=False)
    torch.testing.assert_close(kernel.diag(x).detach(), own.ckn, rtol=1e-12, atol=0)


def test_rows_of_zeros_have_kernel_zero():
    found = ConvKernel("3 exp(0.6) gauss2 | 3 exp(0.6) -", "ntk").gram(signals(4, (1, 7, 7)).numpy())
    assert np.isfinite(found).all()
    assert (found[-1] == 0).all()


@pytest.mark.slow
def test_a_second_process_finds_the_compiled_code_on_disk(tmp_path):
    code = (
        "import numpy as np, torch; from hilbertnet.kernels import ConvKernel, fused_cpu as f;"
        "ConvKernel('3 exp(0.6) gauss2').gram(np.random.RandomState(0).rand(3, 1, 8, 8));"
        "print(sum(f.block.stats.cache_hits.values()), sum(f.block.stats.cache_misses.values()))"
    )
    found = []
    for _ in range(2):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.append([*done.stdout.split(), "compiling the exact kernels (float64)" in done.stderr])
    assert found == [["0", "1", True], ["1", "0", False]]
