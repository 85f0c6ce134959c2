"""Text forms of the families of deformations, and what is no family, no size and no signal."""

import dataclasses
import math
import re

import pytest
import torch

from hilbertnet.deformations import (
    FAMILIES,
    BandLimitedField,
    GaussianField,
    Rotation,
    Scaling,
    Shear,
    SplineField,
    Translation,
    Zoom,
    parse_family,
)

EVERY = [
    Translation(),
    Translation("right"),
    Translation(200.0),
    Rotation(),
    Rotation("random", (-1, 2.5)),
    Zoom(),
    Zoom("out"),
    Zoom(centre=(3, 4.5)),
    Zoom(centre=(3,)),
    Scaling(),
    Scaling("vertical", "out", (0, -1)),
    Shear("up"),
    GaussianField(2.5),
    BandLimitedField(3),
    SplineField(6),
    GaussianField(2, "displacement"),
    BandLimitedField(4.5, "displacement"),
    SplineField(9, "displacement"),
]


@pytest.mark.parametrize("family", EVERY, ids=str)
def test_text_form_there_and_back(family):
    assert parse_family(str(family)) == family
    assert hash(parse_family(str(family))) == hash(family)
    assert family.unit


@pytest.mark.parametrize(
    ("text", "family", "form"),
    [
        ("translation", Translation(), "translation"),
        (" translation ( 30 ) ", Translation(30), "translation(30)"),
        ("translation(random)", Translation(), "translation"),
        ("rotation(3, 4, clockwise)", Rotation("clockwise", (3, 4)), "rotation(clockwise, 3, 4)"),
        ("zoom(5)", Zoom(centre=(5,)), "zoom(5)"),
        ("scaling(out)", Scaling(direction="out"), "scaling(out)"),
        ("gaussian(3)", GaussianField(3), "gaussian(3)"),
        ("gaussian(gradient, 3.0)", GaussianField(3), "gaussian(3)"),
        ("bandlimited(4, displacement)", BandLimitedField(4, "displacement"), "bandlimited(4, displacement)"),
        ("spline(5)", SplineField(5), "spline(5)"),
    ],
)
def test_text_forms(text, family, form):
    assert parse_family(text) == family
    assert str(family) == form


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gausian(3)", r"unknown deformation 'gausian'; did you mean 'gaussian'\?"),
        ("", r"expected a deformation such as rotation"),
        ("wobble", r"unknown deformation 'wobble'; known: bandlimited, gaussian, "),
        ("rotation(clokwise)", r"unknown word of 'rotation' 'clokwise'; did you mean 'clockwise'\?"),
        ("zoom(in, out)", r"zoom: expected one direction, got 'out' too"),
        ("zoom(1, 2, 3)", r"expected zoom, zoom\(out\) or zoom\(3, 4\)"),
        ("translation(left, 3)", r"expected translation, translation\(right\) or translation\(30\)"),
        ("translation(1, 2)", r"expected translation, translation\(right\) or translation\(30\)"),
        ("gaussian", r"expected gaussian\(3\)"),
        ("gaussian(0)", r"gaussian: std: expected a number of pixels above 0, got 0"),
        ("spline(4.5)", r"spline: knots: expected a whole number of at least 4, got 4.5"),
        ("spline(3)", r"spline: knots: expected a whole number of at least 4, got 3"),
        ("bandlimited(0.5)", r"bandlimited: cycles: expected a number of at least 1, got 0.5"),
        ("shear | zoom", r"expected the end of the text after 'shear'"),
        ("rotation(", r"expected an argument of 'rotation', a number, got the end of the text"),
    ],
)
def test_typos_are_answered_with_their_place(text, message):
    with pytest.raises(ValueError, match=r"^deformation: .*\(character \d+\)\n") as caught:
        parse_family(text)
    assert caught.match(message)


def test_every_family_has_a_name_and_its_usage_works():
    for name, family in FAMILIES.items():
        assert family.name == name
        forms = re.findall(r"[a-z]+\(.*?\)", family.usage)
        assert len(forms) >= 2
        for form in forms:
            assert isinstance(parse_family(form), family)


# --- bad input


