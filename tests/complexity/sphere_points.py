"""Random points of the unit sphere."""

from __future__ import annotations

import numpy as np


def unit(seed, n, p, positions=None):
    """Points (n, p), or signals (n, p, positions) of such points."""
    x = np.random.RandomState(seed).standard_normal((n, p) if positions is None else (n, p, positions))
    return x / np.linalg.norm(x, axis=1, keepdims=True)
