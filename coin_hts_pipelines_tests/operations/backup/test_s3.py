"""Backups in a bucket, by a server that speaks S3."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from coin_hts_pipelines import IntegrityError, TransientError
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.operations.backup import (
    DirectoryTarget,
    Keep,
    S3Target,
    Target,
    create_backup,
    list_all,
    list_backups,
    open_target,
    prune_backups,
    restore_backup,
    verify_backup,
)
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage import s3_client
from coin_hts_pipelines_tests.operations.backup.helpers import SYMBOLS, House, holds

BUCKET = f"bucket-{secrets.token_hex(4)}"


@pytest.fixture
def server() -> Iterator[ThreadedMotoServer]:
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def settings(house: House, server: ThreadedMotoServer) -> Settings:
    host, port = server.get_host_and_port()
    return Settings(
        home=house.home,
        data_root="data",
        backup_store="s3",
        s3_bucket=BUCKET,
        s3_prefix="house",
        s3_endpoint_url=f"http://{host}:{port}",
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )


@pytest.fixture
def client(settings: Settings) -> Any:
    made = s3_client(settings.s3_endpoint_url, "us-east-1", "key", "secret")
    made.create_bucket(Bucket=BUCKET)
    for key in keys(made):  # its servers share their memory
        made.delete_object(Bucket=BUCKET, Key=key)
    return made


@pytest.fixture
def target(settings: Settings, client: Any) -> Target:
    return open_target(settings)


def keys(client: Any) -> set[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {row["Key"] for page in pages for row in page.get("Contents", [])}


def test_there_and_back(house: House, empty: House, settings: Settings, client: Any, target: Target) -> None:
    client.put_object(Bucket=BUCKET, Key="house/backtests/export", Body=b"not a backup")
    first = create_backup(settings, house.database, target)
    assert isinstance(target, S3Target)
    assert keys(client) == {
        "house/backtests/export",
        f"house/backups/{first.id}.json",
        *(f"house/backups/{key}" for key in first.objects),
    }
    assert holds(first) == house.files()
    house.merge(SYMBOLS[0], seed=5)
    second = create_backup(settings, house.database, target)
    assert second.new_bytes < first.new_bytes
    assert list_backups(target) == [second, first]
    assert verify_backup(target, second) == []
    empty.database.dispose()
    restore_backup(target, second, empty.root, empty.url)
    assert empty.files() == holds(second)
    prune_backups(target, Keep(1, 0, 0))
    assert list_backups(target) == [second]
    assert keys(client) == {
        "house/backtests/export",
        f"house/backups/{second.id}.json",
        *(f"house/backups/{key}" for key in second.objects),
    }
    assert not (house.root / ".backup").exists()


def test_a_damaged_byte(house: House, empty: House, settings: Settings, client: Any, target: Target) -> None:
    made = create_backup(settings, house.database, target)
    entry = made.files[0]
    key = f"house/backups/{entry.key}"
    found = client.get_object(Bucket=BUCKET, Key=key)
    body = bytearray(found["Body"].read())
    body[0] ^= 1
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(body), Metadata=found["Metadata"])
    with pytest.raises(IntegrityError, match="damaged"):
        restore_backup(target, made, empty.root, empty.url)
    assert empty.files() == {}
    assert empty.rows() == {}
    assert list_backups(target) == [], "it was set aside"
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(body), Metadata=found["Metadata"])
    (problem,) = verify_backup(target, made)
    assert entry.path in problem
    second = create_backup(settings, house.database, target)
    assert verify_backup(target, second) == []
    empty.database.dispose()
    restore_backup(target, second, empty.root, empty.url)
    assert empty.files() == holds(second)


def test_bytes_of_another_object(house: House, empty: House, settings: Settings, client: Any, target: Target) -> None:
    made = create_backup(settings, house.database, target)
    one, other = made.files[0], next(entry for entry in made.files if entry.sha256 != made.files[0].sha256)
    client.copy_object(Bucket=BUCKET, Key=f"house/backups/{one.key}", CopySource=f"{BUCKET}/house/backups/{other.key}")
    with pytest.raises(IntegrityError, match="damaged"):
        restore_backup(target, made, empty.root, empty.url)


def test_the_store_is_down(house: House, empty: House, settings: Settings, target: Target) -> None:
    made = create_backup(settings, house.database, target)
    dead = settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(TransientError):
        create_backup(dead, house.database, open_target(dead))
    with pytest.raises(TransientError):
        restore_backup(open_target(dead), made, empty.root, empty.url)
    with pytest.raises(TransientError):
        verify_backup(open_target(dead), made)
    assert empty.files() == {}
    assert list_backups(target) == [made]


def test_the_store_goes_down_in_the_middle(
    house: House, settings: Settings, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = create_backup(settings, house.database, target)
    house.publish(SYMBOLS[0], 90)
    dead = open_target(settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"}))
    real, count = S3Target.store, 0

    def store(self, path, key):
        nonlocal count
        count += 1
        real(self if count < 3 else dead, path, key)

    with monkeypatch.context() as patched:
        patched.setattr(S3Target, "store", store)
        with pytest.raises(TransientError):
            create_backup(settings, house.database, target)
    assert list_backups(target) == [good]
    assert [one.unfinished for one in list_all(target)] == [True, False]
    assert verify_backup(target, good) == []
    assert holds(create_backup(settings, house.database, target)) == house.files()


def test_the_target_of_the_settings(house: House) -> None:
    assert isinstance(open_target(house.settings), DirectoryTarget)
    assert open_target(house.settings).url == (house.home / "backups").as_uri()
    with pytest.raises(InvalidRequest, match="COIN_HTS_S3_BUCKET"):
        open_target(house.settings.model_copy(update={"backup_store": "s3"}))
