"""Architectures: text and dictionary forms, sizes, slopes and errors that name the argument."""

import dataclasses
import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.architecture import (
    ArcCosine,
    Architecture,
    AveragePool,
    Exponential,
    GaussianPool,
    GlobalPool,
    Layer,
    Linear,
    Polynomial,
    Power,
    Subsample,
)
from hilbertnet.text import TextFormError

TWO = "3 exp(0.6) gauss2 | 3 exp(0.6) gauss5"


def test_text_declares_the_same_as_objects():
    layers = [Layer(3, Exponential(sigma=0.6), GaussianPool(2)), Layer(3, Exponential(sigma=0.6), GaussianPool(5))]
    assert Architecture.parse(TWO) == Architecture(layers)
    assert hash(Architecture.parse(TWO)) == hash(Architecture(layers))
    assert str(Architecture(layers)) == TWO


@pytest.mark.parametrize("text", ["3exp(0.6)gauss2|3exp(0.6)gauss5", "  3  exp( .6 )\tgauss2\n|\n 3 exp(6e-1) gauss5 "])
def test_blanks_and_spellings_of_numbers_do_not_matter(text):
    assert Architecture.parse(text) == Architecture.parse(TWO)


kernels = st.one_of(
    st.builds(Exponential, st.floats(0.01, 100)),
    st.builds(Polynomial, st.floats(0.01, 100), st.integers(1, 9)),
    st.builds(Power, st.integers(2, 9)),
    st.builds(ArcCosine, st.sampled_from([0, 1])),
    st.just(Linear()),
)
sizes = st.integers(1, 30)
pools = st.one_of(
    st.none(),
    st.builds(GaussianPool, sizes, st.none() | sizes),
    st.builds(AveragePool, sizes, st.none() | sizes),
    st.builds(Subsample, sizes),
    st.just(GlobalPool()),
)
architectures = st.builds(
    Architecture,
    st.lists(st.builds(Layer, sizes, kernels, pools), min_size=1, max_size=4),
    boundary=st.sampled_from(["zero", "valid", "circular"]),
    sigma0=st.floats(0, 4),
)


@given(architectures)
@settings(max_examples=60, deadline=None)
def test_every_architecture_reads_back(arch):
    assert Architecture.parse(str(arch), boundary=arch.boundary, sigma0=arch.sigma0) == arch
    assert Architecture.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
    assert pickle.loads(pickle.dumps(arch)) == arch


def test_dictionary_form():
    arch = Architecture.parse("3 linear -", layout="ckn_kernel")
    expected = {"layers": "3 linear -", "boundary": "zero", "sigma0": 0.0, "layout": "ckn_kernel"}
    assert arch.to_dict() == expected
    assert Architecture.from_dict(expected) == arch
    assert expected["layers"] == "3 linear -"  # what was passed is left as it was


def test_conventions_tell_architectures_apart():
    same = [Architecture.parse(TWO, **c) for c in ({}, {"boundary": "valid"}, {"sigma0": 1}, {"layout": "ckn_kernel"})]
    assert len(set(same)) == 4


def test_architectures_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Architecture.parse(TWO).boundary = "valid"


def test_conventions_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        Architecture([Layer(3, Linear())], "valid")


@pytest.mark.parametrize(
    ("conventions", "space", "expected"),
    [
        ({}, (32, 32), [((32, 32), (16, 16)), ((16, 16), (4, 4))]),
        ({}, (28, 20), [((28, 20), (14, 10)), ((14, 10), (3, 2))]),
        ({}, (100,), [((100,), (50,)), ((50,), (10,))]),
        ({"boundary": "circular"}, (7,), [((7,), (4,)), ((4,), (1,))]),
        ({"boundary": "valid"}, (32,), [((30,), (14,)), ((12,), (1,))]),
        ({"layout": "ckn_kernel"}, (28, 28), [((28, 28), (13, 13)), ((13, 13), (1, 1))]),
        ({"layout": "ckn_kernel"}, (32, 32), [((32, 32), (15, 15)), ((15, 15), (2, 2))]),
    ],
)
def test_shapes(conventions, space, expected):
    assert Architecture.parse(TWO, **conventions).shapes(space) == expected


@pytest.mark.parametrize(
    ("conventions", "length"), [({}, 9), ({"boundary": "valid"}, 7), ({"boundary": "circular"}, 8)]
)
def test_even_patches(conventions, length):
    assert Architecture.parse("2 linear -", **conventions).shapes((8,)) == [((length,), (length,))]


