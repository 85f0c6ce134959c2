"""Sphinx settings, and what the pages need beyond them.

- formulas become MathML, which browsers draw by themselves: no script from elsewhere, no LaTeX;
- ``.. presets::`` is the table of preset architectures, made from the package;
- ``.. include:: ../CHANGELOG.md`` turns the change log's headings, code and links into reST.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

import hilbertnet

project = "hilbertnet"
author = "the hilbertnet developers"
copyright = author
version = release = hilbertnet.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "obj"  # `Layer` in a docstring links to the class
add_module_names = False
toc_object_entries_show_parents = "hide"
trim_doctest_flags = True
smartquotes = False

# signatures show names and defaults; shapes are in the docstrings' own words
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autosummary_generate = True
# file systems that ignore case would mix up the page of `Preset` and that of `preset`
autosummary_filename_map = {"hilbertnet.architecture.preset": "hilbertnet.architecture.preset-function"}
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "hilbertnet"
html_static_path = ["_static"]
html_css_files = ["hilbertnet.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"references": [], "changelog": []}
html_math_renderer = "mathml"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": False,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
    "logo": {"text": "hilbertnet"},
}


# ---------------------------------------------------------------------------------------------------------------------
# formulas


def _formula(translator: Any, node: Any, block: bool) -> None:
    from docutils import nodes
    from docutils.utils.math import latex2mathml

    source = node.astext()
    if block and r"\\" in source:
        source = rf"\begin{{aligned}}{source}\end{{aligned}}"
    text = latex2mathml.tex2mathml(source, as_block=block)
    # bars of a norm are as high as a letter, and stand close to it
    text = re.sub(r"<mo[^>]*>([‖|])</mo>", r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', text)
    translator.body.append(f'<div class="formula">{text}</div>' if block else text)
    raise nodes.SkipNode


def _inline(translator: Any, node: Any) -> None:
    _formula(translator, node, block=False)


def _display(translator: Any, node: Any) -> None:
    _formula(translator, node, block=True)


# ---------------------------------------------------------------------------------------------------------------------
# presets


def _short(architecture: Any) -> str:
    """The text form, with layers that are repeated written once: ``20 x (3 arccos1 -)``."""
    parts = []
    for layer, same in groupby(map(str, architecture.layers)):
        count = len(list(same))
        parts.append(f"``{layer}``" if count == 1 else f"{count} × (``{layer}``)")
    return " | ".join(parts)


def _preset_rows() -> list[str]:
    from hilbertnet.architecture import PRESETS, preset

    lines = [".. list-table::", "   :header-rows: 1", "   :class: dense", ""]
    rows = [("Name", "Layers", "Kind", "Filters", "Source")]
    for name in PRESETS:
        found = preset(name)
        if name.startswith("exact-conv"):  # a grid, described in the text
            continue
        counts = [(count, len(list(same))) for count, same in groupby(found.filters or ())]
        filters = ", ".join(
            f"{times} × {count}" if times > 2 else ", ".join([str(count)] * times) for count, times in counts
        )
        source = re.match(r"(.*?), .*, (\D*\d{4})$", found.source)
        assert source is not None
        # the backslash: "J. Mairal" would begin a list
        rows.append((f"``{name}``", _short(found.architecture), found.kind, filters, rf"\{source[1]}, {source[2]}"))
    for row in rows:
        lines += [f"   {'* -' if not i else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# change log


def _read_changelog(app: Any, path: Any, docname: str, content: list[str]) -> None:
    if path.name != "CHANGELOG.md":
        return
    lines = []
    for line in content[0].splitlines():
        heading = re.fullmatch(r"(#+) (.*)", line)
        if heading:
            underline = "=-~"[len(heading[1]) - 1] * len(heading[2])
            lines += ["", heading[2], underline, ""]
            continue
        line = re.sub(r"`([^`]+)`", r"``\1``", line)
        line = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", line)
        if line.startswith(("- ", "* ")) and lines and lines[-1] and not lines[-1].startswith(("- ", "* ", "  ")):
            lines.append("")
        lines.append(line)
    content[0] = "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """scikit-learn writes set_score_request and the like into every class."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def _escape_shapes(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Outside literals: the star of (n, *space) begins no emphasis, |S| is no substitution, "A. Name" no list."""
    for i, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [re.sub(r"(?<=[(\s])\*(?=[a-z])|\|(?=\w)", r"\\\g<0>", part) for part in parts[::2]]
        lines[i] = re.sub(r"^(\s*)(?=[A-Z]\. )", r"\1\\", "``".join(parts))


def setup(app: Any) -> None:
    """What Sphinx calls."""
    from sphinx.util.docutils import SphinxDirective

    class Presets(SphinxDirective):
        def run(self) -> list[Any]:
            return self.parse_text_to_nodes("\n".join(_preset_rows()))

    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.add_directive("presets", Presets)
    app.connect("include-read", _read_changelog)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _escape_shapes)
