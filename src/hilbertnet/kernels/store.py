"""Gram matrices on disk: a Zarr v3 group whose chunks are tiles, each with its own checksum.

A store ``K.zarr`` is a group with one array (n, m) for each kind of kernel, ``ckn``, ``ntk`` or both. A chunk is a
square tile; of a symmetric matrix only those on and above the diagonal are there, and the rest reads as NaN in programs
that do not mirror. Chunks are little-endian numbers followed by their CRC-32C (Zarr's codecs ``bytes`` and ``crc32c``),
so that every reader of Zarr v3 checks what it reads. The group's attributes say what the tiles are of.

A chunk comes to be by the renaming of a file that is already on disk, so the chunks that are there, whole, are the
record of the tiles that are done; a process killed in between leaves at most a temporary file. Nothing else is written
after the store is made, so that any number of processes may fill it at once.

References: Zarr core specification, version 3, 2023, https://zarr-specs.readthedocs.io/en/latest/v3/core/v3.0.html.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.kernels.disk import lock, sync_folder, sync_tree, umask_of
from hilbertnet.kernels.grid import Grid, Place
from hilbertnet.progress import Progress, format_bytes, track
from hilbertnet.records import atomic_path

__all__ = ["FORMAT", "KINDS", "GramStore", "bytes_on_disk"]

FORMAT = 1
"""Of what this file describes; a store of another is refused."""

KINDS = ("ckn", "ntk")

_ATTRIBUTE = "hilbertnet"
_CHECKSUM_BYTES = 4
_DISK_BLOCK = 4096  # what a file takes on disk is a multiple of it, on most file systems


class GramStore:
    """A folder of tiles; `GramStore.create` makes one and `GramStore.open` opens it.

    Parameters
    ----------
    path
        The folder.
    identity
        What the tiles are of.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = dict(identity)
        self.kinds: tuple[str, ...] = tuple(identity["kinds"])
        self.dtype = np.dtype(identity["dtype"]).newbyteorder("<")
        rows, columns = identity["shape"]
        self.grid = Grid(rows, columns, identity["symmetric"], identity["tile"])

    def __repr__(self) -> str:
        return f"GramStore({str(self.path)!r}, {self.grid.rows} x {self.grid.columns}, {' and '.join(self.kinds)})"

    # --- made and opened

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        identity: Mapping[str, Any],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> GramStore:
        """Make a store without tiles, whole or not at all; one that somebody else made meanwhile is opened instead.

        Parameters
        ----------
        path
            The folder, which must not exist or be empty.
        identity
            What the tiles are of: ``format``, ``version``, ``architecture``, ``kinds``, ``dtype``, ``shape``,
            ``symmetric``, ``data`` and ``tile``, for JSON.
        arrays
            What is kept beside the matrices, such as labels, by name.
        attributes
            The same, for JSON.

        Raises
        ------
        ValueError
            If `path` is taken by something else, or zarr is not installed.
        """
        zarr = _zarr()
        path = Path(path)
        if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
            return cls.open(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        try:
            store = cls(staging, identity)
            store._write_metadata(zarr, arrays or {}, attributes or {})
            sync_tree(staging)
            try:
                staging.rename(path)
            except OSError:  # not empty any more: another process was faster
                if not path.is_dir():
                    raise
                return cls.open(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return cls(path, identity)

    def _write_metadata(self, zarr: Any, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
        from zarr.codecs import BytesCodec, Crc32cCodec

        group = zarr.create_group(str(self.path), attributes={_ATTRIBUTE: self.identity, **attributes}, overwrite=True)
        for name, values in arrays.items():
            kept = group.create_array(name, shape=values.shape, chunks=values.shape, dtype=values.dtype)
            kept[...] = values
        for kind in self.kinds:
            group.create_array(
                kind,
                shape=(self.grid.rows, self.grid.columns),
                chunks=(self.grid.side, self.grid.side),
                dtype=self.dtype,
                fill_value=np.nan,  # what is not there never reads as a number
                serializer=BytesCodec(endian="little"),
                filters=None,
                compressors=[Crc32cCodec()],
                attributes={"stored": "tiles on and above the diagonal" if self.grid.symmetric else "all tiles"},
            )
            for band in range(self.grid.down):  # now, so that no writer has to make, or ever removes, a folder
                (self.path / kind / "c" / str(band)).mkdir(parents=True)
        self.path.chmod(0o777 & ~umask_of(self.path / self.kinds[0]))  # mkdtemp gives 0700

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GramStore:
        """Open a store that `create` made, to read it or to go on filling it.

        Raises
        ------
        ValueError
            If there is no such store, or what describes it is damaged or of another format.
        """
        path = Path(path)
        attributes = _read_json(path / "zarr.json", path).get("attributes")
        identity = attributes.get(_ATTRIBUTE) if isinstance(attributes, dict) else None
        if not isinstance(identity, dict) or "format" not in identity:
            raise ValueError(f"store: {path} is no store of Gram matrices")
        if identity["format"] != FORMAT:
            raise ValueError(f"store: {path} has format {identity['format']!r}, this version reads {FORMAT}")
        try:
            store = cls(path, identity)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"store: {path / 'zarr.json'} is damaged ({error!r})") from None
        for kind in store.kinds:
            store._check_array(kind)
        return store

    def _check_array(self, kind: str) -> None:
        """Other programs read by the array's own description: it must say the same."""
        file = self.path / kind / "zarr.json"
        found = _read_json(file, self.path)
        wanted = {
            "shape": [self.grid.rows, self.grid.columns],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.grid.side, self.grid.side]}},
        }
        for name, value in wanted.items():
            if found.get(name) != value:
                raise ValueError(f"store: {file} is damaged: expected {name} {value}, got {found.get(name)}")

    def check(self, wanted: Mapping[str, Any]) -> None:
        """Refuse to add tiles of something else.

        Parameters
        ----------
        wanted
            What the tiles will be of; any part of an identity.

        Raises
        ------
        ValueError
            If the store is of something else; the message names what differs.
        """
        other = [name for name, value in wanted.items() if self.identity.get(name) != value]
        if other:
            details = "; ".join(f"{name}: expected {wanted[name]}, it has {self.identity.get(name)}" for name in other)
            raise ValueError(
                f"store: {self.path} was made for other {', '.join(other)} ({details}); "
                "choose another folder, or remove it"
            )

    def attributes(self) -> dict[str, Any]:
        """What was given as `attributes` when the store was made."""
        found = _read_json(self.path / "zarr.json", self.path)["attributes"]
        return {name: value for name, value in found.items() if name != _ATTRIBUTE}

    def array(self, name: str) -> NDArray[Any]:
        """What was given as `arrays` when the store was made, by name."""
        zarr = _zarr()
        if name in self.kinds or not (self.path / name / "zarr.json").is_file():
            raise ValueError(f"name: {self.path} keeps no array {name!r} beside its matrices")
        return np.asarray(zarr.open_array(str(self.path / name), mode="r")[...])

    # --- tiles

    @property
    def chunk_bytes(self) -> int:
        """Size of the file of one tile of one kind."""
        return self.grid.side**2 * self.dtype.itemsize + _CHECKSUM_BYTES

    def bytes_of(self, tiles: int) -> int:
        """What so many tiles take on disk."""
        return bytes_on_disk(tiles, self.grid.side, self.dtype.itemsize, len(self.kinds))

    def file(self, kind: str, place: Place) -> Path:
        """The file of a tile."""
        return self.path / kind / "c" / str(place.row) / str(place.column)

    def done(self) -> set[Place]:
        """The tiles whose files are there in full; their checksums are for `damaged` to look at."""
        found: set[Place] | None = None
        for kind in self.kinds:
            whole = set(self._files(kind))
            found = whole if found is None else found & whole
        return found or set()

    def _files(self, kind: str) -> Iterator[Place]:
        for row in range(self.grid.down):
            first = row if self.grid.symmetric else 0
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(self.path / kind / "c" / str(row)) as files,
            ):
                for file in files:
                    if file.name.isdecimal() and first <= int(file.name) < self.grid.across:
                        with suppress(FileNotFoundError):
                            if file.is_file() and file.stat().st_size == self.chunk_bytes:
                                yield Place(row, int(file.name))

    def missing(self) -> list[Place]:
        """The tiles that are not done, row by row."""
        done = self.done()
        return [place for place in self.grid.places() if place not in done]

    @property
    def complete(self) -> bool:
        """Whether every tile is done."""
        return len(self.done()) == self.grid.count

    def damaged(self, places: Iterable[Place] | None = None, *, progress: Progress = False) -> list[Place]:
        """The done tiles whose numbers do not have their checksum; all done ones (or `places`) are read.

        Parameters
        ----------
        places
            Done tiles, or ``None`` for all.
        progress
            ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).
        """
        places = sorted(self.done() if places is None else places)
        return [place for place in track(places, progress, label="Checking tiles") if not self._sound(place)]

    def _sound(self, place: Place) -> bool:
        try:
            for kind in self.kinds:
                self.read(kind, place)
        except ValueError:
            return False
        return True

    def read(self, kind: str, place: Place) -> NDArray[Any]:
        """The numbers of one tile, shape ``grid.shape(place)``, once their checksum is found right.

        Raises
        ------
        ValueError
            If the tile is missing or damaged.
        """
        file = self.file(kind, place)
        try:
            raw = np.fromfile(file, dtype=np.uint8)
        except FileNotFoundError:
            raise ValueError(f"store: {file} is missing; the command that made the store computes it") from None
        numbers, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if len(raw) != self.chunk_bytes or _checksum(numbers) != checksum.tobytes():
            raise ValueError(f"store: {file} is damaged; the command that made the store computes it again")
        rows, columns = self.grid.shape(place)
        return numbers.view(self.dtype).reshape(self.grid.side, self.grid.side)[:rows, :columns]

    def write(self, place: Place, matrices: Mapping[str, NDArray[Any]]) -> None:
        """Put one tile on disk, durably, in the place of what was there.

        Parameters
        ----------
        place
            Which tile.
        matrices
            Its numbers for every kind, shape ``grid.shape(place)``.

        Raises
        ------
        ValueError
            If the numbers have another shape, or are not finite.
        OSError
            If they cannot be written; the message says how much room is needed.
        """
        for kind in self.kinds:
            found = matrices[kind]
            if found.shape != self.grid.shape(place):
                raise ValueError(f"matrices: expected shape {self.grid.shape(place)} for {place}, got {found.shape}")
            if not np.isfinite(found).all():
                raise ValueError(
                    f"matrices: {place} of kind {kind} has numbers that are not finite in {self.dtype.name}"
                )
        try:
            for kind in self.kinds:
                self._write_chunk(self.file(kind, place), matrices[kind])
        except OSError as error:
            raise self._no_room(error) from error

    def _write_chunk(self, file: Path, numbers: NDArray[Any]) -> None:
        chunk = np.ascontiguousarray(numbers, dtype=self.dtype)
        if chunk.shape != (self.grid.side, self.grid.side):  # at the edges a chunk goes on beyond the matrix
            chunk = np.full((self.grid.side, self.grid.side), np.nan, dtype=self.dtype)
            chunk[: numbers.shape[0], : numbers.shape[1]] = numbers
        raw = chunk.reshape(-1).view(np.uint8)
        with atomic_path(file) as temporary, temporary.open("wb") as out:
            out.write(raw.data)
            out.write(_checksum(raw))
        sync_folder(file.parent)

    def _no_room(self, error: OSError) -> OSError:
        done = len(self.done())
        needed = self.bytes_of(self.grid.count - done)
        return OSError(
            error.errno,
            f"{error.strerror} when a tile was written; {done:,} of {self.grid.count:,} tiles are kept, the others "
            f"need {format_bytes(needed)}; make room, and the same command goes on from there",
            str(self.path),
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold this while tiles are written: who finds nobody else at it removes what killed writers left."""
        with (self.path / "zarr.json").open("r+b") as file:
            if lock(file, alone=True):
                for left in self.path.glob("*/c/*/.*.part"):
                    left.unlink(missing_ok=True)
            lock(file, alone=False)
            yield


def bytes_on_disk(tiles: int, side: int, itemsize: int, kinds: int) -> int:
    """What so many tiles of `kinds` kinds take on disk."""
    return tiles * kinds * -(-(side**2 * itemsize + _CHECKSUM_BYTES) // _DISK_BLOCK) * _DISK_BLOCK


def _zarr() -> Any:
    try:
        import zarr
    except ImportError:
        raise ValueError("store: zarr is needed to write one; install hilbertnet[cluster]") from None
    return zarr


def _checksum(raw: NDArray[np.uint8]) -> bytes:
    try:
        import google_crc32c  # comes with zarr
    except ImportError:
        raise ValueError("store: google-crc32c is needed to read one; install hilbertnet[cluster]") from None
    return int(google_crc32c.value(raw)).to_bytes(_CHECKSUM_BYTES, "little")


def _read_json(file: Path, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        state = f"{file.relative_to(path)} is missing" if path.is_dir() else "there is no such folder"
        raise ValueError(f"store: {path} is no store of Gram matrices: {state}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"store: {file} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"store: {file} is damaged: expected a JSON object")
    return content
