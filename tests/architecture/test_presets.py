"""Named architectures against their publications, spelled out."""

import pytest

from hilbertnet.architecture import PRESETS, Architecture, default_architecture, preset
from hilbertnet.architecture.presets import exact_model


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_reads_back_suits_small_images_and_names_its_source(name):
    found = preset(name)
    assert Architecture.parse(str(found.architecture)) == found.architecture
    side = 28 if "mnist" in name or "digits" in name else 32
    shapes = found.architecture.shapes((side, side))
    assert min(shapes[-1][1]) >= 1
    assert any(year in found.source for year in ("2016", "2019", "2020", "2022"))
    assert found.kind in ("ckn", "ntk")
    if found.filters is not None:
        assert len(found.filters) == len(found.architecture.layers)


@pytest.mark.parametrize(
    ("name", "text", "filters"),
    [
        ("ckn-64-256", "3 exp(0.6) gauss2 | 3 exp(0.6) gauss6", (64, 256)),
        ("ckn-256-1024", "3 exp(0.6) gauss2 | 3 exp(0.6) gauss6", (256, 1024)),
        ("ckn-512-8192", "3 exp(0.6) gauss2 | 2 exp(0.6) gauss6", (512, 8192)),
        (
            "ckn-5",
            "3 exp(0.5) gauss2 | 1 poly2 - | 3 exp(0.5) gauss2 | 1 poly2 - | 3 exp(0.5) gauss3",
            (128, 128, 128, 128, 128),
        ),
        (
            "ckn-14",
            "3 exp(0.5) - | 1 poly2 - | 3 exp(0.5) - | 1 poly2 gauss2 | 3 exp(0.5) - | 1 poly2 - | 3 exp(0.5) - | "
            "1 poly2 gauss2 | 3 exp(0.5) - | 1 poly2 - | 3 exp(0.5) - | 1 poly2 gauss2 | 3 exp(0.5) - | 1 poly2 gauss2",
            (256, 128, 256, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256, 256),
        ),
        ("exp-exp", "3 exp(0.6) gauss2 | 3 exp(0.6) gauss5", None),
        ("exp-poly3", "3 exp(0.6) gauss2 | 3 poly3 gauss5", None),
        ("poly2-exp", "3 poly2 gauss2 | 3 exp(0.6) gauss5", None),
        ("exp-lin", "3 exp(0.6) gauss2 | 3 linear gauss5", None),
        ("exp-poly4-5x5", "3 exp(0.6) gauss2 | 5 poly4 gauss5", None),
        ("exp-poly2-7x7", "3 exp(0.6) gauss2 | 7 poly2 gauss5", None),
        ("exp-poly2-1x1", "3 exp(0.6) gauss2 | 1 poly2 gauss5", None),
        ("exp-exp-exp", "3 exp(0.6) gauss2 | 3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", None),
        ("exp-lin-poly4", "3 exp(0.6) gauss2 | 3 linear gauss2 | 3 poly4 gauss2", None),
        ("relu-relu", "3 arccos1 gauss2 | 3 arccos1 gauss5", None),
        ("exact-conv5-pool8", "5 exp(0.6) gauss8", None),
        ("exact-conv6-pool2-5", "6 exp(0.6) gauss2 | 6 exp(0.6) gauss5", None),
        ("exact-conv3-pool2-5-nosub", "3 exp(0.6) gauss2/1 | 3 exp(0.6) gauss5/1", None),
        ("cntk-3", "3 arccos1 - | 3 arccos1 - | 3 arccos1 -", None),
        ("cntk-3-gap", "3 arccos1 - | 3 arccos1 - | 3 arccos1 global", None),
    ],
)
def test_presets_of_the_literature(name, text, filters):
    assert str(preset(name).architecture) == text
    assert preset(name).filters == filters


@pytest.mark.parametrize("depth", [3, 4, 6, 11, 21])
def test_tangent_kernels_have_their_depth(depth):
    assert len(preset(f"cntk-{depth}").architecture.layers) == depth
    assert preset(f"cntk-{depth}-gap").kind == "ntk"


def test_only_the_kind_parts_the_relu_kernel_from_its_tangent_kernel():
    assert preset("relu-ntk").architecture == preset("relu-relu").architecture
    assert (preset("relu-relu").kind, preset("relu-ntk").kind) == ("ckn", "ntk")


def test_myrtle10_pools_thrice():
    layers = preset("myrtle10-exp").architecture.layers
    assert [str(layer) for layer in layers] == [
        f"3 exp(1) {pool}" for pool in ("-", "-", "avg2", "-", "-", "avg2", "-", "-", "avg8")
    ]
    assert preset("myrtle10-exp").architecture.shapes((32, 32))[-1][1] == (1, 1)


def test_unsupervised_network_leaves_three_by_three():
    assert preset("ckn-64-256").architecture.shapes((32, 32))[-1][1] == (3, 3)


@pytest.mark.parametrize(
    ("name", "hint"), [("ckn-6", "did you mean 'ckn-5'"), ("exp-pol4", "did you mean 'exp-poly4'"), ("@", "")]
)
def test_unknown_names_are_answered_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=rf"^preset: unknown name '{name}'.*{hint}"):
        preset(name)


def test_exact_models_need_as_many_patches_as_kernels():
    with pytest.raises(ValueError, match="shorter"):
        exact_model("exp(0.6) poly2", (3,), (2, 5))


@pytest.mark.parametrize("space", [(1,), (2, 2), (3,), (4, 4), (8, 8), (15,), (16, 16), (28, 28), (32, 32), (5, 300)])
def test_default_architecture_suits_every_space(space):
    assert min(default_architecture(space).shapes(space)[-1][1]) >= 1
