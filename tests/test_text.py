"""The scanner of text forms: what it reads, and where its carets stand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbertnet.text import Call, Scanner, TextFormError, format_number, nearest, parse_bytes


def place_of(error: TextFormError) -> int:
    """Index in the text of the character above the caret, checked against the number in the message."""
    head, _, caret = str(error).split("\n")
    assert caret.lstrip(" ") == "^"
    place = caret.index("^") - 2
    assert head.endswith(f"(character {place + 1})")
    return place


def test_reads_words_numbers_and_calls_in_order():
    scanner = Scanner("3 exp( 0.6 ,left) | x + -2e3", "form")
    assert scanner.integer("a size") == 3
    assert scanner.call("a call") == Call("exp", (0.6, "left"), 2)
    scanner.expect("|")
    assert scanner.call("a call") == Call("x", (), 20)
    assert not scanner.accept("*")
    assert scanner.accept("+")
    assert not scanner.at_end()
    assert scanner.number("a number") == -2000.0
    assert scanner.at_end()


def test_arguments_come_by_name_where_that_is_wanted():
    text = "f( 1.5, left, screen = 8,word='a.b: 2, c') x"
    call = Scanner(text, "form").call("a call", named=True)
    assert call == Call("f", (1.5, "left"), 0, (("screen", 8.0), ("word", "a.b: 2, c")))
    assert call.places == tuple(map(text.index, ("1.5", "left", "screen", "word")))
    assert Scanner("f(a=b)", "form").call("a call", named=True) == Call("f", (), 0, (("a", "b"),))
    assert Scanner("f", "form").call("a call", named=True) == Call("f", (), 0)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("f(a=1, 2)", 7, "expected an argument by name after 'a', got '2"),
        ("f(a=1, b)", 7, "expected an argument by name after 'a', got 'b"),
        ("f(a=1, a=2)", 7, "'a' comes twice"),
        ("f(a=)", 4, "expected an argument of 'f', a number, got '[)]'"),
        ("f(a=1 b=2)", 6, "expected ',' or '[)]' after an argument, got 'b=2[)]'"),
        ("f(a='x)", 4, "expected an argument of 'f', a number, got"),
        ("f(=1)", 2, "expected an argument of 'f', a number, got"),
    ],
)
def test_arguments_by_name_that_cannot_be_read(text, place, message):
    with pytest.raises(TextFormError, match=f"^form: {message}") as caught:
        Scanner(text, "form").call("a call", named=True)
    assert place_of(caught.value) == place


@pytest.mark.parametrize("text", ["f(a=1)", "f(1, a=1)", "f('a')"])
def test_arguments_by_name_are_refused_elsewhere(text):
    with pytest.raises(TextFormError, match=r"^form: expected"):
        Scanner(text, "form").call("a call")


@pytest.mark.parametrize("text", ["1", "1.5", ".5", "5.", "-0.25", "+3", "1e-3", "2.5E+4"])
def test_numbers_read_as_python_reads_them(text):
    scanner = Scanner(text, "form")
    assert scanner.number("a number") == float(text)
    assert scanner.at_end()


@pytest.mark.parametrize("text", ["1.5", "1.", "x", "", "-1", "12.0"])
def test_only_whole_numbers_are_integers(text):
    with pytest.raises(TextFormError, match="expected a size, a whole number"):
        Scanner(text, "form").integer("a size")


@pytest.mark.parametrize(
    ("text", "read", "place"),
    [
        ("  x", lambda s: s.integer("a size"), 2),
        ("  -", lambda s: s.number("a weight"), 2),
        ("3", lambda s: s.call("a name"), 0),
        ("f(1 2)", lambda s: s.call("a name"), 4),
        ("f(1,, 2)", lambda s: s.call("a name"), 4),
        ("f(1, 2", lambda s: s.call("a name"), 6),
        ("f(", lambda s: s.call("a name"), 2),
        ("f()", lambda s: s.call("a name"), 2),
        ("a  b", lambda s: (s.call("a name"), s.expect("|")), 3),
        ("a\t\nb", lambda s: (s.call("a name"), s.expect("|")), 3),
        ("a  ", lambda s: (s.call("a name"), s.expect("|")), 3),
    ],
)
def test_the_caret_stands_under_the_character(text, read, place):
    with pytest.raises(TextFormError, match=r"^form: expected") as caught:
        read(Scanner(text, "form"))
    assert place_of(caught.value) == place


def test_a_caret_without_a_place_skips_blanks():
    assert place_of(Scanner("  x", "form").fail("bad")) == 2
    assert place_of(Scanner("  x", "form").fail("bad", 0)) == 0


def test_what_came_is_said_in_the_message():
    with pytest.raises(TextFormError, match=r"expected '\|', got 'gauss2'"):
        Scanner("gauss2 and more", "form").expect("|")
    with pytest.raises(TextFormError, match=r"got the end of the text"):
        Scanner("  ", "form").expect("|")


def test_unknown_names_come_with_the_nearest_or_with_all():
    scanner = Scanner("a guass2", "form")
    near = scanner.unknown("pool", "guass2", {"gauss2", "avg2"}, 2)
    assert "form: unknown pool 'guass2'; did you mean 'gauss2'?" in str(near)
    assert place_of(near) == 2
    assert "unknown pool 'zzz'; known: avg2, gauss2" in str(scanner.unknown("pool", "zzz", {"gauss2", "avg2"}, 2))


def test_errors_are_value_errors():
    assert issubclass(TextFormError, ValueError)


def refusal(text: str) -> TextFormError | None:
    scanner = Scanner(text, "form")
    try:
        while not scanner.at_end():
            scanner.integer("a size")
            scanner.call("a name")
            scanner.expect("|")
    except TextFormError as error:
        return error
    return None


@given(st.text(alphabet="3 exp(0.6)|,-\n", max_size=20))
def test_any_text_is_read_or_refused_at_a_place_inside_it(text):
    error = refusal(text)
    assert error is None or 0 <= place_of(error) <= len(text)


def test_a_whole_text_is_not_refused():
    assert refusal("3 exp(0.6)|3 x |") is None


def test_nearest_is_silent_when_nothing_is_near():
    assert nearest("exq", ["exp", "linear"]) == "; did you mean 'exp'?"
    assert nearest("zzzz", ["exp", "linear"]) == ""


@pytest.mark.parametrize(("value", "text"), [(2.0, "2"), (2, "2"), (0.6, "0.6"), (-3.0, "-3"), (1e-9, "1e-09")])
def test_numbers_are_written_shortly(value, text):
    assert format_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back(value):
    text = format_number(value)
    scanner = Scanner(text, "form")
    assert float(text) == value
    assert scanner.number("a number") == value
    assert scanner.at_end()


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1, 1),
        (2.5e9, 2_500_000_000),
        (10**18, 10**18),
        (1e16, 10**16),
        (np.float32(3e8), 3 * 10**8),
        ("800", 800),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        (" 1.5 kB ", 1500),
        ("512 MiB", 512 * 2**20),
        ("4GiB", 4 * 2**30),
        ("1TB", 10**12),
        ("3 B", 3),
        (".5MB", 500_000),
    ],
)
def test_sizes_in_bytes(value, size):
    assert parse_bytes(value) == size


@pytest.mark.parametrize("value", [0, -1, 0.5, "", "GB", "2XB", "2GB more", "-2GB", True, None, float("nan"), 1e400])
def test_bad_sizes_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^memory: expected bytes.* such as '2GB', got "):
        parse_bytes(value)
    with pytest.raises(ValueError, match=r"^cache: expected bytes"):
        parse_bytes(value, "cache")
