"""Where the files of public data sets are: the folder that HILBERTNET_DATA names, or else a download by hash."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from hilbertnet.data.dataset import printable

__all__ = ["RemoteFile", "data_folders", "fetch", "open_unzipped"]

VARIABLE = "HILBERTNET_DATA"
_TIMEOUT = 30  # seconds without an answer
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a public data set: its name, where it is served, and the md5 that its publishers give."""

    name: str
    urls: tuple[str, ...]
    md5: str


def data_folders(name: str) -> list[Path]:
    """Folders that may hold the files of data set `name`: the one HILBERTNET_DATA names, and its sub-folder `name`.

    Raises
    ------
    ValueError
        If HILBERTNET_DATA is set and names no folder.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return []
    home = Path(value)
    if not home.is_dir():
        raise ValueError(f"{VARIABLE}: expected a folder of data sets, got {printable(value)!r}, which is none")
    return [folder for folder in (home / name, home) if folder.is_dir()]


def fetch(file: RemoteFile, what: str) -> Path:
    """The file in pooch's cache folder, downloaded first if it is not there with the right hash.

    Raises
    ------
    ValueError
        If no address serves it as it should be. The message names HILBERTNET_DATA, the way without a network.
    """
    import pooch

    folder = pooch.os_cache("hilbertnet") / what
    failures = []
    for url in file.urls:
        download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=_TIMEOUT)
        try:
            found = pooch.retrieve(url, f"md5:{file.md5}", fname=file.name, path=folder, downloader=download)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
            reason = printable(" ".join(str(error).split()))
            failures.append(f"{url}: {reason[:200]}")
        else:
            return Path(found)
    raise ValueError(
        f"{what}: could not download {file.name} ({'; '.join(failures)}). "
        f"Without a network, put the file into a folder and set {VARIABLE} to that folder"
    )


@contextmanager
def open_unzipped(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked on the way if it is gzip's by content, whatever its name.

    Raises
    ------
    ValueError
        While reading, if the gzip stream is cut or corrupted; the message names the file.
    """
    with path.open("rb") as raw:
        zipped = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        if not zipped:
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw) as stream:
                yield cast(BinaryIO, stream)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{printable(path)}: a gzip file that is cut or corrupted ({error})") from None
