"""Small runs of digits, with pictures of their own making, and what norms and attack leave beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from reading import write_pictures

from hilbertnet.experiments.attack import AttackSettings, attack, write_attack
from hilbertnet.experiments.fit import FitSettings, fit_run
from hilbertnet.experiments.norms import run_norms, write_norms

NORMS = {"examples": 6, "radii": (0.02, 0.3)}


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


@pytest.fixture(scope="session")
def fitted_plain(tmp_path_factory) -> Path:
    """A run of a plain network, which no test may write to."""
    folder = tmp_path_factory.mktemp("plain") / "digits"
    settings = FitSettings("digits", model="cnn", train=200, epochs=4, regularize="sn(2)")
    fit_run(settings, folder, progress=False)
    return folder


@pytest.fixture
def plain_run(fitted_plain, tmp_path) -> Path:
    """The same, of the test's own."""
    return Path(shutil.copytree(fitted_plain, tmp_path / "plain"))


def add_numbers(folder: Path, attacks: tuple[str, ...]) -> Path:
    """What the commands norms and attack leave in a run folder."""
    write_norms(folder / "norms.json", run_norms(folder, **NORMS), folder, **NORMS)
    asked = AttackSettings(str(folder), radii=(0.1, 0.5), attacks=attacks, shifts=(1.0,), examples=6)
    write_attack(folder, attack(asked, folder, progress=False), lambda panels, path: path.write_text("<svg/>"))
    return folder


@pytest.fixture(scope="session")
def measured_digits(fitted_digits, tmp_path_factory) -> Path:
    """`fitted_digits` with numbers."""
    return add_numbers(
        Path(shutil.copytree(fitted_digits, tmp_path_factory.mktemp("measured") / "run")), ("pgd", "fmn", "deformation")
    )


@pytest.fixture(scope="session")
def measured_plain(fitted_plain, tmp_path_factory) -> Path:
    """`fitted_plain` with numbers."""
    return add_numbers(Path(shutil.copytree(fitted_plain, tmp_path_factory.mktemp("measured") / "plain")), ("pgd",))


@pytest.fixture
def measured_run(measured_digits, tmp_path) -> Path:
    """`measured_digits`, of the test's own."""
    return Path(shutil.copytree(measured_digits, tmp_path / "measured"))
