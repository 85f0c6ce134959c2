"""What makes files last, and keeps writers of one folder out of each other's way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

from hilbertnet.progress import format_bytes

__all__ = ["check_room", "lock", "sync_folder", "sync_tree", "umask_of"]


def lock(file: IO[bytes], *, alone: bool) -> bool:
    """Lock for this process alone if no other holds it, or with others; ``False`` where that cannot be."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except (ImportError, OSError):
        return False
    return True


def sync_folder(folder: Path) -> None:
    """A new name lasts when the folder that holds it is on disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def umask_of(folder: Path) -> int:
    """What the user's umask takes away, seen on a folder just made."""
    return ~folder.stat().st_mode & 0o777


def check_room(path: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk of `path` has no room for.

    Raises
    ------
    ValueError
        If `what` needs more bytes than are free.
    """
    there = next((folder for folder in (path, *path.absolute().parents) if folder.is_dir()), None)
    if there is None:
        return
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(f"store: {what} need {format_bytes(needed)} of disk, {format_bytes(free)} are free there")
