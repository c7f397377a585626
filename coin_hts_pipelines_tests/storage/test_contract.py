"""What every object store promises, asked of each: a folder, and S3 as Swift speaks it over TLS."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coin_hts_pipelines.errors import IntegrityError, InvalidRequest, PermanentError
from coin_hts_pipelines.storage import ObjectStore
from coin_hts_pipelines_tests.storage.conftest import Shelf

BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "a//b",
    "a/",
    ".",
    "..",
    "../a",
    "a/../../b",
    "a/./b",
    "a\\b",
    "a\nb",
    "a\0b",
    "\udce4",
    "a\x7fb",
    ".store/lock",
    "x" * 256,
    "/".join(["x" * 200] * 5),
]


def file_with(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(300_000)], ids=["empty", "one byte", "300 kB"])
def test_what_is_uploaded_comes_back(store: ObjectStore, tmp_path: Path, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    metadata = {"result-digest": "ab12", "symbol": "KRW-BTC", "note": "a b, c=d; e"}
    started = datetime.now(UTC)
    outcome = store.upload(file_with(tmp_path / "in", content), "a/b/trades.parquet", metadata=metadata)
    assert not outcome.skipped
    info = store.head("a/b/trades.parquet")
    assert info == outcome.info
    assert (info.key, info.size, info.sha256) == ("a/b/trades.parquet", len(content), sha256)
    assert info.metadata == metadata
    assert info.content_type == "application/vnd.apache.parquet"
    assert info.modified.tzinfo == UTC
    assert abs(info.modified - started) < timedelta(minutes=5)
    assert store.verify(info.key) == info
    assert store.verify(info.key, sha256.upper()) == info
    target = tmp_path / "new" / "folder" / "out"
    assert store.download(info.key, target) == info
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("key", "content_type"),
    [
        ("a.parquet", "application/vnd.apache.parquet"),
        ("a.b/c.JSON", "application/json"),
        ("report.html", "text/html"),
        ("t.csv", "text/csv"),
        ("noextension", "application/octet-stream"),
    ],
)
def test_content_type_is_guessed_from_the_suffix(
    store: ObjectStore, tmp_path: Path, key: str, content_type: str
) -> None:
    assert store.upload(file_with(tmp_path / "in", b"1"), key).info.content_type == content_type
    given = store.upload(file_with(tmp_path / "in", b"2"), key, content_type="text/x-mine")
    assert given.info.content_type == "text/x-mine"


@pytest.mark.parametrize("key", ["한글/코인 +&%=?#.json", "a..b", ".hidden/x", "a b/ c ", "~", "x" * 255])
def test_unusual_keys_are_kept_as_they_are(store: ObjectStore, tmp_path: Path, key: str) -> None:
    store.upload(file_with(tmp_path / "in", b"content"), key)
    assert [info.key for info in store.list()] == [key]
    assert store.download(key, tmp_path / "out").key == key
    store.delete(key)
    assert list(store.list()) == []


@pytest.mark.parametrize("key", BAD_KEYS)
def test_bad_keys_are_refused_everywhere(store: ObjectStore, tmp_path: Path, key: str) -> None:
    source = file_with(tmp_path / "in", b"content")
    calls = [
        lambda: store.upload(source, key),
        lambda: store.download(key, tmp_path / "out"),
        lambda: store.delete(key),
        lambda: store.head(key),
        lambda: store.verify(key),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match=r"object key .* is not valid"):
            call()
    if key not in {"", "a/"}:
        with pytest.raises(InvalidRequest, match=r"object key .* is not valid"):
            list(store.list(key))


@pytest.mark.parametrize(
    "metadata",
    [
        {"Upper": "x"},
        {"under_score": "x"},
        {"": "x"},
        {"sha256": "x"},
        {"a": ""},
        {"a": " x"},
        {"a": "x\r\nInjected: y"},
        {"a": "한글"},
        {"a": "x" * 2000},
    ],
)
def test_metadata_that_headers_do_not_keep_is_refused(
    store: ObjectStore, tmp_path: Path, metadata: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest, match="metadata"):
        store.upload(file_with(tmp_path / "in", b"content"), "a", metadata=metadata)
    assert store.head("a") is None


def test_as_much_metadata_as_is_accepted_is_kept(store: ObjectStore, tmp_path: Path) -> None:
    metadata = {f"k{number}": "v" * 140 for number in range(10)} | {"long": "x" * 400}
    store.upload(file_with(tmp_path / "in", b"content"), "a", metadata=metadata)
    info = store.head("a")
    assert info is not None
    assert info.metadata == metadata


def test_an_upload_replaces_the_object_and_all_that_is_known_of_it(store: ObjectStore, tmp_path: Path) -> None:
    store.upload(file_with(tmp_path / "in", b"old content"), "a.json", metadata={"one": "1"})
    outcome = store.upload(file_with(tmp_path / "in", b"new"), "a.json", metadata={"two": "2"})
    assert not outcome.skipped
    assert outcome.info.metadata == {"two": "2"}
    assert store.verify("a.json").sha256 == hashlib.sha256(b"new").hexdigest()
    assert [info.size for info in store.list()] == [3]


def test_equal_bytes_are_not_uploaded_again(store: ObjectStore, tmp_path: Path) -> None:
    first = store.upload(file_with(tmp_path / "one", b"content"), "a", metadata={"run": "1"})
    again = store.upload(file_with(tmp_path / "two", b"content"), "a", metadata={"run": "2"})
    assert again.skipped
    assert again.info == first.info == store.head("a")


def test_delete_is_done_when_the_object_is_gone(store: ObjectStore, tmp_path: Path) -> None:
    store.delete("a/b/c")
    for key in ("a/b/c", "a/d"):
        store.upload(file_with(tmp_path / "in", b"content"), key)
    store.delete("a/b/c")
    assert store.head("a/b/c") is None
    store.delete("a/b/c")
    assert [info.key for info in store.list()] == ["a/d"]
    assert not store.upload(file_with(tmp_path / "in", b"content"), "a/b/c").skipped


def test_list_goes_by_the_beginning_of_the_key_and_is_sorted(store: ObjectStore, tmp_path: Path) -> None:
    assert list(store.list()) == []
    keys = ["b/1", "a/KRW-BTC/2", "a/KRW-BTC/1", "a/KRW-ETH/1", "a-b", "c", "a/KRW"]
    for key in keys:
        store.upload(file_with(tmp_path / "in", key.encode()), key)
    listed = list(store.list())
    assert [info.key for info in listed] == sorted(keys)
    assert {info.modified.tzinfo for info in listed} == {UTC}
    assert [info.size for info in listed] == [len(key) for key in sorted(keys)]
    heads = [store.head(key) for key in sorted(keys)]
    assert all(
        abs(info.modified - head.modified) < timedelta(seconds=2) for info, head in zip(listed, heads, strict=True)
    )
    for prefix, expected in {
        "a/": ["a/KRW", "a/KRW-BTC/1", "a/KRW-BTC/2", "a/KRW-ETH/1"],
        "a/KRW-": ["a/KRW-BTC/1", "a/KRW-BTC/2", "a/KRW-ETH/1"],
        "a/KRW-BTC/": ["a/KRW-BTC/1", "a/KRW-BTC/2"],
        "a": ["a-b", "a/KRW", "a/KRW-BTC/1", "a/KRW-BTC/2", "a/KRW-ETH/1"],
        "c": ["c"],
        "c/": [],
        "nothing": [],
    }.items():
        assert [info.key for info in store.list(prefix)] == expected, prefix


def test_an_absent_object_is_none_or_a_clear_error(store: ObjectStore, tmp_path: Path) -> None:
    target = file_with(tmp_path / "out", b"mine")
    assert store.head("a/b") is None
    for call in (lambda: store.download("a/b", target), lambda: store.verify("a/b")):
        with pytest.raises(PermanentError, match=r"a/b.*check the key") as caught:
            call()
        assert not isinstance(caught.value, IntegrityError)
    assert target.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]


def test_a_source_that_cannot_be_read_is_a_clear_error(store: ObjectStore, tmp_path: Path) -> None:
    for source in (tmp_path / "nothing", tmp_path):
        with pytest.raises(PermanentError, match=f"could not read {source}"):
            store.upload(source, "a")
    assert list(store.list()) == []


def test_a_target_that_cannot_be_written_is_a_clear_error(store: ObjectStore, tmp_path: Path) -> None:
    store.upload(file_with(tmp_path / "in", b"content"), "a")
    with pytest.raises(PermanentError, match="check the path"):
        store.download("a", tmp_path / "in" / "below a file")


def test_verify_compares_with_the_digest_it_is_given(store: ObjectStore, tmp_path: Path) -> None:
    store.upload(file_with(tmp_path / "in", b"content"), "a")
    with pytest.raises(IntegrityError, match="is damaged"):
        store.verify("a", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(InvalidRequest, match="64 hex digits"):
        store.verify("a", "abc")


@pytest.mark.parametrize("reading", ["verify", "download"])
def test_a_byte_flipped_on_the_disk_is_found(shelf: Shelf, tmp_path: Path, reading: str) -> None:
    content = os.urandom(100_000)
    shelf.store.upload(file_with(tmp_path / "in", content), "a.parquet")
    shelf.damage(content)
    target = file_with(tmp_path / "out", b"mine")
    calls = {
        "verify": lambda: shelf.store.verify("a.parquet"),
        "download": lambda: shelf.store.download("a.parquet", target),
    }
    with pytest.raises(IntegrityError, match=r"a\.parquet is damaged"):
        calls[reading]()
    assert target.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]
    assert not list(tmp_path.glob("*.part"))


def test_check_passes_and_leaves_nothing(store: ObjectStore) -> None:
    store.check()
    assert list(store.list()) == []
    assert store.url.startswith(("file:///", "s3://bucket-"))
