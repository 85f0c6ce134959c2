"""Numbers, sizes, durations and labels as words on a page."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

__all__ = ["clean", "duration", "factor", "joined", "percent", "power", "quantity", "shorten", "size"]

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BARRED = {"Cc", "Cs"}  # control characters and lone surrogates, which HTML and UTF-8 have no place for


def clean(text: object) -> str:
    """`text` with what no page can hold replaced by U+FFFD; everything else stays, emoji and right-to-left text too."""
    return "".join("\ufffd" if unicodedata.category(letter) in _BARRED else letter for letter in str(text))


def shorten(text: object, length: int = 14) -> str:
    """`text` in at most `length` characters, the last one an ellipsis if something was cut."""
    whole = clean(text)
    return whole if len(whole) <= length else whole[: length - 1].rstrip() + "…"


def percent(share: float, digits: int = 2) -> str:
    """``99.49%`` for 0.9949."""
    return f"{100 * share:.{digits}f}%"


def power(value: float) -> str:
    """``10⁻⁸`` for 1e-8 and ``3.2 × 10⁻⁴`` for 3.2e-4."""
    if value == 0 or not math.isfinite(value):
        return factor(value)
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = "10" + str(int(exponent)).translate(_RAISED)
    return raised if mantissa == "1.0" else f"{mantissa.removesuffix('.0')} × {raised}"


def factor(value: Any) -> str:
    """Three significant digits, or ∞; records write infinity as a word."""
    number = math.inf if value == "infinity" else float(value)
    return "∞" if math.isinf(number) else f"{number:.3g}"


def quantity(value: float) -> str:
    """Three significant digits: ``0.0316``, ``28.4``, ``1,950``, and ``4.25 × 10⁴`` for what is very large or small."""
    number = float(value)
    if number == 0 or not math.isfinite(number):
        return factor(number)
    mantissa, exponent = f"{number:.2e}".split("e")
    if -3 <= int(exponent) <= 3:
        return f"{float(f'{number:.3g}'):,.{max(0, 2 - int(exponent))}f}"
    return f"{mantissa} × 10{str(int(exponent)).translate(_RAISED)}"


def duration(seconds: float) -> str:
    """``0.42 s``, ``15.2 s``, ``5 min 0 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 9.995 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes: ``512 B``, ``686 kB``, ``1.23 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def joined(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
