"""A designer's table: architectures that reach a wanted invariance and keep the signal, and the bound of each.

Invariance to translations by up to sigma pixels needs a last pooling of that scale. The signal is kept if every layer
samples its output in steps of at most its patch's side: every position is then in some patch that is kept, and the
layer's input can be recovered from its sampled output, if linear functions of a patch are in the kernel's RKHS (b_1 >
0). With Gaussian pooling by s after each layer, scales grow by s a layer, so that ``n = log(sqrt(2) sigma_n) / log
s`` layers are needed, O(log(sigma_n / sigma_0) / log beta), s being at most the patch's side and beta in proportion
to it. Small patches in many layers or large ones in few: the bound's term in ``sup||grad tau||`` is ``C_beta (n +
1)``, whose first factor grows with the patch and whose second falls.

Reference: A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019, chapter 2 (depth and
stability, recovery).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hilbertnet.architecture import Architecture, DotProductKernel, GaussianPool, Layer
from hilbertnet.signals import is_count
from hilbertnet.stability.bound import LIMIT, StabilityBound, stability_bound
from hilbertnet.stability.scales import Scales, scales
from hilbertnet.text import columns

__all__ = ["Design", "DesignTable", "design_table"]


@dataclass(frozen=True)
class Design:
    """One architecture of a designer's table.

    Parameters
    ----------
    patch, stride
        Side of all patches, and pooling of all layers but the last, whose pooling is what is left to reach the wanted
        sigma.
    arch
        The architecture.
    scales
        Its scales.
    bound
        Its bound for the wanted field.
    keeps_signal
        Whether no layer samples in steps wider than its patch, with b_1 > 0.
    field_of_view
        Side of the square of input pixels that one output value looks at.
    """

    patch: int
    stride: int
    arch: Architecture
    scales: Scales
    bound: StabilityBound
    keeps_signal: bool
    field_of_view: int

    @property
    def order(self) -> float:
        """``log(sigma_n / sigma_0) / log beta``, of whose order the depth is; NaN where beta <= 1."""
        if self.scales.beta <= 1:
            return math.nan
        return math.log(self.scales.sigmas[-1] / self.scales.sigmas[0]) / math.log(self.scales.beta)


@dataclass(frozen=True)
class DesignTable:
    """Designs by falling quality: those that keep the signal first, by their bound; ``print`` it.

    Parameters
    ----------
    sigma
        Wanted invariance, in pixels.
    gradient, displacement
        ``sup||grad tau||`` and ``sup|tau|`` in pixels of the field that bounds are for.
    rows
        The designs.
    """

    sigma: float
    gradient: float
    displacement: float
    rows: tuple[Design, ...]

    def __str__(self) -> str:
        head = [
            "architecture",
            "layers",
            "log(sn/s0)/log beta",
            "sigma_n (px)",
            "beta",
            "sees (px)",
            "keeps the signal",
        ]
        head += [*self.rows[0].bound.terms, "bound / ||x||"]
        text = f"wanted sigma_n {self.sigma:g} pixels; sup||grad tau|| = {self.gradient:g}, sup|tau| = "
        text += f"{self.displacement:g} pixels; sigma_0 = {self.rows[0].arch.sigma0:g} pixels\n"
        text += columns([head, *(_row(design) for design in self.rows)])
        return text + "\n" + "\n".join(f"best: {constant}" for constant in self.rows[0].bound.constants)


def _row(design: Design) -> list[str]:
    order = "-" if math.isnan(design.order) else f"{design.order:.1f}"
    cells = [str(design.arch), str(design.scales.depth), order, f"{design.scales.sigmas[-1]:.3g}"]
    cells += [f"{design.scales.beta:.3g}", str(design.field_of_view), "yes" if design.keeps_signal else "no"]
    cells += [f"{float(term):.3g}" for term in design.bound.terms.values()]
    return [*cells, f"{float(design.bound.value):.3g}"]


def design_table(
    sigma: float,
    *,
    sigma0: float = 1.0,
    patches: Sequence[int] = (3, 5, 7),
    strides: Sequence[int] | None = None,
    kernel: DotProductKernel | str = "exp(1)",
    gradient: float = 0.1,
    displacement: float = 1.0,
    kind: str = "ckn",
    boundary: str = "zero",
    axes: int = 2,
) -> DesignTable:
    """Architectures whose last pooling has a wanted scale: layers, patches, poolings, and what the bound then is.

    Parameters
    ----------
    sigma
        Wanted sigma_n, in pixels of the input; designs reach it or a little more, as poolings are whole pixels wide.
    sigma0
        Standard deviation of the anti-aliasing filter, in pixels.
    patches
        Sides of patches to try.
    strides
        Poolings to try, at least 2; default all from 2 to the patch's side, those that keep the signal.
    kernel
        A dot-product kernel, or its text form.
    gradient, displacement
        ``sup||grad tau||``, at most 1/2, and ``sup|tau|`` in pixels of the field to bound.
    kind
        ``"ckn"`` or ``"ntk"``, with known constants (see `hilbertnet.stability.bound.stability_bound`).
    boundary
        Of the architectures.
    axes
        2 for images, 1 for signals.

    Raises
    ------
    ValueError
        If an argument is not of this form, or no design is left.

    Examples
    --------
    >>> table = design_table(8.0, patches=[3])
    >>> [(str(row.arch), round(row.scales.sigmas[-1], 2), round(row.scales.beta, 2)) for row in table.rows]
    [('3 exp(1) gauss3 | 3 exp(1) gauss4/3', 8.49, 2.0), \
('3 exp(1) gauss2 | 3 exp(1) gauss2 | 3 exp(1) gauss3/2', 8.49, 2.0)]
    """
    _check_lengths(sigma=sigma, sigma0=sigma0, displacement=displacement)
    _check_rest(gradient, patches, strides)
    if isinstance(kernel, str):
        kernel = Architecture.parse(f"1 {kernel} -").layers[0].kernel
    rows = []
    for patch in patches:
        for stride in range(2, patch + 1) if strides is None else strides:
            arch = _reach(sigma, patch, stride, kernel, boundary, float(sigma0))
            found = scales(arch, axes=axes)
            bound = stability_bound(arch, (gradient, displacement), kind=kind, axes=axes)
            keeps = max(layer.pool.stride for layer in arch.layers if layer.pool) <= patch
            linear = bool(kernel.coefficients(2)[1] > 0)
            rows.append(Design(patch, stride, arch, found, bound, keeps and linear, _field_of_view(arch)))
    if not rows:
        raise ValueError(
            f"patches: expected some patch of at least 2, so that a pooling keeps the signal, got {patches!r}"
        )
    rows.sort(key=lambda row: (not row.keeps_signal, float(row.bound.value), row.field_of_view))
    return DesignTable(float(sigma), float(gradient), float(displacement), tuple(rows))


def _check_lengths(**values: float) -> None:
    for name, value in values.items():
        least, words = (0.0, ", 0 or more") if name == "displacement" else (1e-9, " above 0")
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number of pixels{words}, got {value!r}")


def _check_rest(gradient: float, patches: Sequence[int], strides: Sequence[int] | None) -> None:
    if isinstance(gradient, bool) or not isinstance(gradient, int | float) or not 0 <= gradient <= LIMIT:
        raise ValueError(f"gradient: expected a number from 0 to {LIMIT:g}, where the theorem holds, got {gradient!r}")
    for name, sizes, least in (("patches", patches, 1), ("strides", [2] if strides is None else strides, 2)):
        if not len(sizes) or not all(is_count(size) and size >= least for size in sizes):
            raise ValueError(f"{name}: expected whole numbers of at least {least}, got {sizes!r}")


def _reach(
    sigma: float, patch: int, stride: int, kernel: DotProductKernel, boundary: str, sigma0: float
) -> Architecture:
    """Layers that pool by `stride`, and a last one whose window is what is left to reach `sigma`.

    That window is between ``sqrt(stride)`` and ``stride * sqrt(stride)``, so that little is overshot.
    """
    layers, left = [], math.sqrt(2.0) * sigma
    while left > stride**1.5 * (1 + 1e-9):
        layers.append(Layer(patch, kernel, GaussianPool(stride)))
        left /= stride
    window = max(math.ceil(left - 1e-9), 1)
    layers.append(Layer(patch, kernel, GaussianPool(min(window, stride), window)))
    return Architecture(layers, boundary=boundary, sigma0=sigma0)


def _field_of_view(arch: Architecture) -> int:
    """Side of the square of pixels behind one output value, A_0 left out."""
    side, step = 1, 1
    for layer in arch.layers:
        side += (layer.patch - 1) * step
        if isinstance(layer.pool, GaussianPool):
            side += 2 * layer.pool.window * step
            step *= layer.pool.stride
    return side
