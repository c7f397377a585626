"""What a server may answer, one answer after the other from a real HTTP server on loopback."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import boto3
import pytest
from botocore.config import Config

from coin_hts_pipelines.errors import IntegrityError, PermanentError, TransientError
from coin_hts_pipelines.storage import S3Store, s3_client

SECRET = "s3cr3t-of-no-one"
CONTENT = b"content"
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
CHECKSUM = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
WRONG_CHECKSUM = base64.b64encode(hashlib.sha256(b"other").digest()).decode()


class Answering(ThreadingHTTPServer):
    """Answers every request with the same bytes (`None` waits, an empty answer hangs up), or by its method."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: bytes | None = b""
        self.by_method: dict[str, bytes] = {}
        self.methods: list[str] = []
        self.ended = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def handle_one_request(self) -> None:
        line, length = self.rfile.readline(), 0
        while header := self.rfile.readline().strip().lower():
            if header.startswith(b"content-length:"):
                length = int(header.partition(b":")[2])
            if header == b"expect: 100-continue":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.rfile.read(length)
        if line:
            self.server.methods.append(line.split()[0].decode())
            method = self.server.methods[-1]
            if method in self.server.by_method:
                self.wfile.write(self.server.by_method[method])
            elif self.server.answer is None:
                self.server.ended.wait()
            elif line.startswith(b"HEAD "):
                self.wfile.write(self.server.answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            elif not line.startswith(b"GET ") and self.server.answer.startswith(b"HTTP/1.1 200"):
                self.wfile.write(said(200, b""))
            else:
                self.wfile.write(self.server.answer)
        self.close_connection = True


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with Answering() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def store(server: Answering) -> S3Store:
    server.by_method = {}
    return S3Store(s3_client(server.url, "us-east-1", "key", SECRET, max_attempts=1), "bucket")


def said(status: int, content: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", "Connection: close", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def ok(content: bytes, *headers: str, etag: str = MD5, sha256: str = SHA256) -> bytes:
    about = [f'ETag: "{etag}"', "Last-Modified: Sat, 21 Nov 2026 09:47:10 GMT", *headers]
    return said(200, content, *about, *([f"x-amz-meta-sha256: {sha256}"] if sha256 else []))


def xml(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>words of the server</Message></Error>".encode()
    # The region: botocore asks for it by HEAD when it is sent elsewhere, and would ask forever without an answer.
    return said(status, body, "x-amz-bucket-region: eu-west-1")


@pytest.mark.parametrize(
    ("status", "code", "kind", "match"),
    [
        (500, "InternalError", TransientError, "busy or failing"),
        (502, "BadGateway", TransientError, "busy or failing"),
        (503, "SlowDown", TransientError, "busy or failing"),
        (503, "ServiceUnavailable", TransientError, "busy or failing"),
        (429, "TooManyRequests", TransientError, "busy or failing"),
        (400, "RequestTimeout", TransientError, "busy or failing"),
        (409, "OperationAborted", TransientError, "busy or failing"),
        (400, "BadDigest", TransientError, "not what was sent"),
        (400, "XAmzContentSHA256Mismatch", TransientError, "not what was sent"),
        (403, "AccessDenied", PermanentError, "access is denied; check AWS_ACCESS_KEY_ID"),
        (403, "SomethingElse", PermanentError, "access is denied"),
        (403, "RequestTimeTooSkewed", PermanentError, "the clock of this machine is off"),
        (403, "InvalidAccessKeyId", PermanentError, "check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", PermanentError, "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", PermanentError, "AWS_SESSION_TOKEN"),
        (404, "NoSuchBucket", PermanentError, "check COIN_HTS_S3_BUCKET"),
        (400, "AuthorizationHeaderMalformed", PermanentError, "check COIN_HTS_S3_REGION"),
        (301, "PermanentRedirect", PermanentError, "check COIN_HTS_S3_REGION"),
        (501, "NotImplemented", PermanentError, "words of the server"),
        (400, "InvalidArgument", PermanentError, "words of the server"),
    ],
)
def test_answers_are_classed(
    server: Answering, store: S3Store, status: int, code: str, kind: type[Exception], match: str
) -> None:
    server.answer = xml(status, code)
    for call in (store.check, lambda: store.verify("a"), lambda: list(store.list()), lambda: store.delete("a")):
        with pytest.raises(kind, match=match) as caught:
            call()
        assert type(caught.value) is kind
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [b"", b"no HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<half", ok(b"<html>a web page")],
    ids=["hangs up", "no HTTP", "half an answer", "a web page"],
)
def test_broken_answers_are_transient(server: Answering, store: S3Store, answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(TransientError, match="could not read s3://bucket"):
        store.check()


def test_half_an_object_never_becomes_a_file(server: Answering, store: S3Store, tmp_path: Path) -> None:
    server.answer = ok(CONTENT)[:-1]
    with pytest.raises(TransientError, match="connection to http://127"):
        store.download("a", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bytes_without_the_stored_checksum_are_not_given_out(server: Answering, store: S3Store, tmp_path: Path) -> None:
    server.answer = ok(CONTENT, f"x-amz-checksum-sha256: {CHECKSUM}")
    store.download("a", tmp_path / "out")
    server.answer = ok(CONTENT, f"x-amz-checksum-sha256: {WRONG_CHECKSUM}")
    with pytest.raises(IntegrityError, match="do not have the checksum stored with them"):
        store.download("a", tmp_path / "wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (lambda: ok(CONTENT, etag="0" * 32), "ETag"),
        (lambda: ok(CONTENT, etag="0" * 32, sha256=""), "sha256 metadata None.*ETag"),
        (lambda: ok(CONTENT + b"!"), "size 8, expected 7"),
    ],
)
def test_what_the_server_stored_wrongly_is_removed(
    server: Answering, store: S3Store, tmp_path: Path, answer: Callable[[], bytes], wrong: str
) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    server.answer, server.methods = answer(), []
    with pytest.raises(IntegrityError, match=rf"stored wrongly \({wrong}.*has been removed; upload it again"):
        store.upload(tmp_path / "in", "a")
    assert server.methods == ["HEAD", "PUT", "HEAD", "DELETE"]


def test_an_object_stored_wrongly_that_cannot_be_removed_is_told(
    server: Answering, store: S3Store, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    server.answer, server.by_method = ok(CONTENT, etag="0" * 32), {"DELETE": xml(403, "AccessDenied")}
    with pytest.raises(IntegrityError, match=r"stored wrongly .ETag.* and is still there: .*access is denied"):
        store.upload(tmp_path / "in", "a")


def test_a_refusal_of_head_alone_is_told(server: Answering, store: S3Store) -> None:
    server.answer, server.by_method = xml(403, "AccessDenied"), {"GET": ok(b"<ListBucketResult/>")}
    with pytest.raises(PermanentError, match="access is denied"):
        store.head("a")


def test_the_etag_of_an_object_encrypted_with_kms_is_not_its_md5(
    server: Answering, store: S3Store, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    server.answer = ok(CONTENT, "x-amz-server-side-encryption: aws:kms", etag="0" * 32)
    assert store.upload(tmp_path / "in", "a").skipped


def test_a_server_that_does_not_answer_is_transient(server: Answering) -> None:
    server.answer = None
    config = Config(read_timeout=0.1, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    client = boto3.client(
        "s3", endpoint_url=server.url, region_name="x", aws_access_key_id="k", aws_secret_access_key="s", config=config
    )
    with pytest.raises(TransientError, match="ReadTimeoutError"):
        S3Store(client, "bucket").check()


def test_a_server_that_is_not_there_is_transient() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = s3_client(url, "us-east-1", "key", SECRET, max_attempts=1)
        with pytest.raises(TransientError, match=f"connection to {url}.*COIN_HTS_S3_ENDPOINT_URL"):
            S3Store(client, "bucket").check()


def test_a_busy_server_is_asked_again(server: Answering) -> None:
    server.answer, server.methods = xml(503, "SlowDown"), []
    client = s3_client(server.url, "us-east-1", "key", SECRET, max_attempts=2)
    with pytest.raises(TransientError):
        list(S3Store(client, "bucket").list())
    assert server.methods == ["GET", "GET"]
