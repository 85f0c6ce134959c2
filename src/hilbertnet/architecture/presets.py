"""Architectures of the literature by name, for ``Architecture.parse``'s users, the command line and the experiments.

Names read as they are built: ``preset("ckn-64-256")``, ``preset("exp-poly4-5x5")``. `PRESETS` lists them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from hilbertnet.architecture.layers import Architecture
from hilbertnet.text import nearest

__all__ = ["PRESETS", "Preset", "default_architecture", "exact_model", "preset", "read_architecture"]

_CKN = "J. Mairal, End-to-end kernel learning with supervised convolutional kernel networks, NeurIPS 2016"
_BIETTI = "A. Bietti, Approximation and learning with deep convolutional models: a kernel perspective, ICLR 2022"
_THESIS = "A. Bietti, Foundations of deep convolutional models through kernel methods, 2019"
_ARORA = "S. Arora et al., On exact computation with an infinitely wide neural net, NeurIPS 2019"
_LI = "Z. Li et al., Enhanced convolutional neural tangent kernels, 2019"
_SHANKAR = "V. Shankar et al., Neural kernels without tangents, ICML 2020"


@dataclass(frozen=True)
class Preset:
    """An architecture with what else its publication fixed.

    Parameters
    ----------
    architecture
        The layers.
    source
        The publication.
    filters
        Numbers of filters of a finite network, or ``None`` for an exact kernel.
    kind
        ``"ckn"`` or ``"ntk"``, for exact kernels.
    """

    architecture: Architecture
    source: str
    filters: tuple[int, ...] | None = None
    kind: str = "ckn"


def exact_model(kernels: str, patches: tuple[int, ...], pools: tuple[int, ...], **conventions: Any) -> Architecture:
    """Layers with the given kernels (blank separated text), patches and Gaussian pools (a stride of 1 means none).

    Examples
    --------
    >>> str(exact_model("exp(0.6) poly3", (3, 5), (2, 5)))
    '3 exp(0.6) gauss2 | 5 poly3 gauss5'
    """
    words = kernels.split()
    layers = [
        f"{patch} {kernel} {'-' if pool == 1 else f'gauss{pool}'}"
        for kernel, patch, pool in zip(words, patches, pools, strict=True)
    ]
    return Architecture.parse(" | ".join(layers), **conventions)


def _networks() -> dict[str, Preset]:
    unsupervised = {(64, 256): (3, 3), (256, 1024): (3, 3), (512, 8192): (3, 2)}
    found = {
        f"ckn-{first}-{second}": Preset(
            exact_model("exp(0.6) exp(0.6)", patches, (2, 6)), _CKN, filters=(first, second)
        )
        for (first, second), patches in unsupervised.items()
    }
    found["ckn-5"] = Preset(
        exact_model("exp(0.5) poly2 exp(0.5) poly2 exp(0.5)", (3, 1, 3, 1, 3), (2, 1, 2, 1, 3)),
        _CKN,
        filters=(128,) * 5,
    )
    pools = (1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 2, 1, 2)
    found["ckn-14"] = Preset(
        exact_model("exp(0.5) poly2 " * 7, (3, 1) * 7, pools),
        _CKN,
        filters=(256, 128, 256, 128, *(256,) * 10),
    )
    return found


def _two_and_three_layers() -> dict[str, Preset]:
    short = {"exp": "exp(0.6)", "lin": "linear", "relu": "arccos1"}

    def model(names: str, patches: tuple[int, ...], pools: tuple[int, ...]) -> Preset:
        kernels = " ".join(short.get(name, name) for name in names.split("-"))
        return Preset(exact_model(kernels, patches, pools), _BIETTI)

    two = [
        "exp-exp",
        "exp-poly4",
        "exp-poly3",
        "exp-poly2",
        "poly2-exp",
        "poly2-poly2",
        "exp-lin",
        "relu-relu",
    ]
    three = ["exp-exp-exp", "exp-poly2-poly2", "exp-poly4-lin", "exp-lin-poly4", "exp-lin-lin"]
    wide = [
        ("exp-exp", 5),
        ("exp-poly4", 5),
        ("exp-poly3", 5),
        ("exp-poly2", 7),
        ("exp-poly2", 5),
        ("exp-poly2", 1),
    ]
    found = {names: model(names, (3, 3), (2, 5)) for names in two}
    found |= {names: model(names, (3, 3, 3), (2, 2, 2)) for names in three}
    found |= {f"{names}-{side}x{side}": model(names, (3, side), (2, 5)) for names, side in wide}
    relu = found["relu-relu"]
    found["relu-ntk"] = Preset(relu.architecture, relu.source, kind="ntk")
    found["mnist-exp"] = Preset(exact_model("exp(0.65) exp(0.65)", (3, 3), (2, 5)), _THESIS)
    found["deformed-digits-ckn"] = Preset(relu.architecture, _THESIS)
    found["deformed-digits-ntk"] = Preset(relu.architecture, _THESIS, kind="ntk")
    return found


def _exact_grid() -> dict[str, Preset]:
    """The grid of exact models: every layer's patch, the pools, and the variants that pool without subsampling."""
    found = {}
    for conv in (3, 5, 6, 7):
        for pools in ((2, 5), (2, 2, 2), (8,), (10,)):
            patches, kernels = (conv,) * len(pools), " ".join(["exp(0.6)"] * len(pools))
            name = f"exact-conv{conv}-pool{'-'.join(map(str, pools))}"
            found[name] = Preset(exact_model(kernels, patches, pools), _BIETTI)
            nosub = " | ".join(f"{p} exp(0.6) gauss{size}/1" for p, size in zip(patches, pools, strict=True))
            found[f"{name}-nosub"] = Preset(Architecture.parse(nosub), _BIETTI)
    return found


