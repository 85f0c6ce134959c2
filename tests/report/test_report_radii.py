"""Curves by radius, distributions of margins, pictures of changes, and numbers as words."""

import math

import numpy as np
import pytest

from hilbertnet.experiments.experiment import Curve
from hilbertnet.report.pictures import change_strip
from hilbertnet.report.radii import accuracy_panel, certified_curve, margin_panels
from hilbertnet.report.words import quantity


def height(curve: Curve, radius: float) -> float:
    """Of a step curve, from the right."""
    return [y for x, y in zip(curve.x, curve.y, strict=True) if x <= radius][-1]


def test_a_certified_curve_falls_where_radii_are():
    radii = [0.0, 0.1, 0.25, 0.25, 0.9]
    kept = {"radii": [0.0, 0.1, 0.25, 0.9], "accuracy": [0.8, 0.6, 0.2, 0.0]}
    curve = certified_curve("certified", kept, clean=0.8)
    for radius in (0.0, 0.05, 0.1, 0.2, 0.25, 0.5, 0.9, 1.0):
        assert height(curve, radius) == pytest.approx(100 * np.mean(np.array(radii) > radius))


def test_small_radii_get_a_logarithmic_scale_without_zero():
    attacked = Curve("attacked", (0.0, 1.0), (90.0, 10.0))
    small = Curve("certified", (0.0, 0.001, 0.002, 0.003), (90.0, 60.0, 30.0, 0.0))
    panel = accuracy_panel([attacked, small], 0.9, "radius")
    assert panel.log_x
    assert all(x > 0 for curve in panel.curves for x in curve.x)
    assert not accuracy_panel([attacked], 0.9, "radius").log_x
    level = panel.curves[-1]
    assert (level.kind, level.y, level.x) == ("level", (90.0, 90.0), (0.001, 1.0))


def test_only_attacks_of_radius_zero_can_be_drawn():
    panel = accuracy_panel([Curve("attacked", (0.0,), (90.0,))], 0.9, "radius")
    assert not panel.log_x


def test_margins_over_norms_keep_their_shares():
    values = np.linspace(-1, 3, 400)
    found = {"values": values.tolist(), "shares": ((np.arange(400) + 1) / 400).tolist(), "norms": {"a": 2.0, "b": 1e3}}
    whole, over = margin_panels(found, {"a": "first norm"})
    assert whole.curves[0].x[-1] == 3.0
    assert len(whole.curves[0].x) < 250
    assert [curve.label for curve in over.curves] == ["over the first norm", "over the b"]
    for curve, norm in zip(over.curves, (2.0, 1e3), strict=True):
        for x, share in zip(curve.x, curve.y, strict=True):
            assert share == pytest.approx(100 * np.mean(values <= x * norm + 1e-12))
    assert len(margin_panels({**found, "norms": {}}, {})) == 1
    assert len(margin_panels({**found, "values": (-1 - np.arange(400)[::-1]).tolist()}, {})) == 1


def test_a_strip_is_the_image_the_changed_one_and_the_change():
    image, change = np.zeros((1, 2, 2)), np.array([[[0.25, -0.125], [0.0, 2.0]]])
    strip = change_strip(image, change, 32, bounded=True)
    assert strip.shape == (2, 8, 4)
    np.testing.assert_array_equal(strip[:, :2, 0], 0)
    np.testing.assert_array_equal(strip[:, 3:5, 0], [[64, 0], [0, 255]])
    red, blue = strip[..., 0].astype(int), strip[..., 2].astype(int)
    assert red[1, 7] > blue[1, 7] + 50  # the largest, with full colour
    assert blue[0, 7] > red[0, 7]
    assert abs(red[1, 6] - blue[1, 6]) <= 2


def test_images_without_bounds_are_shown_from_their_own_extremes():
    image, change = np.array([[[-5.0, 0.0]]]), np.array([[[0.0, 5.0]]])
    strip = change_strip(image, change, 32, bounded=False)
    np.testing.assert_array_equal(strip[0, [0, 1, 3, 4], 0], [0, 128, 0, 255])
    flat = change_strip(np.full((3, 2, 2), 7.0), np.zeros((3, 2, 2)), 32, bounded=False)
    assert len(np.unique(flat[:, 6:, :3])) == 1  # no change is grey


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.03163, "0.0316"),
        (0.000512, "5.12 × 10⁻⁴"),
        (1, "1.00"),
        (0.9996, "1.00"),
        (28.44, "28.4"),
        (-28.44, "-28.4"),
        (115.4, "115"),
        (1953.97, "1,950"),
        (9999, "1.00 × 10⁴"),
        (42476.5, "4.25 × 10⁴"),
        (math.inf, "∞"),
    ],
)
def test_quantities_have_three_digits(value, words):
    assert quantity(value) == words
