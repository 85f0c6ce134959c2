"""The declared architecture: layers x_k = A_k M_k P_k x_{k-1}, and its text form.

``Architecture.parse("3 exp(0.6) gauss2 | 3 exp(0.6) gauss5")`` declares two layers of 3x3 patches (or 3 samples of a
signal), exponential kernels of bandwidth 0.6, and Gaussian pooling by 2, then 5. ``str`` gives the text back.

Reference: A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from hilbertnet.architecture.dot_product import DotProductKernel
from hilbertnet.architecture.grammar import parse_layers
from hilbertnet.architecture.operators import patch_length, pooled_length
from hilbertnet.architecture.pools import Pool
from hilbertnet.signals import is_count
from hilbertnet.text import nearest

__all__ = ["Architecture", "Layer"]

BOUNDARIES = ("zero", "valid", "circular")
LAYOUTS = ("hilbertnet", "ckn_kernel")


@dataclass(frozen=True)
class Layer:
    """One layer: patches, a dot-product kernel, a pooling.

    Parameters
    ----------
    patch
        Side of the square patch (length of the patch of a signal), in pixels of the layer's input.
    kernel
        kappa.
    pool
        The pooling, or ``None``.
    """

    patch: int
    kernel: DotProductKernel
    pool: Pool | None = None

    def __post_init__(self) -> None:
        if not is_count(self.patch):
            raise ValueError(f"patch: expected a whole number of pixels, at least 1, got {self.patch!r}")
        if not isinstance(self.kernel, DotProductKernel):
            raise ValueError(f"kernel: expected a dot-product kernel such as Exponential(0.6), got {self.kernel!r}")
        if not (self.pool is None or isinstance(self.pool, Pool)):
            raise ValueError(f"pool: expected a pool such as GaussianPool(2), or None, got {self.pool!r}")

    def __str__(self) -> str:
        return f"{self.patch} {self.kernel} {self.pool or '-'}"


@dataclass(frozen=True)
class Architecture:
    """Layers applied one after the other, with the conventions they share.

    Parameters
    ----------
    layers
        At least one `Layer`.
    boundary
        What lies beyond the edges: ``"zero"``, ``"valid"`` (patches and windows that fit wholly inside) or
        ``"circular"`` (the torus, where operators commute with translations exactly). With ``"zero"``, an odd patch
        keeps the size and an even one makes it grow by one, so that flips commute.
    sigma0
        Standard deviation, in pixels, of the anti-aliasing Gaussian A_0 applied to the input; 0 for none. It keeps the
        size: beyond the edges lie zeros, or the other side of the torus.
    layout
        ``"hilbertnet"``, or ``"ckn_kernel"`` for the conventions of the published code of that name: patch sums that
        are not divided by the patch size, even patches that keep the size, pooling centres cut at the far edge. It
        needs ``boundary="zero"``.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> arch = Architecture.parse("3 exp(0.6) gauss2 | 3 arccos1 global")
    >>> str(arch)
    '3 exp(0.6) gauss2 | 3 arccos1 global'
    >>> arch.shapes((32, 32))
    [((32, 32), (16, 16)), ((16, 16), (1, 1))]
    """

    layers: tuple[Layer, ...]
    boundary: str = "zero"
    sigma0: float = 0.0
    layout: str = "hilbertnet"

    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        boundary: str = "zero",
        sigma0: float = 0.0,
        layout: str = "hilbertnet",
    ) -> None:
        if isinstance(layers, Layer) or not isinstance(layers, Iterable):
            raise ValueError(f"layers: expected a list of Layer, got {layers!r}")
        values = {"layers": tuple(layers), "boundary": boundary, "sigma0": sigma0, "layout": layout}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not self.layers or not all(isinstance(layer, Layer) for layer in self.layers):
            raise ValueError(f"layers: expected at least one Layer, got {list(self.layers)!r}")
        _check_choice("boundary", boundary, BOUNDARIES)
        _check_choice("layout", layout, LAYOUTS)
        if isinstance(sigma0, bool) or not isinstance(sigma0, int | float) or not 0 <= sigma0 < math.inf:
            raise ValueError(f"sigma0: expected a standard deviation in pixels, 0 or more, got {sigma0!r}")
        if layout == "ckn_kernel" and boundary != "zero":
            raise ValueError(f'boundary: layout="ckn_kernel" knows only "zero", got {boundary!r}')

    @classmethod
    def parse(cls, text: str, **conventions: Any) -> Architecture:
        """Read the text form; `conventions` are `boundary`, `sigma0` and `layout`.

        Raises
        ------
        TextFormError
            If the text is not an architecture; the message points at the character.
        """
        if not isinstance(text, str):
            raise ValueError(f"architecture: expected a text such as '3 exp(0.6) gauss2', got {text!r}")
        return cls([Layer(*parts) for parts in parse_layers(text)], **conventions)

    def __str__(self) -> str:
        return " | ".join(map(str, self.layers))

    def to_dict(self) -> dict[str, Any]:
        """What JSON keeps; `from_dict` reads it back."""
        return {"layers": str(self)} | {f.name: getattr(self, f.name) for f in fields(self) if f.name != "layers"}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Architecture:
        """The architecture that `to_dict` described."""
        conventions = dict(content)
        return cls.parse(conventions.pop("layers"), **conventions)

    def shapes(self, space: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Spatial shape of every layer after its patches and after its pooling, from the input's spatial shape.

        Raises
        ------
        ValueError
            If a patch is larger than what it is taken from, or nothing is left after a pooling.
        """
        result = []
        for number, layer in enumerate(self.layers, start=1):
            patched = tuple(patch_length(n, layer.patch, self, f"layer {number}") for n in space)
            space = tuple(pooled_length(n, layer.pool, self, f"layer {number}") for n in patched)
            result.append((patched, space))
        return result

    @property
    def slopes(self) -> tuple[float, ...]:
        """kappa'(1) of every layer; above 1 the layer is not non-expansive."""
        return tuple(layer.kernel.slope for layer in self.layers)

    @property
    def lipschitz(self) -> float:
        """An upper bound of the Lipschitz constant of the CKN kernel map: the product of ``sqrt(max(1, kappa'(1)))``.

        It is one of ``layout="hilbertnet"``: in ``"ckn_kernel"`` patches are not divided by their size, so that each
        layer multiplies it by the square root of its patch's size. It says nothing of tangent kernels.
        """
        return math.prod(layer.kernel.lipschitz for layer in self.layers)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}")
