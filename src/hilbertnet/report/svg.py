"""Figures of matplotlib as SVG inside a page: they take the page's font and colours and ask for nothing outside."""

from __future__ import annotations

import io
import re
import threading
import warnings
from html import escape

import matplotlib
import matplotlib.style
from markupsafe import Markup
from matplotlib.figure import Figure

from hilbertnet.report.plots import Palette

__all__ = ["PAGE", "inline_svg"]

PAGE = Palette(ink="#010203", muted="#010204", line="#010205", accent="#010206", warn="#010207")
"""Colours that stand for the page's own until `inline_svg` puts those in."""

_VARIABLES = {
    PAGE.ink: "currentColor",
    PAGE.muted: "var(--muted)",
    PAGE.line: "var(--line)",
    PAGE.accent: "var(--accent)",
    PAGE.warn: "var(--warn)",
}
_LOCK = threading.Lock()  # matplotlib's settings are the process's
_TAG = re.compile(r"<[^>]*>")  # a ">" in text or in an attribute is written &gt;
_NAMELESS = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """`figure`, drawn with the colours of `PAGE`, as an SVG element.

    Parameters
    ----------
    figure
        A figure of its own, on no window.
    name
        Starts every id in it, so that several figures fit on one page.
    label
        What a reader who does not see it is told.

    Returns
    -------
    Markup
        The element, without prolog, styles or metadata.
    """
    settings = {"svg.fonttype": "none", "svg.hashsalt": name}
    file = io.StringIO()
    with _LOCK, matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        # the page's reader has the glyphs that matplotlib's own font lacks
        warnings.filterwarnings("ignore", message=r"(?s).*(Glyph|does not support)")
        figure.savefig(file, format="svg", transparent=True, metadata=_NAMELESS)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for part in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>"):
        text = re.sub(part, "", text, flags=re.DOTALL)
    text = _TAG.sub(lambda tag: _adapt(tag.group(), name), text)
    opening = f'<svg class="plot" role="img" aria-label="{escape(label)}"'
    return Markup(re.sub(r"\n\s*", "\n", text).replace("<svg", opening, 1).strip())


def _adapt(tag: str, name: str) -> str:
    """One tag, with the page's colours and font, and ids of its own."""
    if tag.startswith("<svg"):
        return re.sub(r'\s(width|height)="[^"]*"', "", tag)
    if tag.startswith("<text"):
        tag = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", tag)
        tag = re.sub(r"font-family: [^;\"]*", "font-family: inherit", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, variable)
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    return tag.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
