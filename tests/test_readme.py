"""The README's snippet runs as pasted and prints what the README says."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_python_snippet_prints_what_is_shown(tmp_path):
    text = README.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    shown = re.search(r"prints\n\n```\n(.*?)```", text, re.S).group(1)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert [_words(line) for line in result.stdout.splitlines()] == [_words(line) for line in shown.splitlines()]
    for ours, theirs in zip(_numbers(result.stdout), _numbers(shown), strict=True):
        assert abs(ours - theirs) <= 0.1 * abs(theirs)  # other processors round otherwise


def _words(line):
    return re.sub(r"\d+\.\d+", "", line)


def _numbers(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]
