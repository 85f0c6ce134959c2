"""Exact kernels on one core: time per pair of images against the recursion in torch and the arithmetic it cannot avoid.

    python benchmarks/exact_kernels.py [--images 8] [--threads 1]

Everything is measured in one run. The floor counts, for every layer, the products, sums and poolings of a pair at the
rate of a matrix product (sgemm) measured here, and one kappa for every pair of patches at the rate of a row measured
here; nothing is skipped in the count, though the compiled recursion skips what cannot reach the result.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from hilbertnet.architecture import Architecture
from hilbertnet.kernels import engine, recursion
from hilbertnet.kernels.fused_kappa import both_row, encode, value_row

MODELS = {
    "MNIST, exp": ("3 exp(0.65) gauss2 | 3 exp(0.65) gauss5", (1, 28, 28), False),
    "MNIST, ReLU": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (1, 28, 28), False),
    "MNIST, ReLU NTK": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (1, 28, 28), True),
    "CIFAR-10, exp": ("3 exp(0.6) gauss2 | 3 exp(0.6) gauss5", (3, 32, 32), False),
    "CIFAR-10, ReLU": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (3, 32, 32), False),
    "CIFAR-10, ReLU NTK": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (3, 32, 32), True),
}


def best_of(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several calls; the first is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def sgemm_rate() -> float:
    """Floating point operations per second of a matrix product in float32."""
    a = torch.rand(768, 768)
    return 2 * 768**3 / best_of(lambda: a @ a)


def kappa_seconds(arch: Architecture, tangent: bool) -> float:
    """Seconds of one kappa (and kappa'), from long rows."""
    code, par = encode(arch.layers[0].kernel, np.dtype(np.float32))
    size = 2**16  # long enough for the call itself not to count
    row = np.random.RandomState(0).rand(size).astype(np.float32)
    ones, out, other, tmp = np.ones_like(row), np.zeros_like(row), np.zeros_like(row), np.zeros((5, size), np.float32)
    one, values = np.float32(1), np.array(par, np.float32)
    if tangent:
        return best_of(lambda: both_row(code, values, row, row, one, one, one, ones, ones, out, other, tmp)) / size
    return best_of(lambda: value_row(code, values, row, one, one, ones, ones, out, tmp)) / size


def counts(arch: Architecture, shape: tuple[int, ...], tangent: bool) -> tuple[float, float]:
    """Floating point operations and kappas of one pair."""
    channels, *space = shape
    operations, kappas = 2.0 * channels * math.prod(space) ** 2, 0.0
    for layer, (patched, pooled) in zip(arch.layers, arch.shapes(tuple(space)), strict=True):
        size = float(math.prod(patched)) ** 2
        kappas += size
        twice = 2 if tangent else 1
        operations += size * (len(patched) * (layer.patch - 1) * twice + 3)  # sums of patches, cosines, norms
        taps = (
            2 * layer.pool.size + 1 if getattr(layer.pool, "size", None) else 2 * getattr(layer.pool, "stride", 0) + 1
        )
        lengths = [*patched, *patched]
        for axis, kept in enumerate([*pooled, *pooled]):  # one axis after the other
            lengths[axis] = kept
            operations += 2.0 * twice * min(taps, patched[0]) * math.prod(lengths)
    return operations, kappas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="pairs are their square")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = sgemm_rate()
    print(f"sgemm: {rate / 1e9:.0f} GFLOP/s on {options.threads} thread(s); milliseconds per pair, float32")
    print("| model | floor | compiled | over the floor | float64 | recursion in torch | faster by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (text, shape, tangent) in MODELS.items():
        arch = Architecture.parse(text)
        operations, kappas = counts(arch, shape, tangent)
        floor = operations / rate + kappas * kappa_seconds(arch, tangent) / options.threads
        found = []
        for code, dtype in ((engine, torch.float32), (engine, torch.float64), (recursion, torch.float32)):
            few = options.images if code is engine else 2
            x = torch.rand(few, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
            own = code.self_pass(arch, x, tangent=tangent)
            seconds = best_of(lambda: code.cross_pass(arch, own, own, tangent=tangent), 3)  # noqa: B023
            found.append(1e3 * seconds / few**2)
        single, double, slow = found
        cells = [f"{1e3 * floor:.2f}", f"{single:.2f}", f"{single / (1e3 * floor):.1f}", f"{double:.2f}", f"{slow:.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {slow / single:.0f} |")


if __name__ == "__main__":
    main()
