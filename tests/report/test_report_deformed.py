"""Arrows of a field and rows of deformed images."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from hilbertnet.deformations import Rotation
from hilbertnet.report import deformed_images, field_arrows
from hilbertnet.report.deformed import draw_deformed


def test_arrows_go_from_where_a_pixel_was_to_where_it_is_seen():
    tau = np.zeros((2, 5, 7))
    tau[0], tau[1] = 1.0, -2.0  # one down, two to the left
    axes = field_arrows(tau, np.zeros((1, 5, 7)))
    (quiver,) = [part for part in axes.collections if hasattr(part, "U")]
    np.testing.assert_array_equal(quiver.U, np.full(35, -2.0))
    np.testing.assert_array_equal(quiver.V, np.full(35, 1.0))
    np.testing.assert_array_equal(quiver.X, np.tile(np.arange(7) + 2.0, 5))
    np.testing.assert_array_equal(quiver.Y, np.repeat(np.arange(5) - 1.0, 7))
    low, high = axes.get_ylim()
    assert low > high  # rows go downwards


def test_large_fields_have_few_arrows():
    axes = field_arrows(Rotation().field(10.0, 1, (100, 60))[0])
    (quiver,) = axes.collections
    assert 50 < len(quiver.U) <= 256


def test_rows_of_images_are_labelled_and_written(tmp_path):
    images = torch.rand(3, 4, 1, 6, 5)
    axes = deformed_images(images, ["a", "b", "c"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    draw_deformed(images, ["a", "b", "c"], tmp_path / "x.png")
    assert min(imread(tmp_path / "x.png").shape[:2]) > 100
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_bad_pictures_are_refused():
    with pytest.raises(ValueError, match="field: expected finite displacements"):
        field_arrows(np.zeros((1, 5, 5)))
    with pytest.raises(ValueError, match="field: expected finite"):
        field_arrows(np.full((2, 5, 5), np.nan))
    with pytest.raises(ValueError, match="image: expected shape \\(channels, 5, 5\\)"):
        field_arrows(np.zeros((2, 5, 5)), np.zeros((1, 4, 5)))
    with pytest.raises(ValueError, match="a row for each label"):
        deformed_images(np.zeros((2, 3, 1, 4, 4)), ["a"])
