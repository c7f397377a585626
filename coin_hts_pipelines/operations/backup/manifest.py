"""The manifest of a backup: what is in it, where it was made, and the hash of every byte, its own included."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from coin_hts_pipelines.errors import IntegrityError

SUFFIX, BEGUN = ".json", ".partial"
OBJECTS, DAMAGED = "objects/", "damaged/"
# A flipped byte of a path or a count would be as bad as one of a file, so the manifest says its own SHA-256.
_FORM = re.compile(rb'\{"sha256":"([0-9a-f]{64})","manifest":(.*)\}\n', re.DOTALL)


class FileEntry(BaseModel):
    """One file: its path below DATA_ROOT, its bytes, and by what it is known again (`ctime_ns` 0: by nothing)."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    sha256: str
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def key(self) -> str:
        """Key of the bytes in the target."""
        return object_key(self.sha256)


class Dump(BaseModel):
    """The dump of the database, in the custom format of a `pg_dump` of that major version."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str
    pg_major: int
    server: str

    @property
    def key(self) -> str:
        """Key of the bytes in the target."""
        return object_key(self.sha256)


class Manifest(BaseModel):
    """A complete backup; `tables` are the rows of each table of the dump, `new_bytes` what it added to the target."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    id: str
    created: datetime
    finished: datetime
    host: str
    versions: dict[str, str]
    catalog_revision: str | None
    data_root: str
    dump: Dump
    tables: dict[str, int]
    files: tuple[FileEntry, ...]
    new_bytes: int

    @property
    def size(self) -> int:
        """Bytes of the dump and of every file, also of those that share an object."""
        return self.dump.size + sum(entry.size for entry in self.files)

    @property
    def objects(self) -> dict[str, int]:
        """Keys of everything it needs, with their sizes."""
        return {self.dump.key: self.dump.size, **{entry.key: entry.size for entry in self.files}}

    def encode(self) -> bytes:
        """Return the bytes of its file."""
        body = self.model_dump_json().encode()
        return b'{"sha256":"%s","manifest":%s}\n' % (hashlib.sha256(body).hexdigest().encode(), body)

    @classmethod
    def decode(cls, name: str, content: bytes) -> Manifest:
        """Read the bytes of its file.

        Raises
        ------
        IntegrityError
            If they are not what was written, or of a format this version does not know.
        """
        match = _FORM.fullmatch(content)
        if match is None or hashlib.sha256(match[2]).hexdigest().encode() != match[1]:
            raise IntegrityError(f"manifest {name} is damaged: its bytes do not have the SHA-256 it says")
        try:
            return cls.model_validate_json(match[2])
        except ValidationError as error:
            raise IntegrityError(f"manifest {name} cannot be read: {error.errors()[0]['msg']}") from error


def object_key(sha256: str) -> str:
    """Key of bytes with that SHA-256."""
    return f"{OBJECTS}{sha256[:2]}/{sha256}"
