"""Integrals on the sphere in extended precision, by another road than the library's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mpmath as mp


def kappa_zero(t: Any) -> Any:
    return 1 - mp.acos(t) / mp.pi


def kappa_one(t: Any) -> Any:
    return (t * (mp.pi - mp.acos(t)) + mp.sqrt((1 - t) * (1 + t))) / mp.pi


def relu_tangent(t: Any) -> Any:
    return t * kappa_zero(t) + kappa_one(t)


def deep(t: Any) -> Any:
    return kappa_one(kappa_one(t))


def deep_tangent(t: Any) -> Any:
    c = kappa_one(t)
    return kappa_zero(c) * relu_tangent(t) + kappa_one(c)


def polynomial(p: int, k: int, t: Any) -> Any:
    """P_k by the recurrence, in the precision at hand."""
    previous, current = mp.mpf(0), mp.mpf(1)
    for i in range(k):
        below = 0 if i == 0 else i * previous
        previous, current = current, ((2 * i + p - 2) * t * current - below) / (i + p - 2) if i or p > 2 else t
    return current


@lru_cache(maxsize=4)
def rule(degree: int, digits: int) -> list[tuple[Any, Any]]:
    """Gauss and Legendre's rule on [-1, 1]."""
    with mp.workdps(digits):
        roots = []
        for i in range(degree):
            x = mp.mpf(math.cos(math.pi * (i + 0.75) / (degree + 0.5)))
            for _ in range(12):
                p0, p1 = mp.mpf(1), x
                for n in range(2, degree + 1):
                    p0, p1 = p1, ((2 * n - 1) * x * p1 - (n - 1) * p0) / n
                slope = degree * (x * p1 - p0) / (x * x - 1)
                step = p1 / slope
                x -= step
                if abs(step) < mp.mpf(10) ** (-digits + 5):
                    break
            roots.append((x, 2 / ((1 - x * x) * slope**2)))
        return roots


def eigenvalue(kappa: Callable[[Any], Any], p: int, k: int, digits: int = 30) -> Any:
    """mu_k by quadrature over the angle, on panels."""
    with mp.workdps(digits):
        panels = (k + p) // 5 + 3
        half, total = mp.pi / (2 * panels), mp.mpf(0)
        for panel in range(panels):
            for x, weight in rule(40, digits):
                theta = half * (2 * panel + 1 + x)
                t = mp.cos(theta)
                total += weight * kappa(t) * polynomial(p, k, t) * mp.sin(theta) ** (p - 2)
        return half * total * mp.gamma(mp.mpf(p) / 2) / (mp.sqrt(mp.pi) * mp.gamma(mp.mpf(p - 1) / 2))


def polynomial_coefficients(p: int, k: int) -> dict[int, Any]:
    """P_k as powers of t, from the explicit sum of Gegenbauer's polynomials (Chebyshev's for p = 2)."""
    if k == 0:
        return {0: mp.mpf(1)}
    found = {}
    alpha = mp.mpf(p - 2) / 2
    for m in range(k // 2 + 1):
        signed = (-1) ** m * mp.mpf(2) ** (k - 2 * m) / (mp.factorial(m) * mp.factorial(k - 2 * m))
        if p == 2:
            found[k - 2 * m] = signed * mp.mpf(k) / 2 * mp.factorial(k - m - 1)
        else:
            size = mp.gamma(2 * alpha + k) / (mp.gamma(2 * alpha) * mp.factorial(k))
            found[k - 2 * m] = signed * mp.gamma(k - m + alpha) / mp.gamma(alpha) / size
    return found


def half_moment(order: int, p: int, k: int) -> Any:
    """lambda_{a,k}: the coefficient of max(t, 0)^a, term by term."""
    constant = mp.gamma(mp.mpf(p) / 2) / (mp.sqrt(mp.pi) * mp.gamma(mp.mpf(p - 1) / 2))
    terms = (
        c * mp.beta(mp.mpf(power + order + 1) / 2, mp.mpf(p - 1) / 2) / 2
        for power, c in polynomial_coefficients(p, k).items()
    )
    return constant * mp.fsum(terms)
