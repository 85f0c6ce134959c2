"""Plots are drawn on the axes given or on a figure of their own, for any number of classes and any names."""

import sys
import warnings

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hilbertnet.experiments import FitSettings, fit_run
from hilbertnet.experiments.experiment import Curve, Panel
from hilbertnet.report import confusion_matrix, mosaic, training_curve, validation_curve, write_report
from hilbertnet.report.curves import curves
from hilbertnet.report.svg import PAGE, inline_svg
from hilbertnet.report.words import shorten
from hilbertnet.solvers.linear import ValidationPoint
from hilbertnet.training import Epoch

POINTS = [ValidationPoint(10.0**-p, 0.5 + 0.05 * p, 1.0 / p) for p in (3, 1, 2, 4)]
WEIRD = ["<script>alert(1)</script>", "&amp;", "🦊", "عربي", "$x^2$", '" id="x" #010203', "a" * 60, "\x07\ud800"]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_validation_curve_is_sorted_and_marks_the_choice():
    axes = validation_curve(POINTS, 1e-3)
    assert isinstance(axes, Axes)
    line = axes.lines[0]
    assert list(line.get_xdata()) == sorted(point.lam for point in POINTS)
    np.testing.assert_allclose(line.get_ydata(), [70, 65, 60, 55])
    assert axes.get_xscale() == "log"
    assert texts(axes) == ["λ = 10⁻³, 65.00%"]


def test_one_point_is_a_curve_and_none_is_refused():
    assert texts(validation_curve(POINTS[:1], 1e-3)) == ["λ = 10⁻³, 65.00%"]
    with pytest.raises(ValueError, match="points: expected at least one lambda tried"):
        validation_curve([], 1e-3)


def test_plots_draw_on_the_axes_given():
    axes = Figure().subplots(1, 3)
    assert validation_curve(POINTS, 1e-3, axes[0]) is axes[0]
    assert confusion_matrix([[3, 1], [0, 2]], ["a", "b"], axes[1]) is axes[1]
    assert mosaic(np.zeros((5, 1, 4, 4), np.uint8), axes[2]) is axes[2]


@pytest.mark.parametrize("k", [1, 2, 10, 30, 100])
def test_a_confusion_matrix_has_numbers_where_there_is_room(k):
    counts = np.arange(k * k).reshape(k, k)
    axes = confusion_matrix(counts, [f"class number {index}" for index in range(k)])
    expected = sorted(f"{count:,}" for count in counts.ravel() if count) if k <= 20 else []
    assert sorted(texts(axes)) == expected
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [shorten(f"class number {index}") for index in axes.get_yticks()]
    assert len(names) == (10 if k == 100 else k)
    assert axes.get_ylim() == (k - 0.5, -0.5)  # the first label on top
    assert len(inline_svg(axes.figure, "n", "matrix")) < 400_000


def test_a_confusion_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"counts: expected shape \(3, 3\), one row for each class, got \(2, 2\)"):
        confusion_matrix([[1, 0], [0, 1]], ["a", "b", "c"])


def test_cells_are_strong_by_their_share_of_the_row():
    axes = confusion_matrix([[90, 10, 0], [1, 1, 98], [0, 0, 0]], "abc")
    alphas = {}
    for path, colour in zip(axes.collections[0].get_paths(), axes.collections[0].get_facecolors(), strict=True):
        column, row = path.get_extents().x0 + 0.5, path.get_extents().y0 + 0.5
        alphas[round(row), round(column)] = colour[3]
    assert set(alphas) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}
    assert alphas[0, 0] > alphas[1, 1]
    assert alphas[1, 2] > alphas[0, 1] > alphas[1, 0]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_mosaic_shows_any_number_of_channels(channels):
    assert isinstance(mosaic(np.full((7, channels, 5, 6), 9, np.uint8), columns=3), Axes)


