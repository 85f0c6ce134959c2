"""Compiled rows of homogeneous dot-product kernels: kappa and kappa' of many cosines at once, without a closure.

A kernel enters as a code and parameters (`encode`), so that one compiled function, kept on disk, serves all. The
functions that processors have no instruction for are polynomials, written out, near-minimax (Chebyshev interpolation
in extended precision), with these errors of the mathematical polynomial, and then rounding:

    2^r on [-1/2, 1/2]                        degree 6: 2e-9     degree 11: 4e-18
    arccos(a) / (pi sqrt(1 - a)) on [0, 1]    degree 7: 1e-8     degree 18: 1e-17
    g(a) on [0, 1]                            degree 6: 6e-9     degree 17: 3e-18

with ``g(a) = (sqrt(1 - a^2) - a arccos(a)) / (pi (1 - a)^(3/2))``, which makes the arc-cosine kernel of order 1
``max(u, 0) + g(|u|) (1 - |u|)^(3/2)`` without cancellation. The short ones serve float32, the long ones float64.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from hilbertnet.architecture.dot_product import (
    ArcCosine,
    DotProductKernel,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Power,
    Vovk,
)

__all__ = ["FAST", "both_row", "encode", "value_row"]

FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; NaN and infinity keep their meaning
_ROWS: Any = {"fastmath": FAST, "error_model": "numpy", "nogil": True, "_nrt": False}

EXPONENTIAL, ARC0, ARC1, POWER, INVERSE, VOVK, TABLE = range(7)

_NODES = 257
_TAIL = {np.dtype(np.float32): 3e-8, np.dtype(np.float64): 1e-14}  # what is cut off a table
_ERROR = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-13}  # what it may be wrong by


def encode(kernel: DotProductKernel, dtype: np.dtype[Any]) -> tuple[int, list[float]] | None:
    """Code and parameters of a kernel, or ``None`` where no table in the angle stands for it well enough.

    Parameters
    ----------
    kernel
        kappa.
    dtype
        float32 or float64: how well it must be known.
    """
    match kernel:
        case Exponential():
            return EXPONENTIAL, [kernel.alpha]
        case ArcCosine():
            return (ARC0, ARC1)[kernel.order], []
        case Linear():
            return POWER, [1.0, 1.0, 0.0]
        case Power():
            return POWER, [float(kernel.degree), 1.0, 0.0]
        case Polynomial():
            return POWER, [float(kernel.degree), 1.0 / (kernel.c + 1.0), kernel.c / (kernel.c + 1.0)]
        case InversePolynomial():
            return INVERSE, []
        case Vovk():
            return VOVK, []
    return _table(kernel, dtype)


@lru_cache(maxsize=64)
def _table(kernel: DotProductKernel, dtype: np.dtype[Any]) -> tuple[int, list[float]] | None:
    """Chebyshev series of kappa and kappa' in the angle, cut where they no longer matter."""
    slope = _series(kernel.derivative, dtype) if np.isfinite(kernel.slope) else np.zeros(1)
    value = _series(kernel.value, dtype)
    if value is None or slope is None:
        return None
    return TABLE, [float(len(value)), *value, *slope]


def _series(function: Any, dtype: np.dtype[Any]) -> NDArray[np.float64] | None:
    from scipy.fft import dct

    nodes = chebyshev.chebpts1(_NODES)
    values = _in_angle(function, nodes)
    if not np.isfinite(values).all():
        return None
    series = dct(values[::-1]) / _NODES
    series[0] /= 2.0
    size = max(1.0, float(np.abs(values).max()))
    tails = np.sqrt(np.cumsum(np.square(series[::-1]))[::-1])
    count = max(1, int(np.count_nonzero(tails > _TAIL[dtype] * size)))
    between = np.linspace(-1.0, 1.0, 2 * _NODES)
    wrong = np.abs(chebyshev.chebval(between, series[:count]) - _in_angle(function, between)).max()
    return series[:count] if count < _NODES // 2 and wrong <= _ERROR[dtype] * size else None


