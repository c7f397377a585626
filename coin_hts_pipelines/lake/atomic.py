"""Whole-or-nothing file writes and locks between threads and processes, for every room that keeps files."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from coin_hts_pipelines.errors import CoinHtsError, PermanentError, TransientError

_TRANSIENT = {
    errno.ENOSPC: "free some space on this disk",
    errno.EDQUOT: "free some of the disk quota",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files",
    errno.ENFILE: "raise the limit of open files",
}
_PERMANENT = {
    errno.EACCES: "give this user write permission there",
    errno.EPERM: "give this user write permission there",
    errno.EROFS: "choose a folder on a writable file system",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EEXIST: "a part of the path is a file; choose another folder",
    errno.EISDIR: "the path is a folder; remove it or choose another name",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EFBIG: "raise the file size limit",
}


def write_error(path: Path | str, error: OSError) -> CoinHtsError | None:
    """Class an operating system error of a write: transient, permanent, or None when it is neither for certain."""
    code = error.errno or 0
    for kind, advice in ((TransientError, _TRANSIENT), (PermanentError, _PERMANENT)):
        if code in advice:
            return kind(f"cannot write {path}: {os.strerror(code)}; {advice[code]}")
    return None


@contextmanager
def _classed(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        known = write_error(path, error)
        if known is None:
            raise
        raise known from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that readers, crashes and full disks see the old file or the new one, never less.

    Parameters
    ----------
    path
        The file; missing folders are made.
    write
        Gets the open binary stream of a temporary file in the same folder.

    Raises
    ------
    TransientError
        The disk is full or failing.
    PermanentError
        The place is not writable.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with _classed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed writers of `path` left; the caller holds the lock all its writers take."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of `path`, against other threads and other processes; it cannot be taken twice.

    The lock is on a side file `{path}.lock` that stays for ever: unlinking it, or locking a file that is itself
    replaced, would let two holders in.
    """
    with _classed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        # A file description of its own for every holder: flock excludes threads that way, lockf would not.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
