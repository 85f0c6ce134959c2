"""What ``hilbertnet spectrum`` shows: eigenvalues, their decay and trace, degrees of freedom, and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hilbertnet.complexity.effective_dimension import degrees_of_freedom
from hilbertnet.complexity.spectrum import Spectrum, mercer
from hilbertnet.experiments.experiment import Curve, Panel
from hilbertnet.records import known
from hilbertnet.text import nearest

__all__ = ["KINDS", "SMALLEST", "SUFFIXES", "KernelSpectrum", "decay_panel", "read_stack", "spectra"]

KINDS = ("ckn", "ntk", "both")
SUFFIXES = (".svg", ".png", ".pdf")
SMALLEST = -690.0
"""Logarithm of what floating point holds."""


@dataclass(frozen=True)
class KernelSpectrum:
    """A spectrum and what is said of it.

    Parameters
    ----------
    spectrum
        All degrees from 0 on.
    """

    spectrum: Spectrum

    @property
    def logs(self) -> list[float | None]:
        """Logarithms of the eigenvalues, ``None`` where there is none."""
        return list(map(known, self.spectrum.log_eigenvalues.tolist()))

    def text(self, lambdas: Sequence[float] = ()) -> str:
        """The table, the fitted decay of each parity, the trace, and degrees of freedom at each lambda."""
        parts = [str(self.spectrum)]
        parts += [f"fitted: {one}" for one in self.spectrum.decay()]
        parts.append(str(self.spectrum.trace()))
        if lambdas:
            parts.append(str(degrees_of_freedom(self.spectrum, lambdas)))
        return "\n".join(parts)


def spectra(kernel: str, dimension: int, degrees: int, kind: str) -> list[KernelSpectrum]:
    """Spectra of a kernel from its text form, of the kinds asked for.

    Parameters
    ----------
    kernel
        Kernels with ``|`` between them.
    dimension, degrees
        See `hilbertnet.complexity.spectrum.mercer`.
    kind
        ``"ckn"``, ``"ntk"`` or ``"both"``.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected ckn, ntk or both, got {kind!r}{nearest(kind, KINDS)}")
    wanted = ("ckn", "ntk") if kind == "both" else (kind,)
    return [KernelSpectrum(mercer(read_stack(kernel), dimension, degrees, kind=one)) for one in wanted]


def read_stack(text: str) -> str:
    """Kernels with ``|`` between them as a fully connected architecture: patches of one pixel, no pooling."""
    return " | ".join(f"1 {part.strip()} -" for part in text.split("|"))


def decay_panel(
    found: Mapping[str, tuple[Sequence[float | None], float | None]], dimension: int, *, least: float = SMALLEST
) -> Panel:
    """Eigenvalues against degrees from 1 on, both on logarithmic scales; what is 0 or not told from 0 is left out.

    Parameters
    ----------
    found
        By name, the logarithms of all eigenvalues from degree 0 on, ``None`` where there is none, and the exponent
        predicted, or ``None``. A line of the first exponent there is compares with them.
    dimension
        p, of the space around the sphere.
    least
        Logarithm of the smallest eigenvalue shown.
    """
    curves = []
    for name, (logs, _) in found.items():
        points = [(k, log) for k, log in enumerate(logs) if k and log is not None and log >= least]
        curves.append(Curve(name, tuple(float(k) for k, _ in points), tuple(math.exp(log) for _, log in points)))
    predicted = [exponent for _, exponent in found.values() if exponent is not None]
    title = f"Mercer eigenvalues on the sphere, p = {dimension}"
    return Panel(title, "degree k", "eigenvalue", tuple(curves), slope=predicted[0] if predicted else None)
