"""Infinite MNIST: how many digits a second the stream gives, and how long one digit by its index takes.

    python benchmarks/infinite_mnist.py [--threads 1] [--batch 256] [--digits 60000]

Random images of 28 x 28 stand for MNIST's, so that nothing needs to be downloaded: the time does not depend on what is
in them. The published tangent images are played by an array in memory. The last lines compare with a training step that
the stream would feed: forward and backward of the small network of the studies on MNIST.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hilbertnet.deformations.digit_stream import DigitStream
from hilbertnet.deformations.infinite_mnist import InfiniteMNIST
from hilbertnet.networks.cnn import mnist_net

GOAL = 5_000  # images a second on one core
FORMS: dict[str, dict[str, Any]] = {
    "float": {},
    "float, translated": {"translate": True},
    "float64": {"dtype": torch.float64},
    "uint8": {"form": "uint8"},
    "uint8, translated": {"form": "uint8", "translate": True},
}


def seconds(work: Callable[[], object], least: float = 2.0) -> float:
    """Seconds for one call: the mean over at least `least` seconds, after one call that is not counted."""
    work()
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < least:
        work()
        count += 1
    return spent / count


def training_step(size: int) -> float:
    """Seconds of one forward and backward."""
    net, x, y = mnist_net(generator=0), torch.rand(size, 1, 28, 28), torch.randint(10, (size,))
    return seconds(lambda: torch.nn.functional.cross_entropy(net(x), y).backward())


def main() -> None:
    """Print a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--digits", type=int, default=60_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (options.digits, 28, 28)).astype(np.uint8)
    labels = rng.randint(0, 10, options.digits)
    tangents = np.ones((options.digits, 2, 28, 28), np.float32)  # not zeros, which have no memory of their own
    print(f"{options.digits:,} digits of 28 x 28, batches of {options.batch}, {options.threads} thread(s)")
    for name, how in FORMS.items():
        for held, given in (("made here", {}), ("given", {"tangents": tangents})):
            digits = InfiniteMNIST(images=images, labels=labels, **how, **given)
            stream = DigitStream(digits, options.batch)
            rate = options.batch / seconds(lambda stream=stream: next(stream))
            single = 1e6 * seconds(lambda digits=digits: digits[10**12], 0.5)
            print(
                f"{name:18s} tangents {held:10s} {rate:9,.0f} images/s ({rate / GOAL:5.1f} times the goal), "
                f"one by its index {single:4.0f} us"
            )
    step = training_step(options.batch)
    print(f"a training step of the small network takes {1e3 * step:.0f} ms, {options.batch / step:,.0f} images/s")


if __name__ == "__main__":
    main()
