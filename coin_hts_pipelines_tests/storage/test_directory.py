"""What only a folder can go through: a writer killed between renames, many writers, a full disk, missing rights."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.errors import IntegrityError, PermanentError
from coin_hts_pipelines.storage import DirectoryStore

OLD, NEW = b"the old content", b"the new and longer content"


def put(root: Path, source: Path, content: bytes) -> str:
    source.write_bytes(content)
    return str(DirectoryStore(root).upload(source, "a/b.json", metadata={"length": str(len(content))}).info.sha256)


def die_at_rename(root: Path, source: Path, number: int) -> None:
    """Upload and kill this process just before its rename with this number."""
    count = 0
    rename = Path.replace

    def counted(self: Path, target: Any) -> Path:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = counted  # type: ignore[method-assign]
    put(root, source, NEW)


@pytest.mark.parametrize("before", [None, OLD], ids=["first upload", "replacing"])
@pytest.mark.parametrize(("number", "survivor"), [(1, "old"), (2, "old"), (3, "new")])
def test_a_writer_killed_between_its_renames_leaves_the_old_or_the_new_object(
    tmp_path: Path, before: bytes | None, number: int, survivor: str
) -> None:
    root = tmp_path / "store"
    if before is not None:
        put(root, tmp_path / "in", before)
    process = multiprocessing.get_context("fork").Process(target=die_at_rename, args=(root, tmp_path / "in", number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    store = DirectoryStore(root)
    content = NEW if survivor == "new" else before
    if content is None:
        assert store.head("a/b.json") is None
    else:
        info = store.verify("a/b.json")
        assert info.metadata == {"length": str(len(content))}
        assert store.download("a/b.json", tmp_path / "out") == info
        assert (tmp_path / "out").read_bytes() == content
    put(root, tmp_path / "in", NEW)
    assert store.verify("a/b.json").metadata == {"length": str(len(NEW))}


def test_readers_among_many_writers_always_see_one_whole_object(tmp_path: Path) -> None:
    root, done = tmp_path / "store", threading.Event()
    put(root, tmp_path / "in", OLD)

    def write(writer: int) -> None:
        for number in range(15):
            put(root, tmp_path / f"in-{writer}", bytes([writer, number]) * (1000 * writer + number + 1))

    def read(reader: int) -> int:
        reads, store, target = 0, DirectoryStore(root), tmp_path / f"out-{reader}"
        while not done.is_set() or reads == 0:
            info = store.download("a/b.json", target)
            assert info.metadata == {"length": str(info.size)} == {"length": str(target.stat().st_size)}
            reads += 1
        return reads

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read, number) for number in range(2)]
        try:
            for writer in [pool.submit(write, number) for number in range(4)]:
                writer.result()
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)
    assert [path.name for path in (root / ".store" / "tmp").iterdir()] == []


FILL_THE_DISK = """
import sys
from pathlib import Path
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.storage import DirectoryStore
folder = Path(sys.argv[1])
store = DirectoryStore(folder / "disk" / "store")
small = folder / "small"
small.write_bytes(b"small")
large = folder / "large"
large.write_bytes(bytes(3 << 20))
store.upload(small, "a")
try:
    store.upload(large, "a")
except TransientError as error:
    assert "No space left" in str(error) and "free space" in str(error), error
else:
    raise AssertionError("three megabytes went onto a disk of one")
store.verify("a")
assert store.head("a").size == 5
assert not list((folder / "disk" / "store" / ".store" / "tmp").iterdir())
DirectoryStore(folder / "large-store").upload(large, "b")
try:
    DirectoryStore(folder / "large-store").download("b", folder / "disk" / "out")
except TransientError as error:
    assert "No space left" in str(error), error
else:
    raise AssertionError("three megabytes went onto a disk of one")
assert [path.name for path in (folder / "disk").iterdir()] == ["store"]
"""


def test_a_full_disk_is_transient_and_leaves_the_old_object(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}/disk"
    if shutil.which("unshare") is None or subprocess.run([*enter, mount], check=False, capture_output=True).returncode:
        pytest.skip("a small file system of one's own cannot be mounted here (needs user namespaces)")
    script = f'{mount} && exec "{sys.executable}" -c "$0" {tmp_path}'
    command, root = [*enter, script, FILL_THE_DISK], Path(__file__).parents[2]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr


def test_missing_rights_are_permanent(tmp_path: Path) -> None:
    root = tmp_path / "store"
    put(root, tmp_path / "in", OLD)
    (tmp_path / "in").chmod(0o644)
    store = DirectoryStore(root)
    tmp_path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may everything; nobody may not enter the folder
    try:
        for call in (
            store.check,
            lambda: store.head("a/b.json"),
            lambda: list(store.list()) or store.check(),
        ):
            with pytest.raises(PermanentError, match=r"Permission denied; check the path and its permissions"):
                call()
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    store.check()


def test_a_root_that_is_a_file_is_permanent(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(PermanentError, match="check the path"):
        DirectoryStore(tmp_path / "store").check()


def test_a_key_cannot_be_the_folder_of_another(tmp_path: Path) -> None:
    root, source = tmp_path / "store", tmp_path / "in"
    put(root, source, OLD)
    store = DirectoryStore(root)
    for key in ("a", "a/b.json/c"):
        with pytest.raises(PermanentError, match="could not store"):
            store.upload(source, key)
        assert store.head(key) is None
        store.delete(key)
    assert [info.key for info in store.list()] == ["a/b.json"]
    store.verify("a/b.json")


def test_delete_leaves_no_empty_folders(tmp_path: Path) -> None:
    root, source = tmp_path / "store", tmp_path / "in"
    put(root, source, OLD)
    store = DirectoryStore(root)
    store.upload(source, "a/c/d")
    store.delete("a/c/d")
    assert [path.name for path in (root / "a").iterdir()] == ["b.json"]
    store.delete("a/b.json")
    assert [path.name for path in root.iterdir()] == [".store"]
    assert list((root / ".store" / "meta").iterdir()) == []


def test_a_file_put_there_by_hand_is_listed_but_not_trusted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    (tmp_path / "by-hand.csv").write_bytes(OLD)
    info = store.head("by-hand.csv")
    assert info is not None
    assert (info.size, info.sha256, info.content_type) == (len(OLD), None, None)
    assert [found.key for found in store.list()] == ["by-hand.csv"]
    for call in (lambda: store.verify("by-hand.csv"), lambda: store.download("by-hand.csv", tmp_path / "out")):
        with pytest.raises(IntegrityError, match="no stored SHA-256"):
            call()
    assert store.verify("by-hand.csv", hashlib.sha256(OLD).hexdigest()) == info


def test_an_upload_mends_what_was_damaged(tmp_path: Path) -> None:
    root, source = tmp_path / "store", tmp_path / "in"
    sha256 = put(root, source, OLD)
    (root / "a/b.json").write_bytes(OLD[:-1] + b"!")
    assert not DirectoryStore(root).upload(source, "a/b.json").skipped
    (side,) = (root / ".store" / "meta").iterdir()
    side.write_bytes(b"{ not json")
    with pytest.raises(IntegrityError, match="no stored SHA-256"):
        DirectoryStore(root).verify("a/b.json")
    assert put(root, source, OLD) == sha256
    assert DirectoryStore(root).verify("a/b.json").sha256 == sha256
