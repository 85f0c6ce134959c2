"""The text form of regularizers: what it says, that it reads back, and where it cannot be read."""

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.regularization.projections import OperatorProjection, SpectralProjection
from hilbertnet.regularization.regularizer import Regularizer, as_regularizer
from hilbertnet.regularization.spectral import SpectralPenalty, WeightDecay
from hilbertnet.regularization.term import ConstraintTerm, LossTerm, PenaltyTerm
from hilbertnet.regularization.terms import TERMS, describe
from hilbertnet.text import TextFormError

NUMBERS = st.floats(min_value=1e-6, max_value=1e6)
COUNTS = st.integers(1, 50)
PENALTIES = st.one_of(
    st.builds(WeightDecay),
    st.builds(SpectralPenalty, COUNTS),
    st.builds(TERMS["delta"], NUMBERS, COUNTS, st.none() | COUNTS),
    st.builds(TERMS["grad_l2"], st.sampled_from(["logistic", "ridge"])),
    st.builds(TERMS["vat"], radius=NUMBERS),
)
NAMES = st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True)
RADII = st.none() | st.dictionaries(NAMES, NUMBERS | st.just(math.inf), min_size=1, max_size=3)
CONSTRAINTS = st.one_of(
    st.builds(SpectralProjection, NUMBERS, st.none() | st.floats(0, 100), RADII),
    st.builds(OperatorProjection, NUMBERS, st.none() | st.floats(0, 100), RADII, st.floats(1e-8, 0.5)),
)
LOSSES = st.none() | st.builds(TERMS["pgd_l2"], NUMBERS, COUNTS) | st.builds(TERMS["trades"], NUMBERS, NUMBERS)
REGULARIZERS = st.builds(
    lambda loss, penalty, constraint: Regularizer(loss, tuple(penalty), tuple(constraint)),
    LOSSES,
    st.lists(st.tuples(NUMBERS, PENALTIES), max_size=3),
    st.lists(CONSTRAINTS, max_size=2),
)


@settings(max_examples=50)
@given(REGULARIZERS)
def test_the_text_form_reads_back(regularizer):
    again = Regularizer.parse(str(regularizer))
    assert again == regularizer
    assert hash(again) == hash(regularizer)
    assert str(again) == str(regularizer)


def test_what_a_text_says():
    delta, tau, pgd = TERMS["delta"], TERMS["tau"], TERMS["pgd_l2"]
    found = Regularizer.parse(" delta( 1.5, screen=8) +0.1*tau+ 2e-3 * weight_decay + sn(1.5,kappa=none) + pgd_l2(1) ")
    assert found.penalty == ((1.0, delta(1.5, screen=8)), (0.1, tau()), (0.002, WeightDecay()))
    assert found.constraint == (SpectralProjection(1.5, None),)
    assert found.loss == pgd(1.0)
    steps = Regularizer.parse("delta(1, 7)").penalty[0][1].steps
    assert (steps, type(steps)) == (7, int)
    assert Regularizer.parse("none") == Regularizer()
    assert Regularizer.parse("sn(1, radii='0.conv:2, 1:inf')").constraint[0].radii == "0.conv:2, 1:inf"
    assert (
        Regularizer.parse('tau("zoom(in)", 0.1)')
        == Regularizer.parse("tau('zoom(in)', 0.1)")
        == tau("zoom(in)", 0.1) * 1
    )


