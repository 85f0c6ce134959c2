"""Exact kernels: time per pair of images against the arithmetic they cannot avoid, torch, and neural-tangents.

    python benchmarks/exact_kernels.py [--images 16] [--threads 1] [--neural-tangents PYTHON]

Everything is measured in one run. The floor counts, for every layer, the products, sums and poolings of a pair at the
rate of a matrix product (sgemm) measured here, and one kappa for every pair of patches at the rate of a row measured
here (which adds two terms of a patch itself); nothing is skipped in the count, though the compiled recursion skips
what cannot reach the result. neural-tangents is timed by the interpreter of an environment that has it
(see ``neural_tangents_pairs.py``), on models that both can express; there the patches' norms are timed too. With more
threads than one, one is timed as well.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit

from hilbertnet.architecture import Architecture, preset
from hilbertnet.architecture.operators import pooling_matrix
from hilbertnet.kernels import engine, recursion
from hilbertnet.kernels.fused_kappa import both_row, encode, value_row

MODELS = {
    "MNIST, exp": ("3 exp(0.65) gauss2 | 3 exp(0.65) gauss5", (1, 28, 28), False),
    "MNIST, ReLU": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (1, 28, 28), False),
    "MNIST, ReLU NTK": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (1, 28, 28), True),
    "CIFAR-10, exp": ("3 exp(0.6) gauss2 | 3 exp(0.6) gauss5", (3, 32, 32), False),
    "CIFAR-10, ReLU": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (3, 32, 32), False),
    "CIFAR-10, ReLU NTK": ("3 arccos1 gauss2 | 3 arccos1 gauss5", (3, 32, 32), True),
    "Myrtle-5, ReLU": (str(preset("myrtle5-relu").architecture), (3, 32, 32), False),
    "Myrtle-5, ReLU NTK": (str(preset("myrtle5-relu").architecture), (3, 32, 32), True),
}
COMPARED = {  # average pooling: [times "conv 3x3, ReLU", size of the pooling after them]
    "MNIST, ReLU, average": ([[1, 2], [1, 7]], (1, 28, 28), False),
    "MNIST, ReLU NTK, average": ([[1, 2], [1, 7]], (1, 28, 28), True),
    "CIFAR-10, ReLU, average": ([[1, 2], [1, 4]], (3, 32, 32), False),
    "CIFAR-10, ReLU NTK, average": ([[1, 2], [1, 4]], (3, 32, 32), True),
    "Myrtle-5, ReLU": ([[2, 2], [1, 2], [1, 8]], (3, 32, 32), False),
    "Myrtle-5, ReLU NTK": ([[2, 2], [1, 2], [1, 8]], (3, 32, 32), True),
}
ROW = 1024  # entries of a row of kappa: all that it reads and writes is in the nearest cache


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


@njit(error_model="numpy", nogil=True)
def _values(times: int, code: int, par: Any, s: Any, zeros: Any, one: Any, ones: Any, out: Any, tmp: Any) -> None:
    for _ in range(times):
        value_row(code, par, s, zeros, zeros, one, one, ones, ones, out, tmp)


@njit(error_model="numpy", nogil=True)
def _both(
    times: int, code: int, par: Any, s: Any, zeros: Any, one: Any, ones: Any, out: Any, other: Any, tmp: Any
) -> None:
    for _ in range(times):
        both_row(code, par, s, zeros, zeros, s, True, one, one, one, ones, ones, out, other, tmp)


def kappa_seconds(arch: Architecture, tangent: bool) -> float:
    """Seconds of one kappa (and kappa')."""
    encoded = encode(arch.layers[0].kernel, np.dtype(np.float32))
    assert encoded is not None
    code, par = encoded
    row = np.random.RandomState(0).rand(ROW).astype(np.float32)
    ones, out, other, tmp = np.ones_like(row), np.zeros_like(row), np.zeros_like(row), np.zeros((5, ROW), np.float32)
    zeros, one, values, times = np.zeros_like(row), np.float32(1), np.array(par, np.float32), 2000
    if tangent:
        return best_of(lambda: _both(times, code, values, row, zeros, one, ones, out, other, tmp)) / ROW / times
    return best_of(lambda: _values(times, code, values, row, zeros, one, ones, out, tmp)) / ROW / times


def counts(arch: Architecture, shape: tuple[int, ...], tangent: bool) -> tuple[float, float]:
    """Floating point operations and kappas of one pair."""
    channels, *space = shape
    operations, kappas = 2.0 * channels * math.prod(space) ** 2, 0.0
    for layer, (patched, _) in zip(arch.layers, arch.shapes(tuple(space)), strict=True):
        size = float(math.prod(patched)) ** 2
        kappas += size
        twice = 2 if tangent else 1
        sums = len(patched) * (layer.patch - 1) * twice - 2  # two are in the rate of kappa
        operations += size * (sums + 3)  # sums of patches, cosines, norms
        lengths = [*patched, *patched]
        for axis, length in enumerate([*patched, *patched] if layer.pool is not None else []):  # one after the other
            matrix = pooling_matrix(layer.pool, length, arch)
            lengths[axis] = len(matrix)
            operations += 2.0 * twice * int((matrix != 0).sum()) * math.prod(lengths) / len(matrix)
    return operations, kappas


def milliseconds(
    arch: Architecture, shape: tuple[int, ...], tangent: bool, code: Any, images: int, dtype: Any
) -> float:
    """Of one pair, the norms of patches being known."""
    x = torch.rand(images, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    own = code.self_pass(arch, x, tangent=tangent)
    return 1e3 * best_of(lambda: code.cross_pass(arch, own, own, tangent=tangent), 3) / images**2


def whole_milliseconds(arch: Architecture, shape: tuple[int, ...], tangent: bool, images: int) -> float:
    """Of one pair of two sets of images, norms of patches and kernels of images with themselves included."""
    x, y = torch.rand(2, images, *shape, generator=torch.Generator().manual_seed(0)).unbind(0)

    def work() -> None:
        first, second = (engine.self_pass(arch, part, tangent=tangent) for part in (x, y))
        engine.cross_pass(arch, first, second, tangent=tangent)

    return 1e3 * best_of(work, 3) / images**2


def against_the_floor(images: int, threads: int) -> None:
    rate = sgemm_rate()
    print(f"sgemm: {rate / 1e9:.0f} GFLOP/s on {threads} thread(s); milliseconds per pair, float32")
    print("| model | floor | compiled | over the floor | times one thread | float64 | recursion in torch | faster by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (text, shape, tangent) in MODELS.items():
        arch = Architecture.parse(text)
        operations, kappas = counts(arch, shape, tangent)
        floor = 1e3 * (operations / rate + kappas * kappa_seconds(arch, tangent) / threads)
        single, double = (
            milliseconds(arch, shape, tangent, engine, images, dtype) for dtype in (torch.float32, torch.float64)
        )
        slow = milliseconds(arch, shape, tangent, recursion, 2, torch.float32)
        alone = single
        if threads > 1:
            torch.set_num_threads(1)
            alone = milliseconds(arch, shape, tangent, engine, images, torch.float32)
            torch.set_num_threads(threads)
        cells = [f"{floor:.2f}", f"{single:.2f}", f"{single / floor:.1f}", f"{alone / single:.2f}", f"{double:.2f}"]
        cells.append(f"{slow:.1f}")
        print(f"| {name} | {' | '.join(cells)} | {slow / single:.0f} |", flush=True)


def against_neural_tangents(python: str) -> None:
    images = 8  # more take it minutes
    script = Path(__file__).with_name("neural_tangents_pairs.py")
    arguments = [python, str(script), json.dumps(COMPARED), str(images)]
    peers = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    print("\n| model | compiled, float32 | neural-tangents, float64 | float32 | faster than its better one by |")
    print("| --- | --- | --- | --- | --- |")
    for name, (blocks, shape, tangent) in COMPARED.items():
        layers = [pool for times, size in blocks for pool in [*["-"] * (times - 1), f"avg{size}"]]
        arch = Architecture.parse(" | ".join(f"3 arccos1 {pool}" for pool in layers))
        ours, (double, single) = whole_milliseconds(arch, shape, tangent, images), peers[name]
        print(f"| {name} | {ours:.2f} | {double:.1f} | {single:.1f} | {min(double, single) / ours:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="pairs are their square")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--neural-tangents", metavar="PYTHON", help="the interpreter of an environment that has it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    against_the_floor(options.images, options.threads)
    if options.neural_tangents:
        against_neural_tangents(options.neural_tangents)


if __name__ == "__main__":
    main()
