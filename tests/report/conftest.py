"""A small run of digits, with pictures of its own making."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from reading import write_pictures

from hilbertnet.experiments.fit import FitSettings, fit_run


@pytest.fixture(scope="session")
def fitted_digits(tmp_path_factory) -> Path:
    """A run folder that no test may write to."""
    folder = tmp_path_factory.mktemp("report") / "digits"
    fit_run(FitSettings("digits", filters=(8, 16), train=200, patches=2000), folder, progress=False)
    write_pictures(folder)
    return folder


@pytest.fixture
def digits_run(fitted_digits, tmp_path) -> Path:
    """A run folder of the test's own."""
    return Path(shutil.copytree(fitted_digits, tmp_path / "run"))
