"""The machinery of experiments: settings, folders, tables, pictures, and the parts of runs that were interrupted."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.presets import read_architecture
from hilbertnet.cli.reproduce import NAMES
from hilbertnet.data import load
from hilbertnet.experiments import reproduce as run_all
from hilbertnet.experiments.experiment import Curve, Experiment, Panel, Run, Unfinished, markdown
from hilbertnet.experiments.reproduce import EXPERIMENTS, SCALES, read_settings
from hilbertnet.experiments.spectra import read_stack
from hilbertnet.records import settings_of

SHAPES = {"digits": (8, 8), "mnist": (28, 28), "cifar10": (32, 32)}


@dataclass(frozen=True)
class Square(Run):
    """Squares a number, and says how often it was asked to."""

    number: int = 3
    done = []  # noqa: RUF012  not a field

    def run(self, folder: Path, progress=None):
        (folder / "unfinished-scratch").parent.mkdir(parents=True, exist_ok=True)
        (folder / "unfinished-scratch").touch()
        self.done.append(self.name)
        return {"settings": settings_of(self), "square": self.number**2}


def squares_table(records):
    return markdown([["run", "square"], *([name, str(record["square"])] for name, record in records.items())])


def squares_figures(records):
    x, y = (tuple(float(r[key]) for r in records.values()) for key in ("square", "square"))
    return {"squares": [Panel("squares", "x", "y", (Curve("x²", x, y, y, y),))]}


@pytest.fixture
def squares(monkeypatch):
    room = sys.modules["hilbertnet.experiments.reproduce"]
    runs = [Square("three"), Square("five", number=5)]
    monkeypatch.setattr(room, "read_settings", lambda name, scale: ("Squares", runs))
    monkeypatch.setitem(EXPERIMENTS, "squares", Experiment(Square, squares_table, squares_figures))
    Square.done.clear()
    return runs


def test_the_command_line_names_every_experiment():
    assert tuple(EXPERIMENTS) == NAMES


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("scale", SCALES)
def test_every_settings_file_can_be_run(name, scale):
    title, runs = read_settings(name, scale)
    assert title
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        space = SHAPES[getattr(run, "data", "cifar10")]
        for text in getattr(run, "maps", ()):
            Architecture.parse(f"1 {text} -")
        for text in getattr(run, "kernels", ()):
            Architecture.parse(read_stack(text.rpartition(":")[2]))
        if getattr(run, "architecture", ""):
            arch, _ = read_architecture(run.architecture, space)
            arch.shapes(space)


def test_the_shapes_are_those_of_the_data():
    assert load("digits").x.shape[2:] == SHAPES["digits"]


def test_every_run_has_a_folder_and_the_table_is_of_all(squares, tmp_path):
    records = dict(run_all("squares", tmp_path))
    assert {name: record["square"] for name, record in records.items()} == {"three": 9, "five": 25}
    for name, record in records.items():
        assert [path.name for path in (tmp_path / name).iterdir()] == ["record.json"]  # the scratch file is gone
        assert json.loads((tmp_path / name / "record.json").read_text()) == record
    expected = "Squares\n\n| run | square |\n| --- | --- |\n| three | 9 |\n| five | 25 |\n"
    assert (tmp_path / "table.md").read_text() == expected
    assert json.loads((tmp_path / "table.json").read_text()) == {"title": "Squares", "rows": records}


def test_a_finished_run_is_not_done_twice(squares, tmp_path):
    dict(run_all("squares", tmp_path, only=["five"]))
    assert (tmp_path / "table.md").read_text().endswith("| --- | --- |\n| five | 25 |\n")
    left = tmp_path / "five" / "unfinished-scratch"  # of a process killed between the record and the tidying
    left.touch()
    dict(run_all("squares", tmp_path))
    assert Square.done == ["five", "three"]
    assert not left.exists()


def test_pictures_are_drawn_after_every_run_from_the_records_alone(squares, tmp_path):
    drawn = []
    list(run_all("squares", tmp_path, draw=lambda panels, path: drawn.append((panels, path.name))))
    assert [(panels[0].curves[0].x, name) for panels, name in drawn] == [
        ((9.0,), "squares.svg"),
        ((9.0, 25.0), "squares.svg"),
    ]


def test_the_device_is_a_setting(squares, tmp_path):
    ((_, record),) = run_all("squares", tmp_path, only=["three"], device="meta")
    assert record["settings"] == {"name": "three", "device": "meta", "number": 3}
    with pytest.raises(ValueError, match="out: .*three holds a finished run of other settings"):
        list(run_all("squares", tmp_path, only=["three"]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"name": "cifar-feature"}, "did you mean 'cifar-features'"),
        (
            {"name": "random"},
            "experiment: expected one of cifar-features, deformed-digits, .*, robust-curves, small-data, spectra",
        ),
        ({"scale": "papper"}, "did you mean 'paper'"),
        ({"only": ["ckn-64-257"]}, "only: expected some of ckn-64-256, .*did you mean 'ckn-64-256'"),
    ],
)
def test_typos_are_answered_with_the_nearest_name(how, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        list(run_all(**{"name": "cifar-features", "folder": tmp_path, **how}))
    assert not list(tmp_path.iterdir())


def test_interrupted_the_command_line_says_that_it_goes_on(squares, hilbertnet, monkeypatch, tmp_path):
    def interrupted(self, folder, progress=None):
        raise KeyboardInterrupt

    whole = Square.run
    monkeypatch.setattr(Square, "run", lambda *args: (interrupted if args[0].name == "five" else whole)(*args))
    code, out, err = hilbertnet("reproduce", "squares", "--out", tmp_path)
    assert (code, out) == (130, "")
    assert err.splitlines() == [
        "three: done",
        f"hilbertnet: interrupted; {tmp_path} keeps what is done, and the same command goes on",
    ]
    monkeypatch.setattr(Square, "run", whole)
    code, out, err = hilbertnet("reproduce", "squares", "--out", tmp_path)
    assert (code, out.splitlines()[2:]) == (0, ["| three | 9 |", "| five | 25 |"])
    assert Square.done == ["three", "five"]
    assert (tmp_path / "squares.svg").stat().st_size > 1000


def test_cells_of_a_table_may_hold_bars():
    assert markdown([["a"], ["x | y"]]) == "| a |\n| --- |\n| x \\| y |"


# --- parts of an interrupted run


def test_a_part_that_is_done_is_read_with_its_seconds(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"value": [1.5, None]}

    first, second = (Unfinished(tmp_path / "run", {"train": 3}) for _ in range(2))
    assert first.part("a", make) == second.part("a", make) == {"value": [1.5, None]}
    assert len(calls) == 1
    assert first.seconds == 0.0 < second.seconds
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["unfinished-a.json"]


def test_a_part_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Unfinished(tmp_path, {}).part("a", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not list(tmp_path.iterdir())


def test_a_part_of_another_run_is_refused(tmp_path):
    Unfinished(tmp_path, {"train": 3}).part("a", dict)
    before = (tmp_path / "unfinished-a.json").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint: .*unfinished-a.json holds an unfinished run of other train;"):
        Unfinished(tmp_path, {"train": 4}).part("a", dict)
    assert (tmp_path / "unfinished-a.json").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"identity": {}, "result": 3, "seconds": 1}', '{"identity": {}, "result": {}}', "[" * 9**5],
)
def test_a_damaged_part_is_refused(text, tmp_path):
    (tmp_path / "unfinished-a.json").write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint: .*unfinished-a.json is damaged .*; remove it"):
        Unfinished(tmp_path, {}).part("a", dict)


def test_a_part_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "unfinished-a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is damaged"):
        Unfinished(tmp_path, {}).part("a", dict)
