"""Architectures, signals and errors for tests of fast recursions against the reference."""

import torch
from hypothesis import strategies as st

from hilbertnet.architecture import Architecture


def signals(n, shape, dtype=torch.float64, seed=0):
    """Random signals with a dark border, so that some patches are zero, and one that is all zero."""
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[..., :2] = 0
    x[-1] = 0
    return x.to(dtype)


def relative(found, expected):
    """Largest error, relative to the largest value."""
    scale = expected.abs().max().clamp(min=1e-30)
    return float((found.double() - expected.double()).abs().max() / scale)


def coarse(arch, tangent):
    """Whether kappa_0 near 1 has its part, which is good to 1e-8 only."""
    return any(str(layer.kernel).startswith("arccos0") for layer in arch.layers) or (
        tangent and any(str(layer.kernel) == "arccos1" for layer in arch.layers)
    )


@st.composite
def cases(draw):
    """An architecture, the shape of a signal that suits it, and whether the tangent kernel is asked for."""
    layout = draw(st.sampled_from(["hilbertnet", "hilbertnet", "ckn_kernel"]))
    boundary = "zero" if layout == "ckn_kernel" else draw(st.sampled_from(["zero", "valid", "circular"]))
    tangent = draw(st.booleans())
    names = ["exp(0.6)", "arccos1", "poly2", "poly(1,3)", "inverse", "vovk3", "linear", "dual(gelu)"]
    names += [] if tangent else ["arccos0"]
    pools = ["-", "gauss2", "avg2", "stride2", "avg3/2", "gauss2/1", "global"]
    layers = [
        f"{draw(st.integers(1, 4))} {draw(st.sampled_from(names))} {draw(st.sampled_from(pools))}"
        for _ in range(draw(st.integers(1, 3)))
    ]
    sigma0 = draw(st.sampled_from([0.0, 0.5]))
    arch = Architecture.parse(" | ".join(layers), boundary=boundary, layout=layout, sigma0=sigma0)
    axes = draw(st.integers(1, 2))
    shape = (draw(st.integers(1, 4)), *(draw(st.integers(5, 11)) for _ in range(axes)))
    return arch, shape, tangent
