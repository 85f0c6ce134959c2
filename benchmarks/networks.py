"""Speed of networks, as ratios measured side by side in one run.

    python benchmarks/networks.py [--threads N] [--scattering PYTHON]

Three tables: a CKN layer against convolution + ReLU + pooling of the same shapes, forward and backward; the whole
network 64-256 against the plain network of its shape; images per second of its features, beside a scattering transform
if PYTHON is an interpreter of an environment that has kymatio and torch (kymatio 0.3.0 needs scipy below 1.15).
Times are medians over repeats that alternate between the two sides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

from hilbertnet.networks import CKN, ckn_like
from hilbertnet.records import environment

TEXT = "3 exp(0.6) gauss2 | 3 exp(0.6) gauss6"
REPEATS = 9

SCATTERING = """
import sys, time, statistics, torch
from kymatio.torch import Scattering2D
torch.set_num_threads(int(sys.argv[1]))
transform, x = Scattering2D(J=2, shape=(32, 32)), torch.rand(128, 3, 32, 32)
transform(x)
times = []
for _ in range(5):
    start = time.perf_counter()
    shape = transform(x).shape
    times.append(time.perf_counter() - start)
print(128 / statistics.median(times), shape[1:].numel())
"""


def alternate(*functions: Callable[[], object]) -> list[float]:
    """Median seconds of each function, called in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(REPEATS + 1):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if repeat:  # the first call warms up
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def both_ways(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        x.grad = None
        model(x).square().sum().backward()

    return step


def forward(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return model(x)

    return call


def row(name: str, ours: nn.Module, plain: nn.Module, x: torch.Tensor) -> None:
    a, b = alternate(forward(ours.eval(), x), forward(plain.eval(), x))
    x = x.clone().requires_grad_()
    c, d = alternate(both_ways(ours.train(), x), both_ways(plain.train(), x))
    print(f"| {name} | {1e3 * a:.1f} | {1e3 * b:.1f} | {a / b:.2f} | {1e3 * c:.1f} | {1e3 * d:.1f} | {c / d:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--scattering", metavar="PYTHON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    made = environment()
    print(f"{made['platform']}, torch {made['versions']['torch']}, {arguments.threads} threads, {made['time']}\n")
    print("| batch of 64 | CKN ms | plain ms | ratio | CKN both ways ms | plain both ways ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for channels, filters, side, pool in ((3, 64, 32, "gauss2"), (64, 64, 32, "gauss2"), (64, 256, 16, "gauss6")):
        text = f"3 exp(0.6) {pool}"
        ours = CKN(text, channels, (filters,), generator=0).requires_grad_()
        plain = ckn_like(text, channels, (filters,), 10, space=(side, side), generator=0).body
        row(f"{channels} -> {filters}, {side} x {side}, {pool}", ours, plain, torch.rand(64, channels, side, side))
    ours = CKN(TEXT, 3, (64, 256), generator=0).requires_grad_()
    plain = ckn_like(TEXT, 3, (64, 256), 10, generator=0)
    row("64-256 whole", ours, plain.body, torch.rand(64, 3, 32, 32))
    x = torch.rand(128, 3, 32, 32)
    (seconds,) = alternate(lambda: ours.eval().requires_grad_(False).encode(x, progress=False))
    print(f"\nfeatures: {128 / seconds:.0f} images per second ({ours.encode(x[:1]).numel():,} features)")
    if arguments.scattering:
        command = [arguments.scattering, "-c", SCATTERING, str(arguments.threads)]
        rate, size = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        print(f"scattering, kymatio, J = 2: {rate:.0f} images per second ({size:,.0f} features)")
        print(f"ratio: {128 / seconds / rate:.2f}")


if __name__ == "__main__":
    main()