def test_slopes_and_the_product_of_their_roots():
    arch = Architecture.parse("3 exp(0.6) - | 3 poly(3,2) - | 3 poly4 -")
    assert arch.slopes == pytest.approx((1 / 0.36, 0.5, 4))
    assert arch.lipschitz == pytest.approx(2 / 0.6)
    assert Architecture.parse("1 arccos0 -").lipschitz == math.inf


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Layer(0, Linear()), r"^patch: expected a whole number"),
        (lambda: Layer(2.0, Linear()), r"^patch: expected a whole number"),
        (lambda: Layer(True, Linear()), r"^patch: expected a whole number"),
        (lambda: Layer(3, "exp(0.6)"), r"^kernel: expected a dot-product kernel"),
        (lambda: Layer(3, Exponential), r"^kernel: expected a dot-product kernel"),
        (lambda: Layer(3, Linear(), "gauss2"), r"^pool: expected a pool"),
        (lambda: Architecture([]), r"^layers: expected at least one Layer"),
        (lambda: Architecture(["3 linear -"]), r"^layers: expected at least one Layer"),
        (lambda: Architecture.parse(TWO, boundary="circlar"), r"^boundary: .*did you mean 'circular'"),
        (lambda: Architecture.parse(TWO, boundary="torus"), r"^boundary: expected one of zero, valid, circular"),
        (lambda: Architecture.parse(TWO, layout="ckn-kernel"), r"^layout: .*did you mean 'ckn_kernel'"),
        (lambda: Architecture.parse(TWO, boundary="valid", layout="ckn_kernel"), r"^boundary: .*ckn_kernel"),
        (lambda: Architecture.parse(TWO, sigma0=-1.0), r"^sigma0: expected a standard deviation"),
        (lambda: Architecture.parse(TWO, sigma0=math.nan), r"^sigma0: expected a standard deviation"),
        (lambda: Architecture.parse(TWO, sigma0=math.inf), r"^sigma0: expected a standard deviation"),
        (lambda: Architecture.parse(TWO, sigma0="1"), r"^sigma0: expected a standard deviation"),
        (lambda: Architecture.parse(3), r"^architecture: expected a text"),
        (lambda: Architecture.parse("9 linear -").shapes((8, 12)), r"^layer 1: .*patch of at most 8.*patch 9"),
        (lambda: Architecture.parse(TWO + "|5 linear -").shapes((32,)), r"^layer 3: .*patch of at most 4.*patch 5"),
        (
            lambda: Architecture.parse("1 linear - | 1 linear gauss3", boundary="valid").shapes((4,)),
            r"^layer 2: pooling gauss3 leaves nothing of a length of 4",
        ),
        (
            lambda: Architecture.parse(TWO, layout="ckn_kernel").shapes((20,)),
            r"^layer 2: pooling gauss5 leaves nothing of a length of 9",
        ),
    ],
)
def test_errors_name_the_argument(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("3 exq(0.6) gauss2", "exq", "unknown kernel 'exq'; did you mean 'exp'?"),
        ("3 arcos1 -", "arcos1", "did you mean 'arccos1'?"),
        ("3 dual(gleu) -", "dual", "did you mean 'gelu'?"),
        ("3 exp(0.6) gaus2", "gaus2", "did you mean 'gauss2'?"),
        ("3 exp(0.6) gloabl", "gloabl", "did you mean 'global'?"),
        ("3 exp(0.6) gauss", "gauss", "expected gauss2 or gauss3/1 (size/stride)"),
        ("3 exp(0.6) stride3/2", "stride3/2", "expected stride2"),
        ("3 exp(0.6) gauss0", "gauss0", "stride: expected a whole number of pixels"),
        ("3 exp(0.6 gauss2", "gauss2", "expected ',' or ')'"),
        ("3 exp() -", ") -", "expected an argument of 'exp', a number"),
        ("3 exp(0) -", "exp", "sigma: expected a positive"),
        ("3 exp(1,2) -", "exp", "expected exp(sigma)"),
        ("3 exp -", "exp", "expected exp(sigma)"),
        ("3 poly(1,2.5) -", "poly", "expected poly(c,m)"),
        ("3 poly1 -", "poly1", "degree: expected a whole number of at least 2"),
        ("3 linear(2) -", "linear", "takes no arguments"),
        ("0 linear -", "0", "expected a patch size of at least 1"),
        ("3.5 linear -", "3.5", "expected a patch size, a whole number, got '3.5'"),
        ("x linear -", "x", "expected a patch size, a whole number"),
        ("3 0.6 -", "0.6", "expected a kernel such as exp(0.6)"),
        ("3 linear - ; 3 linear -", ";", "expected '|', got ';'"),
        ("3 linear - | 3 linaer -", "linaer", "did you mean 'linear'?"),
        ("3 linear\t- |\n3 linaer -", "linaer", "did you mean 'linear'?"),
    ],
)
def test_typos_are_answered_with_their_place(text, at, says):
    with pytest.raises(TextFormError, match=r"^architecture: ") as caught:
        Architecture.parse(text)
    head, shown, caret = str(caught.value).split("\n")
    assert says in head
    assert f"(character {text.index(at) + 1})" in head
    assert caret.strip() == "^"
    assert shown[caret.index("^") :].startswith(at.split()[0])


@pytest.mark.parametrize("text", ["", "3", "3 linear", "3 linear - |", "3 exp(", "3 poly(1,"])
def test_a_text_that_stops_too_early_is_pointed_at_behind_its_end(text):
    with pytest.raises(TextFormError) as caught:
        Architecture.parse(text)
    assert str(caught.value).split("\n")[-1].index("^") == 2 + len(text)
