"""Exact kernels on an accelerator: time per pair of images, compiled, against the same recursion in plain torch.

    python benchmarks/exact_kernels_gpu.py [--device cuda] [--images 16] [--plain-images 8]

Everything is measured in one run, in float32, the norms of patches being known. The last column says how much time a
pair takes in copies of its largest state (all pairs of positions) from memory to memory, at the rate measured here.
With ``--device cpu`` it runs anywhere, to see that it runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from exact_kernels import MODELS, best_of

from hilbertnet.architecture import Architecture
from hilbertnet.kernels import fused_gpu, recursion


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of the fastest of several calls, each to its end."""

    def finished() -> None:
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return best_of(finished)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=16, help="pairs are their square")
    parser.add_argument("--plain-images", type=int, default=8, help="for plain torch, which takes more memory")
    options = parser.parse_args()
    device = torch.device(options.device)
    source = torch.rand(2**28 if device.type != "cpu" else 2**24, device=device)
    target = torch.empty_like(source)
    copied = seconds(lambda: target.copy_(source), device) / source.numel()
    name = torch.get_device_module(device).get_device_name(device) if device.type != "cpu" else "cpu"
    print(f"{name}: copies {8 / copied / 1e9:.0f} GB/s (read and written); microseconds per pair, float32")
    print("| model | compiled | plain torch | faster by | copies of its largest state |")
    print("| --- | --- | --- | --- | --- |")
    for model, (text, shape, tangent) in MODELS.items():
        arch, found = Architecture.parse(text), []
        ways = (fused_gpu.cross_pass, options.images), (recursion.cross_pass, options.plain_images)
        for cross_pass, images in ways:
            x = torch.rand(images, *shape, generator=torch.Generator().manual_seed(0)).to(device)
            own = recursion.self_pass(arch, x, tangent=tangent)
            taken = seconds(lambda: cross_pass(arch, own, own, tangent=tangent), device)  # noqa: B023
            found.append(1e6 * taken / images**2)
        copies = found[0] / (1e6 * copied * math.prod(shape[1:]) ** 2)
        print(f"| {model} | {found[0]:.2f} | {found[1]:.2f} | {found[1] / found[0]:.1f} | {copies:.1f} |", flush=True)


if __name__ == "__main__":
    main()
