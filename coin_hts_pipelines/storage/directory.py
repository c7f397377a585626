"""An object store in a local folder: each object is a plain file under its key, with a side file of what is known.

Layout: `<root>/<key>` the bytes; `<root>/.store/meta/<SHA-256 of the key>.json` SHA-256, content type and metadata;
`<root>/.store/tmp` unfinished files; `<root>/.store/lock` held while the two files are opened or exchanged.

Two files cannot be renamed at once, so an upload first puts down the new side file as `.next`, then renames the data,
then the side file. Whoever takes the lock and finds a `.next` knows that its writer died, and ends or drops its upload.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from coin_hts_pipelines.storage.object_store import (
    NO_METADATA,
    ObjectInfo,
    UploadOutcome,
    check_key,
    check_metadata,
    check_prefix,
    commit,
    compare_sha256,
    copy_hashed,
    expected_sha256,
    guess_content_type,
    missing,
    open_source,
    os_errors,
    sync_file,
    sync_folder,
    temporary_file,
)

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DirectoryStore:
    """Objects as files below `root`, which is made when needed. A key cannot also be the folder of another key."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()
        self._own = self.root / ".store"
        self._tmp = self._own / "tmp"

    def check(self) -> None:
        """Raise if the folder cannot be made or written to."""
        with os_errors(f"write to the folder {self.root}"), self._locked(""), temporary_file(self._tmp):
            pass

    def upload(
        self,
        source: Path,
        key: str,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str | None = None,
    ) -> UploadOutcome:
        """Store a file; see `ObjectStore.upload`. Whether equal bytes are there is found out by reading them."""
        side: dict[str, Any] = {"key": check_key(key), "metadata": check_metadata(metadata)}
        side["content_type"] = content_type or guess_content_type(key)
        doing = os_errors(f"store {self._where(key)}")
        with open_source(source) as stream, doing, temporary_file(self._tmp) as (path, copy):
            _, side["sha256"] = copy_hashed(stream, copy)
            with self._opened(key) as present:
                if present and present[0].sha256 == side["sha256"] == copy_hashed(present[1])[1]:
                    return UploadOutcome(present[0], skipped=True)
            sync_file(copy)  # before the lock: on a slow disk this takes seconds, and readers would wait
            return UploadOutcome(self._exchange(key, path, copy, side), skipped=False)

    def download(self, key: str, target: Path) -> ObjectInfo:
        """Copy an object to a file; see `ObjectStore.download`."""
        where = self._where(check_key(key))
        with os_errors(f"copy {where} to {target}"), self._opened(key) as present:
            if present is None:
                raise missing(where)
            info, stream = present
            expected = expected_sha256(where, info.sha256)
            with temporary_file(target.parent) as (path, copy):
                compare_sha256(where, copy_hashed(stream, copy)[1], expected)
                commit(path, copy, target)
            return info

    def delete(self, key: str) -> None:
        """Remove an object and the folders it leaves empty; one that is not there is fine."""
        path = self.root / check_key(key)
        with os_errors(f"delete {path}"), self._locked(key):
            for file in (path, self._side(key)):
                with contextlib.suppress(*_ABSENT):
                    file.unlink()
                    sync_folder(file.parent)
            for folder in path.relative_to(self.root).parents:
                with contextlib.suppress(OSError):
                    (self.root / folder).rmdir()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, sorted by key."""
        check_prefix(prefix)
        with os_errors(f"list {self.root}"):
            keys = sorted(key for key in self._keys(prefix.rpartition("/")[0]) if key.startswith(prefix))
        for key in keys:
            with os_errors(f"list {self.root}"), contextlib.suppress(*_ABSENT):
                yield _info(key, (self.root / key).stat(), {})

    def head(self, key: str) -> ObjectInfo | None:
        """Describe an object without reading it; None when there is none."""
        with os_errors(f"read {self._where(check_key(key))}"), self._opened(key) as present:
            return present[0] if present else None

    def verify(self, key: str, sha256: str | None = None) -> ObjectInfo:
        """Read every byte of an object; see `ObjectStore.verify`."""
        where = self._where(check_key(key))
        with os_errors(f"read {where}"), self._opened(key) as present:
            if present is None:
                raise missing(where)
            info, stream = present
            expected = expected_sha256(where, info.sha256, sha256)
            compare_sha256(where, copy_hashed(stream)[1], expected)
            return info

    def _where(self, key: str) -> str:
        return str(self.root / key)

    def _side(self, key: str) -> Path:
        return self._own / "meta" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _next(self, key: str) -> Path:
        return self._side(key).with_suffix(".next")

    def _keys(self, folder: str) -> Iterator[str]:
        def fail(error: OSError) -> None:
            if not isinstance(error, _ABSENT):
                raise error

        for path, folders, files in os.walk(self.root / folder, onerror=fail):
            if Path(path) == self.root and self._own.name in folders:
                folders.remove(self._own.name)
            for name in files:
                yield (Path(path) / name).relative_to(self.root).as_posix()

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the lock, with what a dead writer left of this key put right."""
        self._own.mkdir(parents=True, exist_ok=True)
        with (self._own / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._settle(key)
            yield

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[ObjectInfo, BinaryIO] | None]:
        """Open both files of an object as one; the stream stays what it is when another writer replaces them."""
        with contextlib.ExitStack() as stack:
            with self._locked(key):
                side = _load(self._side(key))
                stream: BinaryIO | None = None
                with contextlib.suppress(*_ABSENT):
                    stream = stack.enter_context((self.root / key).open("rb"))
            yield (_info(key, os.fstat(stream.fileno()), side), stream) if stream else None

    def _exchange(self, key: str, path: Path, copy: BinaryIO, side: Mapping[str, Any]) -> ObjectInfo:
        with self._locked(key):
            with temporary_file(self._tmp) as (note, stream):
                stream.write(json.dumps(side).encode())
                commit(note, stream, self._next(key))
            commit(path, copy, self.root / key)
            self._rename_side(key)
            return _info(key, os.fstat(copy.fileno()), side)

    def _settle(self, key: str) -> None:
        """End the upload of a writer that died between its renames, or drop it if the data was not yet renamed."""
        if not self._next(key).exists():
            return
        actual = None
        with contextlib.suppress(*_ABSENT), (self.root / key).open("rb") as stream:
            _, actual = copy_hashed(stream)
        if actual == _load(self._next(key)).get("sha256"):
            self._rename_side(key)
        else:
            self._next(key).unlink()

    def _rename_side(self, key: str) -> None:
        self._next(key).replace(self._side(key))
        sync_folder(self._side(key).parent)


def _load(side: Path) -> dict[str, Any]:
    """Read a side file; without a readable one nothing is known of an object but its bytes."""
    try:
        return dict(json.loads(side.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _info(key: str, stat: os.stat_result, side: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size=stat.st_size,
        sha256=side.get("sha256"),
        etag=None,
        content_type=side.get("content_type"),
        modified=datetime.fromtimestamp(stat.st_mtime, tz=UTC),
        metadata=dict(side.get("metadata", {})),
    )
