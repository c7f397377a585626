"""The bucket: what it is given by a store that can (moto), by one that cannot (Swift), and what its users may do."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from coin_hts_pipelines.defs.exports import export_key
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.operations.bucket import bootstrap, least_policy, lifecycle_rules
from coin_hts_pipelines.storage import S3Store, s3_client
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.swift import SwiftServer, require_swift, swift

__all__ = ["swift"]

PREFIX = "house/"
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
}
THEIRS: list[dict[str, Any]] = [
    {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}},
    {"ID": "not-coin-hts-", "Status": "Disabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 9}},
]


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
def client(endpoint_url: str) -> Any:
    return s3_client(endpoint_url, "us-east-1", "key", "secret", max_attempts=1)


@pytest.fixture
def bucket(client: Any) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return name


def rules_of(client: Any, bucket: str) -> list[dict[str, Any]]:
    try:
        rules: list[dict[str, Any]] = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError:
        return []
    return sorted(rules, key=lambda rule: rule["ID"])


def states(steps: Any) -> dict[str, str]:
    return {step.name: step.state for step in steps}


def calls_of(client: Any) -> list[str]:
    """Operations asked of the server from now on."""
    names: list[str] = []
    client.meta.events.register("before-call.s3", lambda model, **_: names.append(model.name))
    return names


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_versions_and_rules_are_set_once(client: Any, bucket: str, prefix: str) -> None:
    assert states(bootstrap(client, bucket, prefix)) == {"versioning": "done", "lifecycle": "done"}
    assert client.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    rules = rules_of(client, bucket)
    assert [rule["ID"] for rule in rules] == sorted(rule["ID"] for rule in lifecycle_rules(prefix))
    asked = calls_of(client)
    assert states(bootstrap(client, bucket, prefix)) == {"versioning": "unchanged", "lifecycle": "unchanged"}
    assert not [name for name in asked if name.startswith("Put")]
    assert rules_of(client, bucket) == rules


def test_a_dry_run_changes_nothing(client: Any, bucket: str) -> None:
    asked = calls_of(client)
    assert states(bootstrap(client, bucket, PREFIX, dry_run=True)) == {"versioning": "planned", "lifecycle": "planned"}
    assert sorted(asked) == ["GetBucketLifecycleConfiguration", "GetBucketVersioning"]
    assert "Status" not in client.get_bucket_versioning(Bucket=bucket)
    assert rules_of(client, bucket) == []


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_rules_of_others_stay_and_ours_are_renewed(client: Any, bucket: str, prefix: str) -> None:
    tasks = {"Filter": {"Prefix": f"{prefix}tasks/"}, "Status": "Enabled", "Expiration": {"Days": 1}}
    outdated = [
        {**tasks, "ID": "coin-hts-task-exports"},  # as an older version named it
        {**tasks, "ID": "coin-hts-no-more", "Filter": {"Prefix": prefix}},
    ]
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": THEIRS + outdated})
    assert states(bootstrap(client, bucket, prefix))["lifecycle"] == "done"
    rules = {rule["ID"]: rule for rule in rules_of(client, bucket)}
    assert [rules[rule["ID"]] for rule in THEIRS] == THEIRS
    assert set(rules) == {rule["ID"] for rule in THEIRS + lifecycle_rules(prefix)}
    assert [rule["Expiration"] for rule in rules.values() if rule["Filter"] == tasks["Filter"]] == [{"Days": 30}]


def test_projects_in_one_bucket_keep_their_rules(client: Any, bucket: str) -> None:
    prefixes = ["", "tasks/", PREFIX, f"{PREFIX}tasks/"]
    old = [{**rule, "ID": rule["ID"].rpartition("-")[0]} for rule in lifecycle_rules("older/")]
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": old})
    for prefix in prefixes:
        assert states(bootstrap(client, bucket, prefix))["lifecycle"] == "done"
    wanted = [*old, *(rule for prefix in prefixes for rule in lifecycle_rules(prefix))]
    assert rules_of(client, bucket) == sorted(wanted, key=lambda rule: str(rule["ID"]))
    for prefix in prefixes:
        assert states(bootstrap(client, bucket, prefix))["lifecycle"] == "unchanged"


def test_a_rule_of_the_old_form_keeps_its_meaning(client: Any, bucket: str) -> None:
    old = {"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [old]})
    bootstrap(client, bucket, "")
    (found,) = [rule for rule in rules_of(client, bucket) if rule["ID"] == "old"]
    assert found["Filter"] == {"Prefix": "logs/"}
    assert "Prefix" not in found
    assert found["Expiration"]["Days"] == 3


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize(
    ("key", "expires"),
    [
        (export_key("1D", "zone_1d", "KRW-BTC", "trades.parquet"), False),
        ("backups/20250101T000000Z/manifest.json", False),
        ("backups/tasks/x", False),
        ("tasks/0123/manifest.json", True),
        (".coin-hts-check", False),
    ],
)
def test_only_exports_of_tasks_expire(prefix: str, key: str, expires: bool) -> None:
    days = [
        rule["Expiration"]["Days"]
        for rule in lifecycle_rules(prefix)
        if (prefix + key).startswith(rule["Filter"]["Prefix"]) and "Days" in rule.get("Expiration", {})
    ]
    assert days == ([30] if expires else [])
    wide = [rule for rule in lifecycle_rules(prefix) if (prefix + key).startswith(rule["Filter"]["Prefix"])]
    assert [r["NoncurrentVersionExpiration"] for r in wide if "NoncurrentVersionExpiration" in r] == [
        {"NoncurrentDays": 30}
    ]
    assert [r["AbortIncompleteMultipartUpload"] for r in wide if "AbortIncompleteMultipartUpload" in r] == [
        {"DaysAfterInitiation": 1}
    ]
    assert not prefix or not any(key.startswith(rule["Filter"]["Prefix"]) for rule in lifecycle_rules(prefix))


def test_a_store_without_lifecycles_gets_the_rest(swift: SwiftServer) -> None:
    bucket = swift.new_bucket()
    found = {step.name: step for step in bootstrap(swift.admin, bucket, PREFIX)}
    assert found["versioning"].state == "done"
    assert swift.admin.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert found["lifecycle"].state == "failed"
    assert "check that it supports this request" in found["lifecycle"].detail
    assert bucket in found["lifecycle"].detail


def test_a_refusal_of_the_first_does_not_stop_the_second(client: Any, bucket: str) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "Put")

    client.meta.events.register("before-call.s3.PutBucketVersioning", refuse)
    steps = bootstrap(client, bucket, PREFIX)
    assert states(steps) == {"versioning": "failed", "lifecycle": "done"}
    assert "access is denied" in steps[0].detail
    assert len(rules_of(client, bucket)) == len(lifecycle_rules(PREFIX))


def test_a_bucket_that_is_not_there_is_named(client: Any) -> None:
    steps = bootstrap(client, "nothing-here", "")
    assert {step.state for step in steps} == {"failed"}
    assert all("COIN_HTS_S3_BUCKET" in step.detail for step in steps)


def test_a_server_that_is_not_there_may_come_back() -> None:
    with pytest.raises(TransientError, match="no or a broken connection"):
        bootstrap(s3_client("http://127.0.0.1:9", "us-east-1", "a", "b", max_attempts=1), "bucket", "")


def test_a_store_with_versions_works_as_before(client: Any, bucket: str, tmp_path: Path) -> None:
    bootstrap(client, bucket, PREFIX)
    store = S3Store(client, bucket, PREFIX)
    (tmp_path / "in").write_text("x")
    store.upload(tmp_path / "in", "tasks/1/a")
    store.delete("tasks/1/a")
    assert store.head("tasks/1/a") is None
    assert list(store.list()) == []


# ---- the policy


def test_the_policy_allows_what_the_store_asks_and_nothing_else(tmp_path: Path) -> None:
    """Every operation of a full run of the contract and of uploads in parts against every action of the policy."""
    require_swift()
    tests = CHECKOUT / "coin_hts_pipelines_tests" / "storage"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    argv += ["-p", "coin_hts_pipelines_tests.operations.call_recorder", "--calls", str(tmp_path / "calls")]
    argv += ["-k", "s3", *(str(tests / name) for name in ("test_contract.py", "test_s3_lenient.py"))]
    done = subprocess.run(argv, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    asked = set((tmp_path / "calls").read_text().split())
    assert asked == set(ACTIONS), "an operation is new, or not used any more"
    listing, objects = least_policy("bucket", "")["Statement"]
    assert {*listing["Action"], *objects["Action"]} == {ACTIONS[name] for name in asked}
    assert listing["Action"] == ["s3:ListBucket"]


@pytest.mark.parametrize(
    ("prefix", "objects", "condition"),
    [
        ("", "arn:aws:s3:::mine/*", None),
        (PREFIX, "arn:aws:s3:::mine/house/*", {"StringLike": {"s3:prefix": "house/*"}}),
    ],
)
def test_the_policy_is_of_one_bucket_and_prefix(prefix: str, objects: str, condition: Any) -> None:
    policy = least_policy("mine", prefix)
    assert policy["Version"] == "2012-10-17"
    assert [one["Resource"] for one in policy["Statement"]] == ["arn:aws:s3:::mine", objects]
    assert policy["Statement"][0].get("Condition") == condition
