"""The recursion that torch's compiler fuses for accelerators, against the reference; step by step where it is slow."""

import logging
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from recursion_cases import cases, coarse, relative, signals

from hilbertnet.architecture import Architecture
from hilbertnet.kernels import ConvKernel, engine, fused_gpu, recursion
from hilbertnet.kernels.tiles import make_plan


def errors(arch, x, y, tangent, *, compiled):
    """Relative to the reference in float64."""
    own, other = (recursion.self_pass(arch, part, tangent=tangent) for part in (x, y))
    found = fused_gpu.cross_pass(arch, own, other, tangent=tangent, compiled=compiled)
    exact = [recursion.self_pass(arch, part.double(), tangent=tangent) for part in (x, y)]
    expected = recursion.cross_pass(arch, *exact, tangent=tangent)
    assert found[0].dtype == x.dtype
    assert (found[1] is None) == (not tangent)
    return [relative(*pair) for pair in zip(found, expected, strict=True) if pair[1] is not None]


def limit(arch, tangent, dtype):
    if dtype == torch.float32:
        return 2e-4 if coarse(arch, tangent) else 1e-5
    return 1e-8 if coarse(arch, tangent) else 1e-12


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_step_by_step_it_is_the_reference(case):
    arch, shape, tangent = case
    try:
        arch.shapes(shape[1:])
    except ValueError:
        return
    for dtype in (torch.float64, torch.float32):
        x, y = signals(4, shape, dtype, 0), signals(3, shape, dtype, 1)
        assert max(errors(arch, x, y, tangent, compiled=False)) < limit(arch, tangent, dtype)


ARCHITECTURES = [
    ("3 exp(0.6) gauss2 | 3 exp(0.6) gauss3", "zero", (1, 9, 8)),
    ("3 arccos1 avg3/2 | 2 arccos1 -", "circular", (2, 8, 8)),
    ("4 dual(gelu) gauss2 | 3 poly2 global", "valid", (4, 20)),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's, of torch itself
@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize(("text", "boundary", "shape"), ARCHITECTURES)
def test_compiled_it_is_the_reference(text, boundary, shape, tangent):
    arch = Architecture.parse(text, boundary=boundary)
    for n, m in ((3, 4), (5, 2)):  # a second size is no second architecture
        x, y = signals(n, shape, torch.float32, 0), signals(m, shape, torch.float32, 1)
        assert max(errors(arch, x, y, tangent, compiled=True)) < limit(arch, tangent, torch.float32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's, of torch itself
def test_the_compiler_does_not_give_up_after_many_architectures():
    x = signals(2, (1, 6))
    for sigma in range(1, 11):
        arch = Architecture.parse(f"2 exp({sigma}) -")
        assert max(errors(arch, x, x, False, compiled=True)) < 1e-12


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize(("text", "boundary", "shape"), ARCHITECTURES)
def test_on_a_gpu_it_is_the_reference(text, boundary, shape, tangent):
    arch = Architecture.parse(text, boundary=boundary)
    kernel = ConvKernel(arch, "ntk" if tangent else "ckn")
    x = signals(5, shape)
    for dtype in (torch.float32, torch.float64):
        found = kernel.gram(x.to("cuda", dtype), dtype=dtype)
        assert found.device.type == "cuda"
        assert relative(found.cpu(), kernel.gram(x)) < limit(arch, tangent, dtype)
    assert not engine._without_compiler


# ----------------------------------------------------------------------- where there is no accelerator


@pytest.fixture
def cpu_as_accelerator(monkeypatch):
    """The doors take the way of an accelerator on the CPU."""
    monkeypatch.setattr(engine, "ACCELERATORS", ("cpu",))
    monkeypatch.setattr(engine, "_PLAIN", {})
    monkeypatch.setattr(engine, "_without_compiler", set())


def test_where_nothing_compiles_plain_torch_is_used_and_it_is_said_once(cpu_as_accelerator, monkeypatch, caplog):
    def broken(*arguments):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(fused_gpu, "compiled_pairs", broken)
    kernel, x = ConvKernel("3 exp(0.6) gauss2", "ntk"), signals(6, (1, 6, 5)).numpy()
    with caplog.at_level(logging.WARNING, logger="hilbertnet"):
        found = [kernel.gram(x) for _ in range(2)]
    assert [record.getMessage() for record in caplog.records] == [
        "cpu: torch cannot compile the exact kernels, they are several times slower: no compiler"
    ]
    own = recursion.self_pass(kernel.arch, torch.from_numpy(x), tangent=True)
    expected = recursion.cross_pass(kernel.arch, own, own, tangent=True)[1]
    for one in found:
        assert relative(torch.from_numpy(one), expected) < 1e-8


def test_too_little_memory_is_not_taken_for_a_broken_compiler(cpu_as_accelerator, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(fused_gpu, "compiled_pairs", full)
    with pytest.raises(torch.OutOfMemoryError):
        ConvKernel("3 exp(0.6) gauss2").gram(signals(6, (1, 6, 5)))
    assert not engine._without_compiler


def test_pairs_one_by_one_and_gradients_take_the_reference(cpu_as_accelerator, monkeypatch):
    monkeypatch.setattr(fused_gpu, "compiled_pairs", fused_gpu.make_pairs)
    kernel, x = ConvKernel("3 exp(0.6) gauss2"), signals(3, (1, 6, 6))[:2].clone().requires_grad_()
    distance = kernel.distance(x, torch.zeros(2, 1, 6, 6))
    distance.sum().backward()
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(distance, kernel.norm(x), rtol=1e-12, atol=0)


def test_tiles_of_an_accelerator_are_as_large_as_its_memory_allows(monkeypatch):
    def sides(total):
        properties = SimpleNamespace(total_memory=total)
        module = SimpleNamespace(get_device_properties=lambda device: properties)
        monkeypatch.setattr(torch, "get_device_module", lambda device: module)
        return plan("cuda").side

    def plan(device):
        arch = Architecture.parse("3 exp(0.6) gauss2 | 3 exp(0.6) gauss5")
        options = {"dtype": torch.float32, "results": 1, "tangent": False, "memory": None}
        return make_plan(arch, (1, 28, 28), 50_000, None, **options, device=torch.device(device))

    small, large, largest = sides(8 * 2**30), sides(24 * 2**30), sides(2**40)
    assert plan("cpu").side < small < large < largest
    for side, budget in ((small, 2 * 2**30), (large, 6 * 2**30), (largest, 16 * 2**30)):
        assert side**2 * plan("cpu").pair_bytes <= budget < (side + 1) ** 2 * plan("cpu").pair_bytes
