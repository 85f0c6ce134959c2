"""What reads a page, and what changes the run it is made from."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from hilbertnet.records import RunFolder, save_tensors

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """A page as elements and text; nesting is checked while it is read."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        """What a reader sees, on one line."""
        return " ".join(" ".join(data for where, data in self.texts if where != "style").split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def inside(self, tag: str) -> list[str]:
        """Texts right inside elements of a kind."""
        return [data.strip() for where, data in self.texts if where == tag]


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def write_pictures(folder: Path, mistakes: int = 3, samples: int = 20) -> None:
    """Pictures as a run keeps them; which are mistakes is made up."""
    data = load_digits()
    images = torch.from_numpy(np.rint(data.images[:, None] * 255 / 16).astype(np.uint8))
    tensors, header = {}, {"kind": "Pictures", "mistakes": [], "samples": []}
    if mistakes:
        tensors["mistakes"] = images[:mistakes]
        header["mistakes"] = [
            {"example": 12 + index, "label": str(data.target[index]), "prediction": "9", "margin": 0.83 - index / 10}
            for index in range(mistakes)
        ]
    if samples:
        tensors["samples"] = images[100 : 100 + samples]
        header["samples"] = [{"example": n, "label": str(data.target[n])} for n in range(100, 100 + samples)]
    save_tensors(folder / "pictures.safetensors", tensors, header)


def edit_record(folder: Path, change) -> dict:
    """Change the record of a run in place."""
    run = RunFolder(folder)
    record = run.read_record()
    change(record)
    run.record_path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    return record


def check_self_contained(page: Page) -> None:
    """No script, and no address but data URIs of pictures and links within the page or to its neighbours."""
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "audio", "video", "base"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/png;base64,", "#")) or not value or name == "href", (name, value[:50])
            assert not re.match(r"[a-z]+:(?!image/png)|//", value)
    style = " ".join(data for where, data in page.texts if where == "style")
    assert "url(" not in style
    assert "@import" not in style


def check_elements(page: Page) -> None:
    """What holds of every element: ids, links, alternative texts, headers of tables, the policy."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.of("a")] + [each["xlink:href"] for each in page.of("use")]
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    for image in page.of("img"):
        assert image["alt"]
        assert image["src"].startswith("data:image/png;base64,")
    assert all(each["role"] == "img" and each["aria-label"] for each in page.of("svg"))
    assert all(each.get("scope") in ("col", "row") for each in page.of("th"))
    assert page.of("html")[0]["lang"] == "en"
    assert {"viewport", "color-scheme"} <= {each.get("name") for each in page.of("meta")}
    policy = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
