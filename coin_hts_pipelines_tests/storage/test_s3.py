"""S3 against Swift over TLS: access, integrity, multipart, and a server that dies or is not there."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.errors import CoinHtsError, IntegrityError, InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.storage import S3Store, s3_client, s3_digests
from coin_hts_pipelines_tests.swift import ADMIN, READER, REGION, SwiftServer, running_swift

MIB = 1 << 20
OLD = b"the old content"


@pytest.fixture
def bucket(swift: SwiftServer) -> str:
    return swift.new_bucket()


@pytest.fixture
def own_swift(tmp_path: Path) -> Iterator[SwiftServer]:
    """Run a server that the test may kill."""
    folder = tmp_path / "swift"
    folder.mkdir()
    yield from running_swift(folder)


def file_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@contextmanager
def failing(kind: type[CoinHtsError], match: str, *secrets: str) -> Iterator[None]:
    """Expect an error of exactly this class, whose whole traceback holds no secret and whose text names no key."""
    with pytest.raises(kind, match=match) as caught:
        yield
    assert type(caught.value) is kind
    told = "".join(traceback.format_exception(caught.value))
    for secret in secrets:
        assert secret not in told
    assert ADMIN not in str(caught.value)
    assert READER not in str(caught.value)


def every_call(store: S3Store, folder: Path) -> dict[str, Any]:
    source = file_of(folder / "in", OLD)
    return {
        "check": store.check,
        "upload": lambda: store.upload(source, "a"),
        "download": lambda: store.download("a", folder / "out"),
        "delete": lambda: store.delete("a"),
        "list": lambda: list(store.list()),
        "head": lambda: store.head("a"),
        "verify": lambda: store.verify("a"),
    }


@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("wrong secret", "SignatureDoesNotMatch.*the secret is not that of the access key.*AWS_SECRET_ACCESS_KEY"),
        ("unknown key", "SignatureDoesNotMatch.*check AWS_ACCESS_KEY_ID and"),
        ("user without rights", "AccessDenied.*access is denied.*COIN_HTS_S3_BUCKET"),
        ("missing bucket", "the bucket does not exist; check COIN_HTS_S3_BUCKET"),
    ],
)
def test_every_call_names_the_setting_that_is_wrong(
    swift: SwiftServer, bucket: str, tmp_path: Path, case: str, match: str
) -> None:
    wrong = "a-wrong-secret-7f3a"
    client = {
        "wrong secret": lambda: swift.client(secret=wrong),
        "unknown key": lambda: swift.client("test:nobody"),
        "user without rights": lambda: swift.client(READER),
        "missing bucket": lambda: swift.admin,
    }[case]()
    S3Store(swift.admin, bucket).upload(file_of(tmp_path / "in", OLD), "a")
    store = S3Store(client, f"{bucket}-missing" if case == "missing bucket" else bucket)
    for name, call in every_call(store, tmp_path).items():
        with failing(PermanentError, match, swift.secret, wrong):
            call()
            pytest.fail(f"{name} passed")
    assert S3Store(swift.admin, bucket).verify("a").size == len(OLD)
    assert not (tmp_path / "out").exists()


def test_no_credentials_at_all(swift: SwiftServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = s3_client(swift.endpoint_url, REGION, verify=str(swift.certificate))
    with failing(PermanentError, "there are no credentials.*set AWS_ACCESS_KEY_ID"):
        S3Store(client, bucket).check()


def test_an_untrusted_certificate_is_permanent(swift: SwiftServer, bucket: str) -> None:
    client = s3_client(swift.endpoint_url, REGION, ADMIN, swift.secret, max_attempts=1)
    with failing(PermanentError, "certificate of https://127.0.0.1:[0-9]+ is not trusted", swift.secret):
        S3Store(client, bucket).check()


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "ftp://host", "https://", "https://user:word@host"])
def test_an_endpoint_that_is_no_plain_url_is_refused(url: str) -> None:
    with failing(InvalidRequest, "COIN_HTS_S3_ENDPOINT_URL", "word@"):
        s3_client(url, REGION, "key", "secret")


def test_bad_settings_of_a_store_are_refused(swift: SwiftServer) -> None:
    for settings in ({"part_size": 5 * MIB - 1}, {"multipart_threshold": 0}, {"page_size": 0}, {"page_size": 1001}):
        with failing(InvalidRequest, "is not valid"):
            S3Store(swift.admin, "bucket", **settings)
    with failing(InvalidRequest, "is not valid"):
        S3Store(swift.admin, "bucket", "a/../b")
    with failing(PermanentError, "COIN_HTS_S3_BUCKET"):
        S3Store(swift.admin, "not a bucket!").check()


def alter_body(request: Any, **_: Any) -> None:
    """Change the first byte of a body that is signed and on its way."""
    content = request.body if isinstance(request.body, bytes) else request.body.read()
    request.body = bytes([content[0] ^ 1]) + content[1:]


def alter_checksum(params: Any, **_: Any) -> None:
    """Send the checksum of other bytes, before the request is signed."""
    params["headers"]["x-amz-checksum-sha256"] = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="


@pytest.mark.parametrize(
    ("event", "hook"),
    [("before-send.s3.PutObject", alter_body), ("before-call.s3.PutObject", alter_checksum)],
    ids=["body altered in flight", "wrong checksum"],
)
def test_bytes_that_are_not_those_announced_are_refused(
    swift: SwiftServer, bucket: str, tmp_path: Path, event: str, hook: Any
) -> None:
    S3Store(swift.admin, bucket).upload(file_of(tmp_path / "in", OLD), "a")
    client = swift.client()
    client.meta.events.register(event, hook)
    with failing(TransientError, "what arrived is not what was sent.*try again", swift.secret):
        S3Store(client, bucket).upload(file_of(tmp_path / "in", b"new"), "a")
    assert S3Store(swift.admin, bucket).verify("a").size == len(OLD)


def test_a_source_that_changes_while_it_is_uploaded_is_not_stored(
    swift: SwiftServer, bucket: str, tmp_path: Path
) -> None:
    source, client = file_of(tmp_path / "in", b"0123456789"), swift.client()

    def change(**_: Any) -> None:
        source.write_bytes(b"9876543210")

    client.meta.events.register("before-call.s3.HeadObject", change)
    with failing(TransientError, "the file changed meanwhile", swift.secret):
        S3Store(client, bucket).upload(source, "a")
    assert S3Store(swift.admin, bucket).head("a") is None


def test_another_writer_right_after_an_upload_keeps_its_object(swift: SwiftServer, bucket: str, tmp_path: Path) -> None:
    client, other = swift.client(), S3Store(swift.admin, bucket)
    theirs = file_of(tmp_path / "theirs", b"theirs")
    client.meta.events.register("after-call.s3.PutObject", lambda **_: other.upload(theirs, "a"))
    with failing(TransientError, "by another writer", swift.secret):
        S3Store(client, bucket).upload(file_of(tmp_path / "in", b"mine"), "a")
    assert other.verify("a").sha256 == hashlib.sha256(b"theirs").hexdigest()


def test_a_store_sees_only_what_is_below_its_prefix(swift: SwiftServer, bucket: str, tmp_path: Path) -> None:
    source = file_of(tmp_path / "in", OLD)
    whole, part = S3Store(swift.admin, bucket), S3Store(swift.admin, bucket, "/exports/")
    assert (whole.url, part.url) == (f"s3://{bucket}", f"s3://{bucket}/exports")
    part.upload(source, "a")
    whole.upload(source, "exports-of-others/a")
    swift.admin.put_object(Bucket=bucket, Key="exports/folder/", Body=b"")
    assert [info.key for info in part.list()] == ["a"]
    assert [info.key for info in whole.list()] == ["exports-of-others/a", "exports/a"]


def test_an_object_of_another_program_is_listed_but_not_trusted(
    swift: SwiftServer, bucket: str, tmp_path: Path
) -> None:
    swift.admin.put_object(Bucket=bucket, Key="a", Body=OLD)
    store = S3Store(swift.admin, bucket)
    for call in (lambda: store.verify("a"), lambda: store.download("a", tmp_path / "out")):
        with failing(IntegrityError, "no stored SHA-256"):
            call()
    assert store.verify("a", hashlib.sha256(OLD).hexdigest()).size == len(OLD)
    assert not store.upload(file_of(tmp_path / "in", OLD), "a").skipped
    assert store.verify("a").sha256 == hashlib.sha256(OLD).hexdigest()


def test_listing_asks_for_one_page_after_the_other(swift: SwiftServer, bucket: str, tmp_path: Path) -> None:
    for number in range(5):
        swift.admin.put_object(Bucket=bucket, Key=f"{number}", Body=b"x")
    client, pages = swift.client(), []
    client.meta.events.register("after-call.s3.ListObjectsV2", lambda parsed, **_: pages.append(parsed["KeyCount"]))
    listing = S3Store(client, bucket, page_size=2).list()
    assert next(listing).key == "0"
    assert pages == [2]
    assert [info.key for info in listing] == ["1", "2", "3", "4"]
    assert pages == [2, 2, 1]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return file_of(tmp_path / "large", os.urandom(11 * MIB))


def in_parts(client: Any, bucket: str) -> S3Store:
    return S3Store(client, bucket, multipart_threshold=5 * MIB, part_size=5 * MIB)


def test_multipart_objects_are_verified_and_skipped_by_the_etag_of_their_parts(
    swift: SwiftServer, bucket: str, large: Path, tmp_path: Path
) -> None:
    client, sent = swift.client(), []
    for name in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-call.s3.{name}", lambda model, **_: sent.append(model.name))
    store = in_parts(client, bucket)
    outcome = store.upload(large, "a", metadata={"k": "v"})
    assert sent == ["UploadPart"] * 3
    content = large.read_bytes()
    md5s = [hashlib.md5(content[start : start + 5 * MIB]).digest() for start in range(0, len(content), 5 * MIB)]
    assert outcome.info.etag == f"{hashlib.md5(b''.join(md5s)).hexdigest()}-3"
    assert outcome.info.metadata == {"k": "v"}
    assert outcome.info.size == 11 * MIB
    assert store.upload(large, "a").skipped
    assert sent == ["UploadPart"] * 3
    store.download("a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    small = store.upload(file_of(tmp_path / "in", bytes(5 * MIB - 1)), "b")
    assert small.info.etag == hashlib.md5(bytes(5 * MIB - 1)).hexdigest()
    assert store.upload(file_of(tmp_path / "in", bytes(5 * MIB)), "c").info.etag.endswith("-1")


def test_a_multipart_upload_that_fails_leaves_nothing_behind(swift: SwiftServer, bucket: str, large: Path) -> None:
    client, parts = swift.client(), []

    def alter_the_second(request: Any, **_: Any) -> None:
        parts.append(len(swift.admin.list_multipart_uploads(Bucket=bucket).get("Uploads", [])))
        if len(parts) == 2:
            alter_body(request)

    client.meta.events.register("before-send.s3.UploadPart", alter_the_second)
    with failing(TransientError, "what arrived is not what was sent", swift.secret):
        in_parts(client, bucket).upload(large, "a")
    assert parts == [1, 1]
    assert "Uploads" not in swift.admin.list_multipart_uploads(Bucket=bucket)
    assert in_parts(swift.admin, bucket).head("a") is None


def test_a_file_of_too_many_parts_is_refused(
    swift: SwiftServer, bucket: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_digests, "MAX_PARTS", 2)
    with failing(InvalidRequest, "has 3 parts; S3 takes 2, raise part_size"):
        in_parts(swift.admin, bucket).upload(large, "a")


def test_check_leaves_no_upload_behind(swift: SwiftServer, bucket: str) -> None:
    S3Store(swift.admin, bucket).check()
    assert "Uploads" not in swift.admin.list_multipart_uploads(Bucket=bucket)
    assert list(S3Store(swift.admin, bucket).list()) == []


class KillingBody:
    """A request body in the midst of which the server dies."""

    def __init__(self, body: Any, server: SwiftServer) -> None:
        self.body, self.server, self.sent = body, server, 0

    def read(self, size: int = -1) -> bytes:
        if self.sent > MIB:
            self.server.kill()
        block: bytes = self.body.read(size)
        self.sent += len(block)
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.body.seek(offset, whence))

    def tell(self) -> int:
        return int(self.body.tell())


@pytest.mark.parametrize("store_of", [S3Store, in_parts], ids=["in one piece", "in parts"])
def test_a_server_killed_in_mid_upload_keeps_the_old_object(
    own_swift: SwiftServer, large: Path, tmp_path: Path, store_of: Any
) -> None:
    bucket, client = own_swift.new_bucket(), own_swift.client(max_attempts=2)
    store_of(client, bucket).upload(file_of(tmp_path / "in", OLD), "a")
    killers = []

    def kill(request: Any, **_: Any) -> None:
        killers.append(KillingBody(request.body, own_swift))
        request.body = killers[-1]

    client.meta.events.register("before-send.s3.PutObject", kill)
    client.meta.events.register("before-send.s3.UploadPart", kill)
    with failing(TransientError, "connection to https://127.0.0.1:", own_swift.secret):
        store_of(client, bucket).upload(large, "a")
    assert killers[0].sent > MIB
    for name, call in every_call(store_of(client, bucket), tmp_path).items():
        with failing(TransientError, "check that it runs and COIN_HTS_S3_ENDPOINT_URL", own_swift.secret):
            call()
            pytest.fail(f"{name} passed without a server")
    own_swift.start()
    store = store_of(own_swift.admin, bucket)
    assert store.verify("a").sha256 == hashlib.sha256(OLD).hexdigest()
    assert [info.key for info in store.list()] == ["a"]
    assert not store.upload(large, "a").skipped
    assert store.verify("a").size == 11 * MIB
