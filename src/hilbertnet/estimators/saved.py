"""Any saved classifier, whichever it is."""

from __future__ import annotations

import json
import os
from typing import Any

from hilbertnet.estimators.classifier import CKNClassifier
from hilbertnet.estimators.regularized import RegularizedClassifier

__all__ = ["load_classifier"]


def load_classifier(
    path: str | os.PathLike[str], *, device: str = "cpu", model: Any = None
) -> CKNClassifier | RegularizedClassifier:
    """Read what ``save`` of a `CKNClassifier` or a `RegularizedClassifier` wrote.

    Both have ``as_module()``: a torch module from signals in [0, 1] to logits.

    Parameters
    ----------
    path
        The file.
    device
        Where it is to compute.
    model
        See `RegularizedClassifier.load`.

    Raises
    ------
    ValueError
        If the file is none of these.
    """
    if _kind(path) == "RegularizedClassifier":
        return RegularizedClassifier.load(path, device=device, model=model)
    return CKNClassifier.load(path, device=device)


def _kind(path: str | os.PathLike[str]) -> str | None:
    """What the file's header says it is; ``None`` where it cannot be read, of which loading says why."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return json.loads((file.metadata() or {})["hilbertnet"])["kind"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
