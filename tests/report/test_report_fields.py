"""Receptive fields are what the gradient says, and crops show them in place."""

import numpy as np
import pytest
import torch

from hilbertnet.architecture import Architecture
from hilbertnet.networks import CKN
from hilbertnet.report.fields import crop, reach, receptive_field

TEXTS = [
    "3 exp(0.6) gauss2 | 3 exp(0.6) gauss5",
    "3 exp(0.6) - | 3 exp(0.6) gauss2",
    "2 exp(1) avg2 | 4 exp(1) avg3/2 | 1 exp(1) -",
    "3 exp(1) stride3 | 2 exp(1) stride2",
    "5 exp(1) gauss3/2 | 3 exp(1) global",
]


def some(positions: int) -> list[int]:
    """The first, those in the middle and the last."""
    return sorted({0, min(1, positions - 1), positions // 2, max(0, positions - 2), positions - 1})


def gradient_support(arch: Architecture, height: int, width: int, layer: int, pooled: bool) -> np.ndarray:
    """Booleans (some rows, some columns, height, width), from the network itself."""
    layers = arch.layers[: layer + 1]
    if not pooled:
        layers = (*layers[:-1], type(layers[-1])(layers[-1].patch, layers[-1].kernel, None))
    part = Architecture(layers, boundary=arch.boundary, sigma0=arch.sigma0, layout=arch.layout)
    net = CKN(part, 2, (5,) * len(layers), generator=0).double()
    x = torch.rand(1, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    x.requires_grad_()
    outputs = net(x).square().sum(1)[0]
    outputs = outputs[some(outputs.shape[0])][:, some(outputs.shape[1])]
    rows = [[torch.autograd.grad(each, x, retain_graph=True)[0][0] for each in line] for line in outputs]
    return np.array([[(grad.abs().sum(0) > 0).numpy() for grad in line] for line in rows])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "conventions",
    [
        {},
        {"boundary": "valid"},
        {"boundary": "circular"},
        {"layout": "ckn_kernel"},
        {"sigma0": 0.4},
        {"sigma0": 0.3, "boundary": "circular"},
    ],
    ids=str,
)
def test_fields_are_where_the_gradient_is(text, conventions):
    arch = Architecture.parse(text, **conventions)
    height, width = 32, 29
    shapes = arch.shapes((height, width))
    for layer, (patched, left) in enumerate(shapes):
        for pooled in (False, True):
            rows = receptive_field(arch, height, layer, pooled=pooled)
            columns = receptive_field(arch, width, layer, pooled=pooled)
            assert (len(rows), len(columns)) == (left if pooled else patched)
            rows, columns = rows[some(len(rows))], columns[some(len(columns))]
            expected = gradient_support(arch, height, width, layer, pooled)
            np.testing.assert_array_equal(rows[:, None, :, None] & columns[None, :, None, :], expected)


def test_a_field_of_the_published_network():
    arch = Architecture.parse("3 exp(0.6) gauss2 | 3 exp(0.6) gauss5")
    first, second = (receptive_field(arch, 28, layer) for layer in (0, 1))
    assert first.shape == (28, 28)
    assert reach(first) == 3
    assert second.shape == (14, 28)
    assert reach(second) == 10
    assert np.flatnonzero(first[0]).tolist() == [0, 1]


def test_an_absent_layer_is_refused():
    with pytest.raises(ValueError, match="layer: expected a number from 0 to 0, got 1"):
        receptive_field(Architecture.parse("3 exp(0.6) -"), 9, 1)


def crop_at(boundary: str, row: int, column: int) -> np.ndarray:
    arch = Architecture.parse("3 exp(0.6) -", boundary=boundary)
    picture = np.arange(25, dtype=np.uint8).reshape(5, 5, 1).repeat(3, axis=2)
    field = receptive_field(arch, 5, 0)
    return crop(picture, field[row], field[column], (3, 3))


def test_crops_lie_in_place():
    inside = crop_at("zero", 2, 1)
    assert inside[..., 0].tolist() == [[5, 6, 7], [10, 11, 12], [15, 16, 17]]
    assert (inside[..., 3] == 255).all()
    corner = crop_at("zero", 0, 4)
    assert corner[..., 3].tolist() == [[0, 0, 0], [255, 255, 0], [255, 255, 0]]
    assert corner[1:, :2, 0].tolist() == [[3, 4], [8, 9]]
    around = crop_at("circular", 0, 4)
    assert around[..., 0].tolist() == [[23, 24, 20], [3, 4, 0], [8, 9, 5]]