@pytest.mark.parametrize("family", [Translation(), Zoom(), GaussianField(2)], ids=str)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -0.1}, r"^size: expected a finite number of at least 0, got -0.1"),
        ({"size": math.nan}, r"^size: .* got nan"),
        ({"size": "3"}, r"^size: .* got '3'"),
        ({"size": None}, r"^size: .* got None"),
        ({"size": True}, r"^size: .* got True"),
        ({"count": 0}, r"^count: expected a whole number of fields, at least 1, got 0"),
        ({"count": 2.0}, r"^count: .* got 2.0"),
        (
            {"space": (8, 0)},
            r"^space: expected \(height, width\) or \(length,\) in pixels, each at least 1, got \(8, 0\)",
        ),
        ({"space": (8, 8, 8)}, r"^space: .* got \(8, 8, 8\)"),
        ({"space": 8}, r"^space: .* got 8"),
        ({"dtype": torch.int64}, r"^dtype: expected a floating-point dtype, got torch.int64"),
        ({"dtype": torch.complex64}, r"^dtype: expected a floating-point dtype"),
        ({"dtype": "float32"}, r"^dtype: expected a floating-point dtype, got 'float32'"),
    ],
)
def test_bad_arguments(family, change, message):
    arguments = {"size": 0.1, "count": 2, "space": (8, 8)} | change
    with pytest.raises(ValueError, match=message):
        family.field(arguments.pop("size"), arguments.pop("count"), arguments.pop("space"), **arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Translation("rihgt"), r"^translation: direction: .* got 'rihgt'; did you mean 'right'\?"),
        (lambda: Translation(math.inf), r"^translation: direction: expected a word or an angle in degrees, got inf"),
        (
            lambda: Rotation("left"),
            r"^rotation: direction: expected one of 'random', 'anticlockwise', 'clockwise', got 'left'",
        ),
        (lambda: Rotation(centre=(1, math.nan)), r"^rotation: centre: expected a row and a column in pixels"),
        (lambda: Zoom(centre=(1, 2, 3)), r"^zoom: centre: expected a row and a column in pixels, got \(1, 2, 3\)"),
        (lambda: Zoom(centre="middle"), r"^zoom: centre: .* got 'middle'"),
        (lambda: Scaling("both"), r"^scaling: axis: expected one of 'horizontal', 'vertical', got 'both'"),
        (lambda: GaussianField(-1), r"^gaussian: std: .* got -1"),
        (lambda: GaussianField(3, "gradients"), r"^gaussian: norm: .* got 'gradients'; did you mean 'gradient'\?"),
        (lambda: SplineField(5.0), r"^spline: knots: .* got 5.0"),
        (lambda: parse_family(3), r"^deformation: expected a text such as 'rotation' or 'gaussian\(3\)', got 3"),
        (
            lambda: Rotation().field(3, 1, (9,)),
            r"^rotation: expected images \(height, width\), got signals of length 9",
        ),
        (lambda: Shear().field(3, 1, (9,)), r"^shear: expected images"),
        (
            lambda: Translation("up").field(3, 1, (9,)),
            r"^translation: expected direction right, left or random for signals",
        ),
        (
            lambda: Translation(30).field(3, 1, (9,)),
            r"^translation: expected direction right, left or random for signals",
        ),
        (lambda: Scaling("vertical").field(3, 1, (9,)), r"^scaling: axis: expected 'horizontal' for signals"),
        (lambda: Zoom(centre=(3,)).field(3, 1, (9, 9)), r"^zoom: centre: expected 2 coordinates, got 1"),
        (
            lambda: BandLimitedField(4).field(0.1, 1, (9, 8)),
            r"^bandlimited: cycles: expected less than half of 8 pixels, got 4",
        ),
        (
            lambda: Translation().field(1e6, 1, (4, 4), dtype=torch.float16),
            r"^translation: size: .* torch.float16, got 1000",
        ),
        (lambda: GaussianField(4).field(0.1, 1, (1, 1)), r"^gaussian: expected more than one pixel"),
    ],
)
def test_bad_families(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_families_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Rotation().direction = "clockwise"
    assert Zoom(centre=[3, 4]) == Zoom(centre=(3, 4))
