"""The command line called in this process, small runs of digits, and folders of pictures."""

import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from hilbertnet.data import load
from hilbertnet.experiments import FitSettings, fit_run

SMALL = {"filters": (8, 16), "train": 200, "patches": 500, "loss": "ridge"}


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture(scope="session")
def few(digits, tmp_path_factory):
    """Twelve digits of four classes in a file; their labels are words."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    places = np.concatenate([np.flatnonzero(digits.y == label)[:3] for label in range(4)])
    np.savez(path, x=digits.x[places], y=np.array(["a, b", "ω", "=c", "d"])[digits.y[places]])
    return path


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    fit_run(FitSettings("digits", **SMALL), folder, progress=False)
    return folder


@pytest.fixture
def hilbertnet(monkeypatch, capsys):
    """Call the command line: exit code, standard output, standard error."""
    from hilbertnet import cli

    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # what main sets is taken back

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hilbertnet", *map(str, arguments)])
        capsys.readouterr()
        with warnings.catch_warnings(action="default"), pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture
def write_pictures():
    """Write grey or coloured pictures of bytes, and their names relative to the folder, in order."""

    def write(folder, pixels, names):
        for picture, name in zip(np.asarray(pixels, np.uint8), names, strict=True):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, format="PNG")
        return folder

    return write
