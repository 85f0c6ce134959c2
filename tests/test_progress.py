"""Progress bars of every kind, and sizes and times in words."""

import logging
import time

import pytest

from hilbertnet.progress import Stopwatch, announce, format_bytes, format_seconds, track


@pytest.mark.parametrize("progress", [None, True, False, lambda done, total: None])
@pytest.mark.parametrize("items", [[], [3, 1, 2], range(5)])
def test_every_kind_yields_the_items_in_order(progress, items):
    assert list(track(items, progress, label="work")) == list(items)


def test_a_stopwatch_adds_up_the_parts_of_a_stage():
    clock = Stopwatch()
    time.sleep(0.02)
    clock.lap("a")
    clock.lap("b")
    time.sleep(0.02)
    clock.lap("a")
    assert list(clock.laps) == ["a", "b"]
    assert clock.laps["a"] >= 0.04 > 0.01 > clock.laps["b"]


def test_a_callable_hears_of_every_item_after_it_is_done():
    heard = []
    for item in track("abc", lambda done, total: heard.append((done, total))):
        assert len(heard) == "abc".index(item)
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_iterators_take_their_length_from_total():
    heard = []
    list(track(iter("ab"), lambda *counts: heard.append(counts), total=2))
    list(track(iter("ab"), lambda *counts: heard.append(counts)))
    assert heard == [(1, 2), (2, 2), (1, 0), (2, 0)]


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (None, False), (False, False)])
def test_a_bar_is_shown_when_asked_for_and_otherwise_on_terminals_only(progress, shown, capsys):
    for _ in track(range(2), progress, label="folding"):
        time.sleep(0.3)
    assert ("folding" in capsys.readouterr().err) == shown


def test_a_loop_that_stops_early_closes_its_bar():
    for item in track(range(5), True):
        if item == 1:
            break
    assert item == 1


def test_announcements_go_through_the_logger(caplog):
    with caplog.at_level(logging.WARNING, logger="hilbertnet"):
        announce("this takes a day")
    assert [(r.name, r.message) for r in caplog.records] == [("hilbertnet", "this takes a day")]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (12, "12 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1536, "1.54 kB"),
        (800e6, "800 MB"),
        (2.5e9, "2.5 GB"),
        (3e12, "3 TB"),
        (4e15, "4,000 TB"),
    ],
)
def test_sizes_in_words(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0312, "0.031 seconds"),
        (3, "3 seconds"),
        (89, "89 seconds"),
        (90, "1.5 minutes"),
        (600, "10 minutes"),
        (5400, "1.5 hours"),
        (11520, "3.2 hours"),
        (172800, "2 days"),
    ],
)
def test_times_in_words(seconds, text):
    assert format_seconds(seconds) == text