def _in_angle(function: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """`function` of the cosine of theta, where ``x = 2 theta / pi - 1``."""
    return function(torch.from_numpy(np.cos((x + 1.0) * np.pi / 2))).double().numpy()


# --- polynomials, highest power first; long ones in pieces that the compiler unrolls

_E32 = tuple(map(np.float32, (0.00015461444854736328, 0.0013400427997112274, 0.009618056938052177,
                              0.05550327152013779, 0.24022650718688965, 0.6931471824645996, 1.0)))  # fmt: skip
_E64A = (4.4558179083360645e-10, 7.074194297288521e-09, 1.0178057087733941e-07, 1.3215432535912375e-06,
         1.5252733841556773e-05, 0.00015403530463724353)  # fmt: skip
_E64B = (0.001333355814640647, 0.009618129107587256, 0.055504108664821625, 0.24022650695910158, 0.6931471805599453,
         1.0)  # fmt: skip
_Q32 = tuple(map(np.float32, (-0.00038570811739191413, 0.002066315384581685, -0.005360673647373915,
                              0.009779155254364014, -0.01595187745988369, 0.028319666162133217,
                              -0.06830871105194092, 0.5)))  # fmt: skip
_Q64A = (1.527104740182858e-06, -1.6226605184888968e-05, 8.175580059883875e-05, -0.0002618154905523159,
         0.0006052303485827351, -0.0010938835217706685, 0.001646878933331324)  # fmt: skip
_Q64B = (-0.0021875340112401634, 0.002702012366668956, -0.0032401599258976978, 0.003884724692997268,
         -0.004737634236144924, 0.0059434582884418385)  # fmt: skip
_Q64C = (-0.007758577064250746, 0.010721085649171534, -0.01616785497439062, 0.028345056907235874,
         -0.06830988618378347, 0.5)  # fmt: skip
_G32 = tuple(map(np.float32, (7.463455403922126e-05, -0.00039172099786810577, 0.0010753560345619917,
                              -0.0024047535844147205, 0.005976653192192316, -0.022534606978297234,
                              0.31830987334251404)))  # fmt: skip
_G64A = (-9.759058594307168e-08, 9.98096511493633e-07, -4.850607795333561e-06, 1.5058914821246522e-05,
         -3.40742690373725e-05, 6.127237335815553e-05)  # fmt: skip
_G64B = (-9.405349619839536e-05, 0.00013149330196400181, -0.00017700272388117006, 0.00023893512264966456,
         -0.00033185703130211695, 0.00048259794872714033)  # fmt: skip
_G64C = (-0.0007481327268291718, 0.0012691655888037857, -0.002464709327986569, 0.005985979686337739,
         -0.022535170724312468, 0.3183098861837907)  # fmt: skip
_LOG2_E, _LOG2_E32 = np.float64(math.log2(math.e)), np.float32(math.log2(math.e))
_LOWEST, _LOWEST32 = np.float64(-1021.0), np.float32(-125.0)  # powers of two that are still normal numbers
_HALF, _HALF32 = np.float64(0.5), np.float32(0.5)


def _exp(t: Any) -> Any:
    """e^t for t <= 0; from e^-87 (float32) or e^-707 on, that."""
    raise NotImplementedError


@overload(_exp, inline="always")
def _exp_compiled(t: Any) -> Any:
    if t == types.float32:

        def single(t: Any) -> Any:
            power = max(t * _LOG2_E32, _LOWEST32)
            whole = np.floor(power + _HALF32)
            r = power - whole
            p = _E32[0]
            for c in _E32[1:]:
                p = p * r + c
            bits = np.int32(np.float32(p).view(np.int32) + np.int32(np.int32(whole) << np.int32(23)))
            return np.int32(bits).view(np.float32)

        return single

    def double(t: Any) -> Any:
        power = max(t * _LOG2_E, _LOWEST)
        whole = np.floor(power + _HALF)
        r = power - whole
        p = _E64A[0]
        for c in _E64A[1:]:
            p = p * r + c
        for c in _E64B:
            p = p * r + c
        bits = np.int64(np.float64(p).view(np.int64) + (np.int64(np.int32(whole)) << np.int64(52)))
        return np.int64(bits).view(np.float64)

    return double


def _q(a: Any) -> Any:
    """``arccos(a) / (pi sqrt(1 - a))``."""
    raise NotImplementedError


@overload(_q, inline="always")
def _q_compiled(a: Any) -> Any:
    if a == types.float32:

        def single(a: Any) -> Any:
            p = _Q32[0]
            for c in _Q32[1:]:
                p = p * a + c
            return p

        return single

    def double(a: Any) -> Any:
        p = _Q64A[0]
        for c in _Q64A[1:]:
            p = p * a + c
        for c in _Q64B:
            p = p * a + c
        for c in _Q64C:
            p = p * a + c
        return p

    return double


def _g(a: Any) -> Any:
    """``(sqrt(1 - a^2) - a arccos(a)) / (pi (1 - a)^(3/2))``."""
    raise NotImplementedError


@overload(_g, inline="always")
def _g_compiled(a: Any) -> Any:
    if a == types.float32:

        def single(a: Any) -> Any:
            p = _G32[0]
            for c in _G32[1:]:
                p = p * a + c
            return p

        return single

    def double(a: Any) -> Any:
        p = _G64A[0]
        for c in _G64A[1:]:
            p = p * a + c
        for c in _G64B:
            p = p * a + c
        for c in _G64C:
            p = p * a + c
        return p

    return double


# --- rows: cosines s[i] * a * inv[i], clipped; results times the norms nx * ny[i]


@njit(inline="always")
def _clip(c: Any, one: Any) -> Any:
    return min(max(c, -one), one)


@njit(inline="always")
def _arc0(c: Any, root: Any, one: Any, half: Any) -> Any:
    """``1 - arccos(c) / pi``, from ``root = sqrt(1 - |c|)``; 1 - x for c >= 0, x for c < 0."""
    x = root * _q(abs(c))
    return half + np.copysign(half - x, c)


@njit(**_ROWS)
def _angles(s: Any, a: Any, inv: Any, out: Any) -> None:
    """``2 theta / pi - 1`` of the cosines."""
    one, two, half = s.dtype.type(1), s.dtype.type(2), s.dtype.type(0.5)
    for i in range(len(s)):
        c = _clip(s[i] * a * inv[i], one)
        out[i] = one - two * _arc0(c, np.sqrt(one - abs(c)), one, half)


@njit(**_ROWS)
def _clenshaw(series: Any, x: Any, last: Any, later: Any, out: Any) -> None:
    two = x.dtype.type(2)
    for i in range(len(x)):
        last[i] = later[i] = x.dtype.type(0)
    for k in range(len(series) - 1, 0, -1):
        c = series[k]
        for i in range(len(x)):
            now = two * x[i] * last[i] - later[i] + c
            later[i] = last[i]
            last[i] = now
    c = series[0]
    for i in range(len(x)):
        out[i] = x[i] * last[i] - later[i] + c


@njit(**_ROWS)
def _power(x: Any, degree: int, out: Any) -> None:
    """x^degree; x is lost where degree > 2."""
    one = x.dtype.type(1)
    for i in range(len(x)):
        out[i] = x[i] if degree % 2 else one
    degree //= 2
    while degree:
        odd = degree % 2 == 1
        for i in range(len(x)):
            x[i] = x[i] * x[i]
            if odd:
                out[i] *= x[i]
        degree //= 2


@njit(**_ROWS)
def value_row(
    code: int, par: Any, s: Any, s1: Any, s2: Any, a: Any, nx: Any, inv: Any, ny: Any, out: Any, tmp: Any
) -> None:
    """``out = nx ny kappa((s + s1 + s2) a inv)``; all rows have one length.

    Parameters
    ----------
    code, par
        Of `encode`.
    s, s1, s2
        The terms of the sums of products of patches.
    a, inv
        What makes them cosines: a number, and one for each entry.
    nx, ny
        Norms: a number, and one for each entry.
    out
        The result.
    tmp
        Five rows to work in.
    """
    one, half = s.dtype.type(1), s.dtype.type(0.5)
    if code == EXPONENTIAL:
        alpha = par[0]
        for i in range(len(s)):
            out[i] = nx * ny[i] * _exp(alpha * (_clip((s[i] + s1[i] + s2[i]) * a * inv[i], one) - one))
    elif code == ARC1:
        for i in range(len(s)):
            c = _clip((s[i] + s1[i] + s2[i]) * a * inv[i], one)
            w = one - abs(c)
            out[i] = nx * ny[i] * (max(c, s.dtype.type(0)) + _g(abs(c)) * w * np.sqrt(w))
    elif code == ARC0:
        for i in range(len(s)):
            c = _clip((s[i] + s1[i] + s2[i]) * a * inv[i], one)
            out[i] = nx * ny[i] * _arc0(c, np.sqrt(one - abs(c)), one, half)
    elif code == INVERSE:
        for i in range(len(s)):
            out[i] = nx * ny[i] / (s.dtype.type(2) - _clip((s[i] + s1[i] + s2[i]) * a * inv[i], one))
    elif code == VOVK:
        third = s.dtype.type(1 / 3)
        for i in range(len(s)):
            c = _clip((s[i] + s1[i] + s2[i]) * a * inv[i], one)
            out[i] = nx * ny[i] * ((one + c + c * c) * third)
    else:
        for i in range(len(s)):
            out[i] = s[i] + s1[i] + s2[i]
        _slow_values(code, par, out, a, inv, tmp)
        for i in range(len(s)):
            out[i] = nx * ny[i] * tmp[0, i]


@njit(**_ROWS)
def _base(par: Any, s: Any, a: Any, inv: Any, out: Any) -> None:
    """What a power is taken of: ``par[1] u + par[2]``."""
    one, by, plus = s.dtype.type(1), par[1], par[2]
    for i in range(len(s)):
        out[i] = _clip(s[i] * a * inv[i], one) * by + plus


@njit(**_ROWS)
def _slow_values(code: int, par: Any, s: Any, a: Any, inv: Any, tmp: Any) -> None:
    """The values of kappa into ``tmp[0]``."""
    n = len(s)
    if code == TABLE:
        _angles(s, a, inv, tmp[1, :n])
        _clenshaw(par[1 : 1 + int(par[0])], tmp[1, :n], tmp[2, :n], tmp[3, :n], tmp[0, :n])
    else:
        _base(par, s, a, inv, tmp[1, :n])
        _power(tmp[1, :n], int(par[0]), tmp[0, :n])


@njit(**_ROWS)
def _slow_slopes(code: int, par: Any, s: Any, a: Any, inv: Any, tmp: Any) -> None:
    """The slopes of kappa into ``tmp[4]``; ``tmp[0]`` is left alone."""
    n = len(s)
    if code == TABLE:
        _angles(s, a, inv, tmp[1, :n])
        _clenshaw(par[1 + int(par[0]) :], tmp[1, :n], tmp[2, :n], tmp[3, :n], tmp[4, :n])
    else:
        _base(par, s, a, inv, tmp[1, :n])
        _power(tmp[1, :n], int(par[0]) - 1, tmp[4, :n])
        by = par[0] * par[1]
        for i in range(n):
            tmp[4, i] *= by


@njit(**_ROWS)
def both_row(
    code: int,
    par: Any,
    s: Any,
    s1: Any,
    s2: Any,
    t: Any,
    same: bool,
    a: Any,
    scale: Any,
    nx: Any,
    inv: Any,
    ny: Any,
    out: Any,
    out_t: Any,
    tmp: Any,
) -> None:
    """`value_row`, and ``out_t = kappa'((s + s1 + s2) a inv) t scale + out``, or with their sum for t if `same`."""
    one, half = s.dtype.type(1), s.dtype.type(0.5)
    if code == EXPONENTIAL:
        alpha = par[0]
        slope = alpha * scale
        for i in range(len(s)):
            total = s[i] + s1[i] + s2[i]
            other = total if same else t[i]
            value = _exp(alpha * (_clip(total * a * inv[i], one) - one))
            mapped = nx * ny[i] * value
            out[i] = mapped
            out_t[i] = slope * value * other + mapped
    elif code == ARC1:
        for i in range(len(s)):
            total = s[i] + s1[i] + s2[i]
            other = total if same else t[i]
            c = _clip(total * a * inv[i], one)
            w = one - abs(c)
            root = np.sqrt(w)
            mapped = nx * ny[i] * (max(c, s.dtype.type(0)) + _g(abs(c)) * w * root)
            out[i] = mapped
            out_t[i] = _arc0(c, root, one, half) * (other * scale) + mapped
    elif code == INVERSE:
        for i in range(len(s)):
            total = s[i] + s1[i] + s2[i]
            other = total if same else t[i]
            value = one / (s.dtype.type(2) - _clip(total * a * inv[i], one))
            mapped = nx * ny[i] * value
            out[i] = mapped
            out_t[i] = value * value * (other * scale) + mapped
    elif code == VOVK:
        third = s.dtype.type(1 / 3)
        for i in range(len(s)):
            total = s[i] + s1[i] + s2[i]
            other = total if same else t[i]
            c = _clip(total * a * inv[i], one)
            mapped = nx * ny[i] * ((one + c + c * c) * third)
            out[i] = mapped
            out_t[i] = (one + c + c) * third * (other * scale) + mapped
    else:
        for i in range(len(s)):
            out[i] = s[i] + s1[i] + s2[i]
            out_t[i] = out[i] if same else t[i]
        _slow_values(code, par, out, a, inv, tmp)
        _slow_slopes(code, par, out, a, inv, tmp)
        for i in range(len(s)):
            mapped = nx * ny[i] * tmp[0, i]
            out[i] = mapped
            out_t[i] = tmp[4, i] * (out_t[i] * scale) + mapped
