"""S3 against moto: it returns stored checksums, and accepts wrong ones, so that checking after the upload matters."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from coin_hts_pipelines.errors import IntegrityError
from coin_hts_pipelines.storage import S3Store, s3_client
from coin_hts_pipelines_tests.storage.test_s3 import MIB, alter_body, alter_checksum, in_parts

BUCKET = "bucket"


@pytest.fixture(scope="module")
def endpoint_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def client(endpoint_url: str) -> Iterator[Any]:
    client = s3_client(endpoint_url, "us-east-1", "key", "secret")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for row in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=row["Key"])
    client.delete_bucket(Bucket=BUCKET)


def test_the_server_has_the_checksum_computed_here(client: Any, tmp_path: Path) -> None:
    content = os.urandom(5 * MIB + 1)
    (tmp_path / "in").write_bytes(content)
    S3Store(client, BUCKET).upload(tmp_path / "in", "one")
    in_parts(client, BUCKET).upload(tmp_path / "in", "parts")
    one = client.head_object(Bucket=BUCKET, Key="one", ChecksumMode="ENABLED")
    assert one["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(content).digest()).decode()
    digests = hashlib.sha256(content[: 5 * MIB]).digest() + hashlib.sha256(content[5 * MIB :]).digest()
    parts = client.head_object(Bucket=BUCKET, Key="parts", ChecksumMode="ENABLED")
    assert parts["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(digests).digest()).decode()
    assert S3Store(client, BUCKET).upload(tmp_path / "in", "one").skipped
    assert in_parts(client, BUCKET).upload(tmp_path / "in", "parts").skipped


@pytest.mark.parametrize(
    ("event", "hook", "match"),
    [
        ("before-send.s3.PutObject", alter_body, "ETag"),
        ("before-call.s3.PutObject", alter_checksum, "stored checksum"),
    ],
    ids=["body altered in flight", "wrong checksum"],
)
def test_what_the_server_stored_wrongly_is_removed(
    client: Any, tmp_path: Path, event: str, hook: Any, match: str
) -> None:
    (tmp_path / "in").write_bytes(b"content")
    client.meta.events.register(event, hook)
    store = S3Store(client, BUCKET)
    with pytest.raises(IntegrityError, match=rf"stored wrongly \({match} .*has been removed; upload it again"):
        store.upload(tmp_path / "in", "a")
    assert store.head("a") is None
