"""Where backups lie: a folder, or a bucket by the object store. Here: keys and bytes. Not here: what they mean."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from coin_hts_pipelines.errors import InvalidRequest, TransientError
from coin_hts_pipelines.operations.backup.manifest import DAMAGED
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage import ObjectStore
from coin_hts_pipelines.storage.object_store import commit, compare_sha256, copy_hashed, os_errors

_S3_PREFIX = "backups"
_WORK = ".backup"


class Busy(TransientError):
    """Another backup, restore or prune is at work on the target."""


class Target(Protocol):
    """A place for backups. Every error is a Permanent-, Transient- or IntegrityError."""

    url: str
    scratch: Path

    def exclusive(self, *, reading: bool = False) -> AbstractContextManager[None]:
        """Keep every other backup, restore and prune out; within it `scratch` is an empty local folder.

        `reading` is possible where nothing can be written: there is no such folder then, and no need for a lock.
        """

    def keys(self) -> dict[str, int]:
        """List everything stored, with its size in bytes."""

    def store(self, path: Path, key: str) -> None:
        """Take a local file of `scratch` over under a key, whole or not at all."""

    def fetch(self, key: str, sha256: str, path: Path) -> None:
        """Copy to a new local file; raises IntegrityError unless the bytes have that SHA-256."""

    def verify(self, key: str, sha256: str) -> None:
        """Read every byte; raises as `fetch`."""

    def read(self, key: str) -> bytes:
        """Return a small object."""

    def delete(self, key: str) -> None:
        """Remove; what is not there is fine."""

    def set_aside(self, key: str) -> None:
        """Take a damaged object out of the way; its bytes stay under `damaged/`, or as an old version in a bucket."""


class DirectoryTarget:
    """Backups as plain files below a folder, so that a restore needs nothing but the bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()
        self.scratch = self.root / _WORK

    def exclusive(self, *, reading: bool = False) -> AbstractContextManager[None]:
        """See `Target.exclusive`."""
        with os_errors(f"write to {self.root}"):
            # Of the user alone: the dump holds whatever the database does.
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _exclusive(self.scratch, self.url, reading)

    def keys(self) -> dict[str, int]:
        """See `Target.keys`."""
        found: dict[str, int] = {}

        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        with os_errors(f"list {self.root}"):
            for folder, folders, names in os.walk(self.root, onerror=fail):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for name in (name for name in names if not name.startswith(".")):
                    try:
                        size = (Path(folder) / name).stat().st_size
                    except FileNotFoundError:  # removed meanwhile
                        continue
                    found[(Path(folder) / name).relative_to(self.root).as_posix()] = size
        return found

    def store(self, path: Path, key: str) -> None:
        """See `Target.store`."""
        with os_errors(f"write {self.root / key}"), path.open("rb") as stream:
            commit(path, stream, self.root / key)

    def fetch(self, key: str, sha256: str, path: Path) -> None:
        """See `Target.fetch`."""
        place = self.root / key
        with os_errors(f"copy {place} to {path}"), place.open("rb") as stream, path.open("xb") as copy:
            compare_sha256(str(place), copy_hashed(stream, copy)[1], sha256)

    def verify(self, key: str, sha256: str) -> None:
        """See `Target.verify`."""
        place = self.root / key
        with os_errors(f"read {place}"), place.open("rb") as stream:
            compare_sha256(str(place), copy_hashed(stream)[1], sha256)

    def read(self, key: str) -> bytes:
        """See `Target.read`."""
        with os_errors(f"read {self.root / key}"):
            return (self.root / key).read_bytes()

    def delete(self, key: str) -> None:
        """See `Target.delete`."""
        with os_errors(f"delete {self.root / key}"):
            (self.root / key).unlink(missing_ok=True)

    def set_aside(self, key: str) -> None:
        """See `Target.set_aside`."""
        place = self.root / DAMAGED / Path(key).name
        with os_errors(f"move {self.root / key} to {place}"):
            place.parent.mkdir(exist_ok=True)
            (self.root / key).replace(place)


class S3Target:
    """Backups in an object store; `scratch` is a folder of this machine with room for the dump."""

    def __init__(self, objects: ObjectStore, scratch: Path) -> None:
        self.objects = objects
        self.url = objects.url
        self.scratch = scratch

    def exclusive(self, *, reading: bool = False) -> AbstractContextManager[None]:
        """See `Target.exclusive`; of this machine."""
        return _exclusive(self.scratch, self.url, reading)

    def keys(self) -> dict[str, int]:
        """See `Target.keys`."""
        return {info.key: info.size for info in self.objects.list()}

    def store(self, path: Path, key: str) -> None:
        """See `Target.store`."""
        self.objects.upload(path, key)
        path.unlink()

    def fetch(self, key: str, sha256: str, path: Path) -> None:
        """See `Target.fetch`."""
        info = self.objects.download(key, path)
        compare_sha256(f"{self.url}/{key}", info.sha256 or "unknown", sha256)

    def verify(self, key: str, sha256: str) -> None:
        """See `Target.verify`."""
        self.objects.verify(key, sha256)

    def read(self, key: str) -> bytes:
        """See `Target.read`."""
        with tempfile.TemporaryDirectory() as folder:
            self.objects.download(key, Path(folder) / "object")
            return (Path(folder) / "object").read_bytes()

    def delete(self, key: str) -> None:
        """See `Target.delete`."""
        self.objects.delete(key)

    def set_aside(self, key: str) -> None:
        """See `Target.set_aside`."""
        self.objects.delete(key)


def open_target(settings: Settings) -> Target:
    """Target of the settings.

    Raises
    ------
    InvalidRequest
        If it is S3 and no bucket is set.
    """
    if settings.backup_store == "directory":
        return DirectoryTarget(settings.backups)
    if not settings.s3_bucket:
        raise InvalidRequest("backups go to S3 but no bucket is set; set COIN_HTS_S3_BUCKET")
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    bundle = str(settings.path(settings.s3_ca_bundle)) if settings.s3_ca_bundle else None
    from coin_hts_pipelines.storage import S3Store, s3_client  # noqa: PLC0415 - boto3

    client = s3_client(
        settings.s3_endpoint_url,
        settings.s3_region,
        key.get_secret_value() if key else None,
        secret.get_secret_value() if secret else None,
        verify=bundle if settings.s3_verify else False,
    )
    prefix = f"{settings.s3_prefix.strip('/')}/{_S3_PREFIX}".lstrip("/")
    return S3Target(S3Store(client, settings.s3_bucket, prefix), settings.root / _WORK)


@contextmanager
def _exclusive(scratch: Path, url: str, reading: bool) -> Iterator[None]:
    with os_errors(f"write to {scratch.parent}"):
        scratch.parent.mkdir(parents=True, exist_ok=True)
        if reading and os.statvfs(scratch.parent).f_flag & os.ST_RDONLY:
            yield
            return
        lock = os.open(scratch.with_name(f"{scratch.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another backup, restore or prune is at work on {url}; wait until it ends") from None
        with os_errors(f"write to {scratch}"):
            shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
            scratch.mkdir(mode=0o700)
        try:
            yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(lock)
