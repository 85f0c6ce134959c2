"""Small data sets in the official layouts, sound until a test breaks them."""

import numpy as np
import pytest
from layouts import Small
from PIL import Image


@pytest.fixture
def small(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HILBERTNET_DATA", str(folder))
    return Small(folder)


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes with two pictures each, and how to add one."""
    folder = tmp_path / "photos"

    def add(place, pixels=None, **options):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((4, 6, 3), 51, np.uint8) if pixels is None else pixels
        Image.fromarray(pixels).save(path, **options)
        return path

    for name in ("cat", "dog"):
        for i in range(2):
            add(f"{name}/{i}.png", np.full((4, 6, 3), 51 * i, np.uint8))
    add.folder = folder
    return add
