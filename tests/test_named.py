"""Functions of the user's by name: where they are looked for, and what is said of those that are not there."""

import subprocess
import sys

import pytest

from hilbertnet.named import function_named, is_name, result_named

CODE = "def make(size=3):\n    return [0] * size\n\n\ndef needs(size):\n    return size\n\n\nnumber = 3\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with two modules; it is not on the path, as for a command that is a script."""
    (tmp_path / "things_of_a_user.py").write_text(CODE)
    (tmp_path / "broken_of_a_user.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    yield tmp_path
    sys.modules.pop("things_of_a_user", None)


def test_a_module_of_the_current_folder_is_found_and_hides_no_package(folder):
    (folder / "json.py").write_text("raise AssertionError")
    assert function_named("model", "things_of_a_user:make")(2) == [0, 0]
    assert result_named("run", "things_of_a_user:make") == [0, 0, 0]
    assert function_named("model", "json:dumps")({}) == "{}"
    assert sys.path[-1] == str(folder)
    before = list(sys.path)
    function_named("model", "things_of_a_user:make")
    assert sys.path == before


def test_python_can_be_told_not_to_look_there(folder):
    code = "from hilbertnet.named import function_named; function_named('model', 'things_of_a_user:make')"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert "'things_of_a_user:make' cannot be imported" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent_of_a_user:make",
            "model: 'absent_of_a_user:make' cannot be imported: No module named .*current folder",
        ),
        ("things_of_a_user:mak", "model: 'things_of_a_user:mak' cannot be imported: .*has no attribute 'mak'"),
        ("broken_of_a_user:make", "model: 'broken_of_a_user:make' cannot be imported: invalid syntax"),
        ("things_of_a_user:number", "model: expected 'things_of_a_user:number' to be a function, got int"),
        ("things_of_a_user", "model: expected 'package.module:function', got 'things_of_a_user'"),
        (3, "model: expected 'package.module:function', got 3"),
    ],
)
def test_what_is_not_there_is_said(folder, name, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        function_named("model", name)


def test_arguments_that_are_needed_are_named_and_errors_inside_are_the_users(folder, monkeypatch):
    with pytest.raises(ValueError, match="^run: 'things_of_a_user:needs' cannot be called without arguments: .*size"):
        result_named("run", "things_of_a_user:needs")
    import things_of_a_user

    monkeypatch.setattr(things_of_a_user, "make", lambda: 1 + "1")
    with pytest.raises(TypeError, match="unsupported operand"):
        result_named("run", "things_of_a_user:make")
    assert result_named("run", "builtins:dict") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b:c", True),
        ("_a:b1", True),
        ("a:", False),
        (":c", False),
        ("a..b:c", False),
        ("a b:c", False),
        (None, False),
    ],
)
def test_the_form_of_a_name(text, expected):
    assert is_name(text) is expected