def _peers() -> dict[str, Preset]:
    def repeated(depth: int, last: str, others: str = "-") -> Architecture:
        return Architecture.parse(" | ".join([f"3 arccos1 {others}"] * (depth - 1) + [f"3 arccos1 {last}"]))

    found = {}
    for depth in (3, 4, 6, 11, 21):
        found[f"cntk-{depth}"] = Preset(repeated(depth, "-"), _ARORA, kind="ntk")
        found[f"cntk-{depth}-gap"] = Preset(repeated(depth, "global"), _ARORA, kind="ntk")
    for kind, depth, reach in (
        ("ntk", 5, 12),
        ("ntk", 8, 16),
        ("ckn", 8, 16),
        ("ckn", 5, 16),
        ("ckn", 8, 12),
    ):
        name = f"{'cntk' if kind == 'ntk' else 'cnn-gp'}-{depth}-lap{reach}"
        # local average pooling over 2c + 1 pixels
        found[name] = Preset(repeated(depth, f"avg{2 * reach + 1}/1"), _LI, kind=kind)
    blocks = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}
    for depth, sizes in blocks.items():
        for short, kernel in (("exp", "exp(1)"), ("relu", "arccos1")):
            pools = [
                p
                for size, pool in zip(sizes, ("avg2", "avg2", "avg8"), strict=True)
                for p in ["-"] * (size - 1) + [pool]
            ]
            text = " | ".join(f"3 {kernel} {pool}" for pool in pools)
            found[f"myrtle{depth}-{short}"] = Preset(Architecture.parse(text), _SHANKAR)
    return found


@cache
def _all() -> dict[str, Preset]:
    return _networks() | _two_and_three_layers() | _exact_grid() | _peers()


PRESETS: tuple[str, ...] = tuple(_all())


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises
    ------
    ValueError
        If there is none; the nearest name is suggested.

    Examples
    --------
    >>> str(preset("ckn-5").architecture)
    '3 exp(0.5) gauss2 | 1 poly2 - | 3 exp(0.5) gauss2 | 1 poly2 - | 3 exp(0.5) gauss3'
    """
    if name not in PRESETS:
        hint = nearest(str(name), PRESETS) or "; hilbertnet.architecture.PRESETS lists them"
        raise ValueError(f"preset: unknown name {name!r}{hint}")
    return _all()[name]


def default_architecture(space: tuple[int, ...]) -> Architecture:
    """The architecture an estimator takes when none is given, by the spatial shape of its input.

    Rows of a table, of one position, make a fully connected kernel, and sides below 4 a kernel of single positions;
    small images and short signals keep an unpooled first layer; others take the pooling of the published two-layer
    networks.
    """
    side = min(space)
    if side < 4:
        return Architecture.parse("1 exp(0.6) -")
    if side < 16:
        return Architecture.parse("3 exp(0.6) - | 3 exp(0.6) gauss2")
    return Architecture.parse("3 exp(0.6) gauss2 | 3 exp(0.6) gauss5")


def read_architecture(architecture: Any, space: tuple[int, ...]) -> tuple[Architecture, tuple[int, ...] | None]:
    """The architecture that a parameter names, and the filters its preset fixes.

    Parameters
    ----------
    architecture
        An `Architecture`, its text form, a preset's name, or ``None`` for the default by `space`.
    space
        Spatial shape of the input.
    """
    if architecture is None:
        return default_architecture(space), None
    if isinstance(architecture, Architecture):
        return architecture, None
    if isinstance(architecture, str) and re.fullmatch(r"[A-Za-z][\w.-]*", architecture):
        found = preset(architecture)
        return found.architecture, found.filters
    return Architecture.parse(architecture), None
