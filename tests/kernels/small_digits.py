"""A real Gram matrix: digits of 4 x 4 pixels (the 8 x 8 averaged) under a convolutional kernel."""

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits

from hilbertnet.kernels import ConvKernel


@functools.cache
def small_digits(n):
    """Gram matrix (n, n) and labels of digits in random order."""
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))[:n]
    images = x[order].reshape(n, 1, 4, 2, 4, 2).mean((3, 5)) / 16
    return torch.tensor(ConvKernel("2 exp(0.6) - | 2 exp(0.6) gauss2").gram(images)), torch.tensor(y[order])


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, 10).double() - 0.1
