"""Times of neural-tangents, for `exact_kernels.py`, which calls this in an environment of its own.

    python benchmarks/neural_tangents_pairs.py MODELS IMAGES

MODELS is JSON: by name, the layers as pairs [times "conv 3x3, ReLU", size of the average pooling after them], the
shape of an image (channels first) and whether the tangent kernel is computed too. Prints milliseconds per pair, in
float64 and float32, as JSON. Made for neural-tangents 0.6.5 with jax 0.4.30 and tf2jax 0.3.6. One core, where the
system lets it.
"""

import json
import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])

import jax
import numpy as np
from neural_tangents import stax

jax.config.update("jax_enable_x64", True)


def kernel_function(layers):
    parts = []
    for times, pool in layers:
        parts += [stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.0), stax.Relu()] * times
        parts.append(stax.AvgPool((pool, pool), strides=(pool, pool)))
    return stax.serial(*parts, stax.Flatten())[2]


def milliseconds(layers, shape, tangent, images, dtype):
    kernel = kernel_function(layers)
    call = jax.jit(lambda a, b: kernel(a, b, ("nngp", "ntk") if tangent else ("nngp",)))
    channels, *space = shape
    x = np.random.RandomState(0).rand(images, *space, channels).astype(dtype)
    y = np.random.RandomState(1).rand(images, *space, channels).astype(dtype)
    jax.block_until_ready(tuple(call(x, y)))
    times = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(tuple(call(x, y)))
        times.append(time.perf_counter() - began)
    return 1e3 * min(times) / images**2


found = {
    name: [milliseconds(layers, shape, tangent, int(sys.argv[2]), dtype) for dtype in ("float64", "float32")]
    for name, (layers, shape, tangent) in json.loads(sys.argv[1]).items()
}
print(json.dumps(found))