@pytest.mark.parametrize("images", [np.zeros((2, 1, 4, 4)), np.zeros((0, 1, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_a_mosaic_of_anything_else_is_refused(images):
    with pytest.raises(ValueError, match=r"images: expected bytes \(n, channels, height, width\)"):
        mosaic(images)


def test_nothing_is_drawn_on_the_current_figure():
    if "matplotlib.pyplot" in sys.modules:
        from matplotlib import pyplot

        before = pyplot.get_fignums()
        validation_curve(POINTS, 1e-3)
        assert pyplot.get_fignums() == before


# --- as SVG


def test_an_svg_takes_colours_font_and_ids_from_the_page():
    axes = confusion_matrix([[3, 1], [0, 2]], ["a", "b"], palette=PAGE)
    text = str(inline_svg(axes.figure, "here", 'what "it" is'))
    assert text.startswith('<svg class="plot" role="img" aria-label="what &quot;it&quot; is"')
    assert text.endswith("</svg>")
    for absent in ("<?xml", "DOCTYPE", "<metadata", "<style", "<!--", "#0102", "#000000", "DejaVu", "Date"):
        assert absent not in text
    assert "currentColor" in text
    assert "var(--accent)" in text
    assert 'id="here-axes_1"' in text
    assert text.count("url(#") == text.count("url(#here-")


def test_any_name_is_written_as_it_is():
    axes = confusion_matrix(np.eye(len(WEIRD), dtype=int), WEIRD, palette=PAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = str(inline_svg(axes.figure, "n", "matrix"))
    assert "&lt;script&gt;…" in text or "&lt;script&gt;al" in text
    assert "<script" not in text
    assert "&amp;amp;" in text
    for name in ("🦊", "عربي", "$x^2$", 'id="x"'):
        assert name in text or name.replace('"', "&quot;") in text
    assert "a" * 13 + "…" in text
    assert "\ufffd\ufffd" in text


def test_the_same_figure_gives_the_same_svg_and_other_settings_do_not_matter():
    def draw() -> str:
        return str(inline_svg(validation_curve(POINTS, 1e-3, palette=PAGE).figure, "n", "curve"))

    import matplotlib

    first = draw()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "other", "savefig.dpi": 300}):
        assert draw() == first


HISTORY = [Epoch(i, 0.1, 1.0, 0.5 + 0.1 * i, 1.0, accuracy, 1.0) for i, accuracy in enumerate([0.5, 0.7, 0.65])]


def test_the_training_curve_marks_the_best_epoch():
    axes = training_curve(HISTORY)
    assert texts(axes) == ["training batches", "held out"]
    assert axes.lines[0].get_ydata() == pytest.approx([50, 60, 70])
    assert axes.lines[1].get_ydata() == pytest.approx([50, 70, 65])
    assert (list(axes.lines[2].get_xdata()), list(axes.lines[2].get_ydata())) == ([2], [pytest.approx(70)])


def test_the_training_curve_without_evaluations():
    history = [Epoch(0, 0.1, 1.0, 0.5, None, None, 1.0), Epoch(1, 0.1, float("inf"), 0.6, None, None, 1.0)]
    assert texts(training_curve(history)) == ["training batches"]
    with pytest.raises(ValueError, match="history: expected at least one epoch"):
        training_curve([])


def test_the_page_of_a_supervised_run_has_its_curve(tmp_path):
    settings = FitSettings(
        "digits", filters=(4, 6), train=100, patches=500, training="supervised", epochs=2, augmentation="crop(1)"
    )
    record = fit_run(settings, tmp_path, progress=False)
    assert "filters then trained" in record["protocol"]
    assert len(record["history"]) == 2
    assert list(record["seconds"]) == ["load", "filters", "features", "lambda", "head", "training", "test"]
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<section id="training">' in page
    assert "Train end to end" in page


# --- curves


FALLING = Curve("random", (16, 64, 256), (0.4, 0.2, 0.1), (0.3, 0.15, 0.07), (0.5, 0.25, 0.13))
OTHER = Curve("Nyström $x$", (16, 32, 64), (0.04, 0.001, 0.0005), (0.04, 0.001, 0.0005), (0.04, 0.001, 0.0005))
PANEL = Panel("3 exp(0.6) - | 3 $x$ -", "features", "relative error", (FALLING, OTHER), slope=-0.5)


def test_curves_have_bands_and_a_line_to_compare_with():
    axes = curves(PANEL)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert list(axes.lines[0].get_ydata()) == [0.4, 0.2, 0.1]
    reference = axes.lines[2]
    np.testing.assert_allclose(reference.get_xdata(), [16, 256])
    np.testing.assert_allclose(reference.get_ydata(), [0.4, 0.1])  # a quarter at sixteen times the width
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} >= {(16, 0.3), (64, 0.15), (256, 0.07), (16, 0.5), (64, 0.25), (256, 0.13)}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["random", "Nyström $x$", "slope −0.5"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["16", "32", "64", "256"]
    assert axes.get_title(loc="left") == "3 exp(0.6) - | 3 $x$ -"


def test_accuracies_are_on_a_linear_scale_and_may_be_zero():
    curve = Curve("ckn", (300.0, 1000.0), (0.0, 97.0), (0.0, 96.0), (1.0, 98.0))
    axes = curves(Panel("t", "images", "accuracy, %", (curve,), log_y=False))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert len(axes.lines) == 1
    assert [label.get_text() for label in axes.get_xticklabels()] == ["300", "1,000"]


def test_many_curves_are_told_apart():
    many = tuple(Curve(f"c{i}", (1, 2), (i + 1, i + 2), (i + 1, i + 2), (i + 1, i + 2)) for i in range(8))
    lines = curves(Panel("t", "x", "y", many)).lines
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == 8


def test_levels_and_points_have_the_colour_of_their_line_and_levels_one_entry_in_the_legend():
    def line(label, height):
        return Curve(label, (1, 10), (height, height + 1))

    def level(label, height):
        return Curve(label, (1, 10), (height, height), kind="level")

    drawn = [line("a", 1), level("same", 2), level("any", 3), line("b", 2), level("same", 4), level("any", 5)]
    drawn.append(Curve("b, published", (2,), (3,), kind="points"))
    axes = curves(Panel("t", "x", "y", tuple(drawn)))
    a, same, anything, b, same_b, any_b, points = axes.lines
    assert a.get_color() == same.get_color() == anything.get_color() != b.get_color()
    assert b.get_color() == same_b.get_color() == points.get_color()
    assert same.get_linestyle() == any_b.get_linestyle() == "--"  # patterns are not in the style's name
    assert same._unscaled_dash_pattern == same_b._unscaled_dash_pattern != any_b._unscaled_dash_pattern
    assert points.get_linewidth() == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "same", "any", "b", "b, published"]


def test_places_are_named_unless_they_are_many_or_far_apart_and_x_may_be_linear():
    def ticks(x, **how):
        y = tuple(1.0 + i for i in range(len(x)))
        axes = curves(Panel("t", "x", "y", (Curve("a", tuple(x), y),), **how))
        axes.figure.canvas.draw()
        low, high = axes.get_xlim()
        return [tick for tick in axes.get_xticks() if low <= tick <= high], axes

    assert ticks([1.0, 3.0, 30.0])[0] == [1, 3, 30]
    many, axes = ticks([float(k) for k in range(1, 101)])
    assert set(many) <= {1, 2, 5, 10, 20, 50, 100}
    assert axes.lines[0].get_markevery() == 8
    assert len(ticks([1.0, 10.0, 1e120])[0]) <= 9
    linear, axes = ticks([-2.0, 0.0, 2.0], log_x=False)
    assert axes.get_xscale() == "linear"
    assert min(linear) < 0 < max(linear)


def test_curves_are_drawn_on_the_axes_given_in_the_palette_of_a_page():
    axes = Figure().subplots()
    assert curves(PANEL, axes, palette=PAGE) is axes
    text = str(inline_svg(axes.figure, "here", "errors"))
    assert "var(--accent)" in text
    assert "#0102" not in text


def one(**changes):
    values = {"label": "c", "x": (1, 2), "y": (1, 2), "low": (1, 2), "high": (1, 2), **changes}
    return Panel("t", "x", "y", (Curve(**values),))


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        (Panel("t", "x", "y", ()), "^panel: expected at least one curve, got none"),
        (one(y=(1, 2, 3)), "^panel: expected as many x, y, low and high of 'c', at least one, got .*'y': 3"),
        (one(x=(), y=(), low=(), high=()), "^panel: expected as many"),
        (one(low=(0, 1)), r"^panel: expected finite positive numbers as low of 'c', got \(0, 1\)"),
        (one(y=(1, float("nan"))), "^panel: expected finite positive numbers as y of 'c'"),
        (one(x=(-1, 2)), "^panel: expected finite positive numbers as x of 'c'"),
    ],
)
def test_what_is_no_curve_is_refused(panel, message):
    with pytest.raises(ValueError, match=message):
        curves(panel)
