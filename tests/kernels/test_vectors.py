"""Gram matrices against the values of two other programs, kept in ``vectors``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hilbertnet.architecture import Architecture
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.recursion import self_pass

FOLDER = Path(__file__).parent / "vectors"
SETTINGS = json.loads((FOLDER / "ckn_kernel_f64.json").read_text(encoding="utf-8"))
CKN_KERNEL = dict(np.load(FOLDER / "ckn_kernel_f64.npz"))
NEURAL_TANGENTS = dict(np.load(FOLDER / "neural_tangents_f64.npz"))

# case: shape, numbers of signals, architecture, and the constant between the two conventions, see below
NT_CASES = {
    "mnist_c3r_p2_c3r_p2_flatten": ((28, 28, 1), 4, 2, "3 arccos1 avg2 | 3 arccos1 avg2", 2 / (1 * 7 * 7)),
    "small_myrtle5_16x16": (
        (16, 16, 3),
        4,
        2,
        "3 arccos1 - | 3 arccos1 avg2 | 3 arccos1 avg2 | 3 arccos1 avg4",
        2 / (3 * 1 * 1),
    ),
}


def inputs(shape, nx, ny, name=""):
    """The inputs that the vectors' README describes, channels moved to where this library has them."""
    state = np.random.RandomState(42)
    x, y = state.rand(nx, *shape), state.rand(ny, *shape)
    if "signed" in name:
        x, y = 2 * x - 1, 2 * y - 1
    return np.moveaxis(x, -1, 1), np.moveaxis(y, -1, 1)


def published_architecture(model):
    kernels = {"relu": "arccos1", "linear": "linear"}
    pools = {"gaussian": "gauss", "average": "avg"}
    layers = []
    for layer in model:
        name = layer["kernel"]
        kernel = f"exp({layer['sigma']})" if name == "exp" else kernels.get(name, name)
        size = layer.get("poolfactor", layer["subsampling"])
        layers.append(f"{layer['npatch']} {kernel} {pools[layer['pooling']]}{size}/{layer['subsampling']}")
    return Architecture.parse(" | ".join(layers), layout="ckn_kernel")


def relative_error(found, expected):
    return np.abs(found / expected - 1)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "tolerance_ntk_self"), [(torch.float64, 1e-12, 1e-8), (torch.float32, 1e-5, 2e-4)]
)
@pytest.mark.parametrize("case", sorted(SETTINGS))
def test_ckn_kernel_values(case, dtype, tolerance, tolerance_ntk_self):
    settings = SETTINGS[case]
    kernel = ConvKernel(published_architecture(settings["model"]), "ntk" if settings["ntk"] else "ckn")
    x, y = inputs(settings["shape"], settings["nX"], settings["nY"], case)
    error = relative_error(kernel.gram(x, dtype=dtype), CKN_KERNEL[f"{case}__Kxx"])
    itself = np.eye(len(x), dtype=bool)
    assert error[~itself].max() < tolerance
    assert error[itself].max() < (tolerance_ntk_self if settings["ntk"] else tolerance)
    assert relative_error(kernel.gram(x, y, dtype=dtype), CKN_KERNEL[f"{case}__Kxy"]).max() < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", [case for case in sorted(SETTINGS) if f"{case}__norm0_x0" in CKN_KERNEL])
def test_ckn_kernel_norms_of_patches(case, dtype, tolerance):
    settings = SETTINGS[case]
    x, _ = inputs(settings["shape"], settings["nX"], settings["nY"], case)
    found = self_pass(
        published_architecture(settings["model"]), torch.tensor(x[:1], dtype=dtype), tangent=settings["ntk"]
    )
    for layer, norms in enumerate(found.norms):
        expected = CKN_KERNEL[f"{case}__norm{layer}_x0"]
        assert relative_error(norms[0].numpy(), expected).max() < tolerance


# What neural-tangents computes, with W_std = sqrt(2) and no bias, and what this library computes:
# - it starts from (1/c) <x(u), y(u')>, this library from <x(u), y(u')>: a factor 1/c, which every layer, homogeneous,
#   hands on;
# - a convolution takes 2/9 times the sum over the patch and E[relu relu] is half of arc-cosine 1: 2/9 * 1/2 = 1/9 is
#   this library's |S|^-1 = 1/9. The average poolings agree;
# - its tangent kernel after relu is T' = k0 (P K + P T'), which starts at 0, and this library's T = k0 P T + K, which
#   starts at K: T = T' + K solves the one when T' solves the other. The last dense layer gives 2 K, and
#   2 K + 2 T' = 2 T;
# - Flatten takes the mean over the last positions, this library the sum.
# In all, 2 / (c * positions), for both kernels.
@pytest.mark.parametrize(
    ("dtype", "tolerance", "tolerance_ntk_self"), [(torch.float64, 1e-12, 1e-8), (torch.float32, 1e-5, 2e-4)]
)
@pytest.mark.parametrize("case", sorted(NT_CASES))
def test_neural_tangents_values(case, dtype, tolerance, tolerance_ntk_self):
    shape, nx, ny, text, factor = NT_CASES[case]
    kernel = ConvKernel(text)
    x, y = inputs(shape, nx, ny)
    itself = np.eye(nx, dtype=bool)
    for kind, found in zip(("nngp", "ntk"), kernel.gram_pair(x, dtype=dtype), strict=True):
        error = relative_error(factor * found, NEURAL_TANGENTS[f"{case}__Kxx_{kind}"])
        assert error[~itself].max() < tolerance
        assert error[itself].max() < (tolerance_ntk_self if kind == "ntk" else tolerance)
    for kind, found in zip(("nngp", "ntk"), kernel.gram_pair(x, y, dtype=dtype), strict=True):
        assert relative_error(factor * found, NEURAL_TANGENTS[f"{case}__Kxy_{kind}"]).max() < tolerance


def test_the_two_programs_agree_through_this_library():
    """The published layout's Gram times 2 / (9 c * 9 (h/4)^2) is neural-tangents' Gram, for both kernels."""
    case = "mnist_c3r_p2_c3r_p2_flatten"
    shape, nx, ny, text, _ = NT_CASES[case]
    x, y = inputs(shape, nx, ny)
    height, channels = shape[0], shape[2]
    factor = 2 / (9 * channels * 9 * (height / 4) ** 2)
    kernel = ConvKernel(Architecture.parse(text, layout="ckn_kernel"))
    for kind, found in zip(("nngp", "ntk"), kernel.gram_pair(x, y), strict=True):
        assert relative_error(factor * found, NEURAL_TANGENTS[f"{case}__Kxy_{kind}"]).max() < 1e-12


def test_every_stored_array_is_compared():
    ours = {f"{case}__{part}_{kind}" for case in NT_CASES for part in ("Kxx", "Kxy") for kind in ("nngp", "ntk")}
    assert ours == set(NEURAL_TANGENTS)
    grams = {f"{case}__{part}" for case in SETTINGS for part in ("Kxx", "Kxy")}
    norms = {name for name in CKN_KERNEL if "__norm" in name}
    assert grams | norms == set(CKN_KERNEL)
    assert norms == {f"{case}__norm{k}_x0" for case in SETTINGS if not SETTINGS[case]["ntk"] for k in (0, 1)}
