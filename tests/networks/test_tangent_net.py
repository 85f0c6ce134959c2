"""Networks in the tangent kernel's parametrization: against the exact kernel and the network written out."""

import math

import pytest
import torch

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import antialias, extract_patches, pool_features
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks.tangent import ntk_network


def signals(n, channels, space, seed=0):
    return torch.randn(n, channels, *space, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel_by_loops(network, x):
    rows = [torch.autograd.grad(network(one[None])[0, 0], list(network.parameters())) for one in x]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return jacobian @ jacobian.T


def test_outputs_are_those_of_the_network_written_out():
    arch = Architecture.parse("3 arccos1 gauss2 | 2 arccos1 -", sigma0=0.6)
    net, x = ntk_network(arch, 2, (5, 7), space=(6, 5), outputs=3, generator=0).double(), signals(4, 2, (6, 5))
    maps = antialias(x, 0.6, arch)
    for layer, random in zip(arch.layers, net.features.layers, strict=True):
        z = extract_patches(maps, layer.patch, arch)
        inner = torch.einsum("wi,nihv->nwhv", random.weight.flatten(1), z)
        maps = pool_features(inner.relu() * math.sqrt(2 / len(random.weight)), layer.pool, arch)
    torch.testing.assert_close(net(x), maps.flatten(1) @ net.readout.T, rtol=1e-12, atol=1e-12)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("3 arccos1 avg2 | 3 arccos1 avg2", {"boundary": "circular"}),
        ("3 dual(tanh) avg2 | 2 arccos1 global", {"boundary": "valid"}),
        ("3 exp(0.7) avg2 | 2 dual(gelu) -", {"sigma0": 0.5}),
    ],
)
def test_the_mean_over_wide_networks_is_the_exact_tangent_kernel(text, options):
    """Within four standard errors, and a bias of the order of 1 / width."""
    arch, x = Architecture.parse(text, **options), signals(3, 2, (8,))
    rng, width = torch.Generator().manual_seed(0), 400
    nets = (ntk_network(arch, 2, width, space=(8,), generator=rng).double() for _ in range(60))
    draws = torch.stack([kernel_by_loops(net, x) for net in nets])
    exact, error = ConvKernel(arch, kind="ntk").gram(x), draws.std(0) / math.sqrt(len(draws))
    assert (error < 0.025 * exact.abs().max()).all()  # else the test sees nothing
    assert ((draws.mean(0) - exact).abs() < 4 * error + 2 / width * exact.abs().max()).all()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["3 arccos1 - | 3 arccos1 avg2 | 2 arccos1 global", "3 exp(0.8) avg2 | 3 dual(erf) -"])
def test_in_two_dimensions(text):
    x, rng = signals(3, 1, (6, 5)), torch.Generator().manual_seed(0)
    nets = (ntk_network(text, 1, 300, space=(6, 5), generator=rng).double() for _ in range(120))
    draws = torch.stack([kernel_by_loops(net, x) for net in nets])
    exact, error = ConvKernel(text, kind="ntk").gram(x), draws.std(0) / math.sqrt(len(draws))
    assert (error < 0.025 * exact.abs().max()).all()
    assert ((draws.mean(0) - exact).abs() < 4 * error + 2 / 300 * exact.abs().max()).all()


def test_weights_come_from_the_seed():
    first, second, third = (ntk_network("3 arccos1 -", 1, 4, space=(5,), generator=seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert (first.readout != third.readout).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": 8}, "^space: expected"),
        ({"space": (8, 8, 8)}, "^space: expected"),
        ({"space": (0, 8)}, "^space: expected"),
        ({"outputs": 0}, "^outputs: expected a whole number of at least 1"),
        ({"width": 0}, "^width: expected"),
        ({"in_channels": 0}, "^in_channels: expected"),
        ({"arch": "3 arccos1 - | 3 arccos0 -"}, "which arccos0 of layer 2 has not"),
        ({"arch": "3 linear -"}, "^layer 1: arch: expected kernels"),
        ({"arch": 3}, "^arch: expected an Architecture"),
        ({"arch": Architecture.parse("9 arccos1 -", boundary="valid")}, "^layer 1: expected a patch of at most 8"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ntk_network(**{"arch": "3 arccos1 -", "in_channels": 1, "width": 4, "space": (8, 8), **arguments})


def test_signals_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^x: expected shape \(n, 1, 8, 8\), got \(2, 1, 8, 9\)"):
        ntk_network("3 arccos1 -", 1, 4, space=(8, 8), generator=0)(torch.rand(2, 1, 8, 9))
