"""What an object store promises, and the rules and helpers its implementations share.

Belongs here: keys, metadata, content types, digests of local files. Not here: where the bytes go.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Protocol

from coin_hts_pipelines.errors import IntegrityError, InvalidRequest, PermanentError, TransientError

READ_SIZE = 1 << 20
SHA256_KEY = "sha256"
NO_METADATA: Mapping[str, str] = MappingProxyType({})

_CONTENT_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".json": "application/json",
    ".html": "text/html",
    ".csv": "text/csv",
}
_KEY_RULE = "a key is a relative path such as exports/KRW-BTC/trades.parquet, parts joined by single slashes"
# S3 allows 1,024 bytes with the store's prefix, file systems 255 a part.
_MAX_KEY_BYTES, _MAX_PART_BYTES = 900, 255
# Metadata travels as HTTP headers: servers change their case, drop underscores and empty values; S3 allows 2 KB.
_METADATA_KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_METADATA_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_MAX_METADATA_BYTES = 1900
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A full disk and a failing device mend; everything else of the operating system needs a person.
_TRANSIENT_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ESTALE}


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object. In a listing `sha256`, `content_type` and `metadata` are not known: ask `head`."""

    key: str
    size: int
    sha256: str | None
    etag: str | None
    content_type: str | None
    modified: datetime
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class UploadOutcome:
    """The object as it now stands, and whether the upload was spared because it already stood there."""

    info: ObjectInfo
    skipped: bool


class ObjectStore(Protocol):
    """A place for finished files under keys. Every error is a Permanent-, Transient- or IntegrityError."""

    url: str

    def check(self) -> None:
        """Raise the error that uploading and reading would meet now: not reachable, no such bucket, not allowed."""

    def upload(
        self,
        source: Path,
        key: str,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str | None = None,
    ) -> UploadOutcome:
        """Store a file whole or not at all; equal bytes already there are left alone, with their metadata."""

    def download(self, key: str, target: Path) -> ObjectInfo:
        """Fetch an object to a file, which appears whole and only if it has the stored SHA-256."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix` (text, not whole parts), sorted by key."""

    def head(self, key: str) -> ObjectInfo | None:
        """Describe an object without reading it; None when there is none."""

    def verify(self, key: str, sha256: str | None = None) -> ObjectInfo:
        """Read every byte of an object and compare with `sha256`, or with the SHA-256 stored beside it."""


def check_key(key: str) -> str:
    """Return the key, or raise InvalidRequest if it is not a plain relative path."""
    parts = key.split("/")
    if (
        not key.isprintable()
        or "\\" in key
        or any(part in {"", ".", ".."} or len(part.encode()) > _MAX_PART_BYTES for part in parts)
        or parts[0] == ".store"
        or len(key.encode()) > _MAX_KEY_BYTES
    ):
        raise InvalidRequest(
            f"object key {key[:100]!r} is not valid; {_KEY_RULE}, without . and .., backslashes or control characters, "
            f"at most {_MAX_KEY_BYTES} bytes ({_MAX_PART_BYTES} a part), not beginning with .store"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the beginning of a key (it may end in a slash or be empty), or raise InvalidRequest."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def check_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the caller's metadata, or raise InvalidRequest if HTTP headers would not keep it unchanged."""
    for name, value in metadata.items():
        if not _METADATA_KEY.fullmatch(name) or name == SHA256_KEY:
            raise InvalidRequest(
                f"metadata name {name!r} is not valid; use lower-case letters, digits and hyphens, not {SHA256_KEY!r}"
            )
        if not _METADATA_VALUE.fullmatch(value):
            raise InvalidRequest(
                f"metadata {name!r} is {value[:100]!r}; use printable ASCII, not empty, without blanks at the ends"
            )
    size = sum(len(name) + len(value) for name, value in metadata.items())
    if size > _MAX_METADATA_BYTES:
        raise InvalidRequest(f"metadata has {size} bytes; at most {_MAX_METADATA_BYTES} are kept with an object")
    return dict(metadata)


def guess_content_type(key: str) -> str:
    """Content type by the key's suffix."""
    return _CONTENT_TYPES.get(Path(key).suffix.lower(), "application/octet-stream")


def expected_sha256(where: str, stored: str | None, given: str | None = None) -> str:
    """Return the SHA-256 to compare with: the given one, else the stored one.

    Raises
    ------
    InvalidRequest
        If the given one is not 64 hex digits.
    IntegrityError
        If there is neither, or what is stored is not a SHA-256.
    """
    if given is not None:
        if not _SHA256.fullmatch(given.lower()):
            raise InvalidRequest(f"SHA-256 {given[:100]!r} is not valid; give 64 hex digits")
        return given.lower()
    if stored is None or not _SHA256.fullmatch(stored):
        raise IntegrityError(f"{where} has no stored SHA-256, so it cannot be verified; upload it again")
    return stored


def compare_sha256(where: str, actual: str, expected: str) -> None:
    """Raise IntegrityError if the bytes read are not those expected."""
    if actual != expected:
        raise IntegrityError(
            f"{where} is damaged: its bytes have SHA-256 {actual}, expected {expected}; upload it again from the source"
        )


def missing(where: str) -> PermanentError:
    """Return the error for an object that is not there."""
    return PermanentError(f"there is no object {where}; check the key, or upload it first")


@contextlib.contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Turn an error of the operating system into a transient or permanent one that says what could not be done."""
    try:
        yield
    except OSError as error:
        reason = f"could not {doing}: {error.strerror or error}"
        if error.errno in _TRANSIENT_ERRNO:
            raise TransientError(f"{reason}; free space or mend the device, then try again") from error
        raise PermanentError(f"{reason}; check the path and its permissions") from error


@contextlib.contextmanager
def open_source(source: Path) -> Iterator[BinaryIO]:
    """Open a local file for upload; errors of the operating system within the block are classed."""
    with os_errors(f"read {source}"), source.open("rb") as stream:
        yield stream


def sync_file(stream: BinaryIO) -> None:
    """Make what was written survive a power cut."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a new file in a folder; it is removed after the block unless `commit` gave it its name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{uuid.uuid4().hex}.part"
    try:
        with path.open("xb") as stream:
            yield path, stream
    finally:
        path.unlink(missing_ok=True)


def commit(path: Path, stream: BinaryIO, target: Path) -> None:
    """Give a finished temporary file its name; readers see the old file or the whole new one."""
    sync_file(stream)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    sync_folder(target.parent)


def copy_hashed(source: BinaryIO, target: BinaryIO | None = None) -> tuple[int, str]:
    """Read a stream to its end, writing it to `target` if there is one; return its size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    while block := source.read(READ_SIZE):
        size += len(block)
        digest.update(block)
        if target is not None:
            target.write(block)
    return size, digest.hexdigest()
