"""What ``hilbertnet spectrum`` shows: eigenvalues, their decay and trace, degrees of freedom, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hilbertnet.complexity.effective_dimension import degrees_of_freedom
from hilbertnet.complexity.spectrum import Spectrum, mercer
from hilbertnet.experiments.experiment import Curve, Panel
from hilbertnet.text import nearest

__all__ = ["KINDS", "SUFFIXES", "KernelSpectrum", "decay_panel", "read_stack", "spectra"]

KINDS = ("ckn", "ntk", "both")
SUFFIXES = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class KernelSpectrum:
    """A spectrum and what is said of it.

    Parameters
    ----------
    spectrum
        All degrees from 0 on.
    """

    spectrum: Spectrum

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


def decay_panel(found: Sequence[Spectrum]) -> Panel:
    """Eigenvalues against degrees from 1 on, both on logarithmic scales; zeros and what is not told from 0 left out.

    Parameters
    ----------
    found
        At least one.
    """
    curves, slope = [], None
    for one in found:
        kept = one.resolved & (one.degrees > 0) & (one.log_eigenvalues > np.log(1e-300))
        x, y = one.degrees[kept].astype(float), one.eigenvalues[kept]
        curves.append(Curve(str(one.kernel), tuple(x.tolist()), tuple(y.tolist())))
        slope = one.predicted if slope is None and one.predicted is not None and np.isfinite(one.predicted) else slope
    return Panel(f"Mercer eigenvalues on S^{found[0].p - 1}", "degree k", "eigenvalue", tuple(curves), slope=slope)
