"""Run folders and atomic writes: a file is whole or absent, and a record says how a number was made."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "RunFolder",
    "atomic_path",
    "check_identity",
    "digest",
    "environment",
    "finite",
    "known",
    "load_tensors",
    "peak_memory",
    "save_tensors",
    "settings_of",
    "write_json",
]

_PACKAGES = ("hilbertnet", "torch", "numpy", "scipy", "scikit-learn")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` when the block ends well and removed when it does not.

    A device or a pipe, such as ``/dev/stdout``, is given as it is: a file in its place would be another thing.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    made = [folder for folder in path.parents if not folder.exists()]
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
    except BaseException:
        temporary.unlink(missing_ok=True)
        with suppress(OSError):  # something else came to be there meanwhile
            for folder in made:
                folder.rmdir()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write `content` as JSON, atomically. NaN and infinity are refused: JSON has no word for them."""
    text = _as_json(content, indent=2)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _as_json(content: Mapping[str, Any], indent: int | None = None) -> str:
    """Readable in any script; escaped where a file's name is not even text."""
    text = json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent, allow_nan=False)
    return text


def check_identity(
    file: str | os.PathLike[str], found: Mapping[str, Any], wanted: Mapping[str, Any], what: str
) -> None:
    """Refuse to go on from a checkpoint of something else.

    Raises
    ------
    ValueError
        If `found`, which `file` holds, differs from what is `wanted`; the message names what is other.
    """
    changed = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if changed:
        raise ValueError(
            f"checkpoint: {file} holds an unfinished {what} of other {', '.join(changed)}; "
            "choose another file, or remove it"
        )


def settings_of(run: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON gives them back: tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(run).items()}


def finite(value: Any) -> Any:
    """`value`, or a dictionary's values, with words for infinity and NaN, for which JSON has no numbers."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinity"
    return value


def known(value: float | None) -> float | None:
    """`value`, or ``None`` where it is infinite or NaN, for which JSON has no numbers."""
    return value if value is not None and math.isfinite(value) else None


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

    text = _as_json(header)
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
            # in memory of their own: at the odd addresses of a file, products come out with other last bits
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a safetensors file written by hilbertnet ({error})") from None
    if header.get("kind") != kind:
        raise ValueError(f"{path}: expected a {kind}, got a {header.get('kind')!r}")
    return tensors, header


def digest(values: Any) -> str:
    """A short digest of the content, dtype and shape of an array or tensor."""
    import numpy as np

    array = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    content = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    content.update(np.ascontiguousarray(array).view(np.uint8).data)
    return content.hexdigest()


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


def peak_memory() -> int | None:
    """Bytes that this process has held at most, or ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    ``record.json``, ``model.safetensors``, ``predictions.csv`` and ``pictures.safetensors`` of a finished run; the
    record is written last, so a folder that has one holds a finished run. Before that, ``unfinished.safetensors`` is
    what an interrupted run goes on from.
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
    def pictures_path(self) -> Path:
        """Where the pictures that a report shows are."""
        return self.path / "pictures.safetensors"

    @property
    def unfinished_path(self) -> Path:
        """Where an unfinished run keeps what it has."""
        return self.path / "unfinished.safetensors"

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
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{self.path}: expected a finished run, found {self._instead()}") from None
        except (ValueError, RecursionError) as error:  # no JSON, no text, or brackets without end
            raise ValueError(f"{self.record_path}: not a JSON record ({error})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{self.record_path}: expected a JSON object, got {type(record).__name__}")
        return record

    def found(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record, if the run was finished with these settings; ``None`` if it was not finished.

        Raises
        ------
        ValueError
            If it was finished with others.
        """
        if not self.finished:
            return None
        record = self.read_record()
        if record.get("settings") != settings:
            raise ValueError(f"out: {self.path} holds a finished run of other settings; choose another folder")
        return record

    def _instead(self) -> str:
        """What is there in place of a record, and what to do."""
        if self.unfinished_path.is_file():
            return "an interrupted one; give the command that began it again, and it goes on"
        runs = sorted(path.parent.name for path in self.path.glob("*/record.json"))
        return f"runs inside it: {', '.join(runs)}; choose one of them" if runs else "no record.json"
