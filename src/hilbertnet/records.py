"""Run folders and atomic writes: a file is whole or absent, and a record says how a number was made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RunFolder", "atomic_path", "environment", "load_tensors", "save_tensors", "write_json"]

_PACKAGES = ("hilbertnet", "torch", "numpy", "scipy", "scikit-learn")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` when the block ends well and removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp gives 0600, whatever the user's umask allows
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write `content` as JSON, atomically. NaN and infinity are refused: JSON has no word for them."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


_HEADER = "hilbertnet"


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, with `header` as JSON in the file's own header, atomically.

    Parameters
    ----------
    path
        The file.
    tensors
        Tensors by name.
    header
        What is needed to read them, for JSON.
    """
    import torch
    from safetensors.torch import save_file

    text = json.dumps(header, allow_nan=False, ensure_ascii=False)
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        save_file(whole, str(temporary), metadata={_HEADER: text})


def load_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and header that `save_tensors` wrote; the header's ``"kind"`` must be `kind`.

    Raises
    ------
    ValueError
        If the file is absent, is no safetensors file of this package, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a safetensors file written by hilbertnet ({error})") from None
    if header.get("kind") != kind:
        raise ValueError(f"{path}: expected a {kind}, got a {header.get('kind')!r}")
    return tensors, header


def environment(device: str = "cpu") -> dict[str, Any]:
    """What a record says of the place it was made in: versions, machine, device, threads, command, time (UTC)."""
    import torch

    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@dataclass(frozen=True)
class RunFolder:
    """One run's folder: ``record.json``, ``model.safetensors``, ``predictions.csv``.

    The record is written last, so a folder that has one holds a finished run.
    """

    path: Path

    @property
    def record_path(self) -> Path:
        """Where the record is."""
        return self.path / "record.json"

    @property
    def checkpoint_path(self) -> Path:
        """Where the fitted model is."""
        return self.path / "model.safetensors"

    @property
    def predictions_path(self) -> Path:
        """Where the predictions are."""
        return self.path / "predictions.csv"

    @property
    def finished(self) -> bool:
        """Whether the run was finished."""
        return self.record_path.is_file()

    def read_record(self) -> dict[str, Any]:
        """The record of a finished run.

        Raises
        ------
        ValueError
            If there is no record, or it is not JSON.
        """
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{self.path}: expected a finished run, found no record.json") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.record_path}: not a JSON record ({error})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{self.record_path}: expected a JSON object, got {type(record).__name__}")
        return record