def test_python_sums_are_those_of_the_text():
    delta, tau, pgd = TERMS["delta"], TERMS["tau"], TERMS["pgd_l2"]
    found = 2 * delta(1.0) + tau() * 0.1 + SpectralProjection(1.5) + pgd(1.0)
    assert found == Regularizer.parse("pgd_l2(1) + 2*delta(1) + 0.1*tau + sn(1.5)")
    assert delta(1.0) + tau() == Regularizer.parse("delta(1) + tau")
    assert 0.5 * (2 * delta(1.0) + tau()) == Regularizer.parse("delta(1) + 0.5*tau")
    assert Regularizer.parse("tau") + Regularizer.parse("sn(1)") == tau() + SpectralProjection(1)
    assert as_regularizer(tau()) == as_regularizer("tau") == as_regularizer(as_regularizer("tau"))
    assert as_regularizer(None) == Regularizer() == as_regularizer("none")
    for wrong in (lambda: delta(1.0) + 1, lambda: delta(1.0) * tau(), lambda: Regularizer() * Regularizer()):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", 0, "expected a term such as delta(1.0) or tau, got the end of the text"),
        ("delta(1) + ", 11, "expected a term such as"),
        ("delta(1) tau", 9, "expected '+', got 'tau'"),
        ("delta(1) - tau", 9, "expected '+', got '-'"),
        ("delta(1) + detla(2)", 11, "unknown term 'detla'; did you mean 'delta'?"),
        ("zzzzzz", 0, "unknown term 'zzzzzz'; known: delta, dtau,"),
        ("0.5 delta(1)", 4, "expected '*', got 'delta(1)'"),
        ("delta(1) + -0.5*tau", 11, "weight: expected a finite number above 0, got -0.5"),
        ("delta(1) + 0*tau", 11, "weight: expected a finite number above 0, got 0.0"),
        ("1e999*tau", 0, "weight: expected a finite number above 0, got inf"),
        ("tau + 0.5*sn(1.5)", 6, "sn: a constraint has no weight: it is a set, and its radius is its argument"),
        ("0.5*pgd_l2(1)", 0, "pgd_l2: a robust loss has no weight: it takes the place of the training loss"),
        (
            "pgd_l2(1) + tau + trades(1)",
            18,
            "expected at most one robust loss, got pgd_l2(radius=1) and trades(radius=1)",
        ),
        ("none + tau", 0, "unknown term 'none'"),
        ("sn", 0, "expected sn(tau, kappa=2, radii=none), tau is not given"),
        ("sn(1, 2, 'a:1', 4)", 16, "expected sn(tau, kappa=2, radii=none)"),
        ("sn(1, kapa=3)", 6, "unknown argument of sn 'kapa'; did you mean 'kappa'?"),
        ("sn(1, tau=3)", 6, "'tau' comes twice"),
        ("sn(kappa=3, 1)", 12, "expected an argument by name after 'kappa', got '1)'"),
        ("sn(x)", 3, "tau: expected a number, got 'x'"),
        ("tau + sn(1, -1)", 12, "sn: kappa: expected a finite number of at least 0, got -1"),
        ("sn(1, radii='fc')", 6, "sn: radii: expected numbers above 0 by layers' names"),
        ("sn_penalty(1.5)", 11, "iterations: expected a whole number, got 1.5"),
        ("sn_penalty(none)", 11, "iterations: expected a number, got 'none'"),
        ("weight_decay(1)", 13, "weight_decay takes no arguments"),
        ("weight_decay(a=1)", 13, "weight_decay takes no arguments"),
        ("delta()", 6, "expected an argument of 'delta'"),
        ("delta(1", 7, "expected ',' or ')' after an argument, got the end of the text"),
        ("delta(-1)", 6, "delta: radius: expected"),
    ],
)
def test_what_cannot_be_read_is_pointed_at(text, place, message):
    with pytest.raises(TextFormError, match=re.escape(f"regularizer: {message}")) as caught:
        Regularizer.parse(text)
    head, _, caret = str(caught.value).split("\n")
    assert (caret.index("^") - 2, head.endswith(f"(character {place + 1})")) == (place, True)


@given(st.text(alphabet="0.1*tau + sn(1,kap=2)'-delt:", max_size=24))
def test_any_text_is_read_or_refused_at_a_place(text):
    found = read(text)
    if isinstance(found, TextFormError):
        assert 0 <= str(found).split("\n")[-1].index("^") - 2 <= len(text)
    else:
        assert Regularizer.parse(str(found)) == found


def read(text):
    try:
        return Regularizer.parse(text)
    except TextFormError as error:
        return error


def test_all_terms_are_as_the_table_says():
    table = describe()
    for name, term in TERMS.items():
        assert name == term.name
        assert term.formula in table
        assert re.search(rf"^  {name}(\(|$)", table, re.MULTILINE)
        explained = table.split(f"      {term.formula}\n")[1]
        for field in dataclasses.fields(term):  # what each argument is
            assert re.match(rf"( {{8,}}.*\n)* {{8}}(\w+, )*{field.name}(, \w+)*: \S", explained), field.name
        assert sum(issubclass(term, kind) for kind in (PenaltyTerm, LossTerm, ConstraintTerm)) == 1
        required = [1.0] * sum(field.default is dataclasses.MISSING for field in dataclasses.fields(term))
        made = term(*required)
        assert as_regularizer(made) == Regularizer.parse(str(made))
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.name = "other"
