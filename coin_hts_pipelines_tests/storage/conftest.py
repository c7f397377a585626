"""Fixtures of the storage tests."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from coin_hts_pipelines.storage import DirectoryStore, ObjectStore, S3Store
from coin_hts_pipelines_tests.swift import swift  # noqa: F401


class Shelf(NamedTuple):
    """An empty store and the folder on disk in which it, or its server, keeps its bytes."""

    store: ObjectStore
    folder: Path

    def damage(self, content: bytes) -> None:
        """Flip the lowest bit of the last byte of every stored file that has this content."""
        hits = [path for path in self.folder.rglob("*") if path.is_file() and path.read_bytes() == content]
        assert hits, "nothing stored has this content"
        for path in hits:
            with path.open("r+b") as stream:
                stream.seek(-1, 2)
                stream.write(bytes([content[-1] ^ 1]))


@pytest.fixture(params=["directory", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """Return an empty store of each kind; the S3 one lies below a prefix and lists two objects a page."""
    if request.param == "directory":
        return Shelf(DirectoryStore(tmp_path / "store"), tmp_path / "store")
    server = request.getfixturevalue("swift")
    store = S3Store(server.admin, server.new_bucket(), "exports/v1", page_size=2)
    return Shelf(store, server.folder / "devices")


@pytest.fixture
def store(shelf: Shelf) -> ObjectStore:
    """Return an empty store of each kind."""
    return shelf.store
