"""What a text such as ``"package.module:function"`` names: code of the user's."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["function_named", "is_name", "result_named"]

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_name(text: object) -> bool:
    """Whether it has the form of ``"package.module:function"``."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def function_named(argument: str, text: str) -> Callable[..., Any]:
    """The function ``"package.module:function"``; its module may be a file of the current folder.

    Parameters
    ----------
    argument
        What messages start with.
    text
        The name. Importing runs the code of its module.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not is_name(text):
        raise ValueError(f"{argument}: expected 'package.module:function', got {text!r}")
    module, _, name = text.partition(":")
    _see_current_folder()
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ValueError(
            f"{argument}: {text!r} cannot be imported: {error}; the module must be in the current folder, installed or "
            "on PYTHONPATH"
        ) from None
    if not callable(found):
        raise ValueError(f"{argument}: expected {text!r} to be a function, got {type(found).__name__}")
    return found


def result_named(argument: str, text: str) -> Any:
    """What the function ``"package.module:function"`` returns, called without arguments.

    Raises
    ------
    ValueError
        If there is none, or it needs arguments.
    """
    function = function_named(argument, text)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(f"{argument}: {text!r} cannot be called without arguments: {error}") from None
    except ValueError:  # a builtin, of which Python does not know what it takes
        pass
    return function()


def _see_current_folder() -> None:
    """As ``python -m`` does, for commands that are scripts; last, so that no file of it hides a package."""
    folder = os.getcwd()
    if not sys.flags.safe_path and not {"", folder} & set(sys.path):
        sys.path.append(folder)
