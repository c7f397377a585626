"""The main job with its exports going to a real S3-compatible server over TLS."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines_tests.conftest import Project
from coin_hts_pipelines_tests.integration.helpers import (
    STRATEGIES,
    claimed_slots,
    current_ids,
    current_result,
    document,
    last_event,
    query,
    run_statuses,
    wait_until,
)
from coin_hts_pipelines_tests.swift import ADMIN, SwiftServer, swift  # noqa: F401

FILES = ("equity.parquet", "manifest.json", "signals.parquet", "summary.parquet", "trades.parquet")
PRESETS = [f"{name}_1d" for name in STRATEGIES]
FEW = ("KRW-BTC", "KRW-ETH")
OTHERS = ("KRW-SEA", "KRW-SKY")
MANY = tuple(f"KRW-T{number:02d}" for number in range(10))


def argv(symbols: tuple[str, ...]) -> tuple[str, ...]:
    return ("run", "--symbols", ",".join(symbols), "--timeframes", "1D", "--start", "2024-01-01", "--end", "2024-12-31",
            "--json")  # fmt: skip


def variables(server: SwiftServer, bucket: str, secret: str | None = None) -> dict[str, str]:
    """What a person sets to export there."""
    return {
        "COIN_HTS_EXPORT_STORE": "s3",
        "COIN_HTS_S3_BUCKET": bucket,
        "COIN_HTS_S3_PREFIX": "house",
        "COIN_HTS_S3_ENDPOINT_URL": server.endpoint_url,
        "COIN_HTS_S3_CA_BUNDLE": str(server.certificate),
        "AWS_ACCESS_KEY_ID": ADMIN,
        "AWS_SECRET_ACCESS_KEY": server.secret if secret is None else secret,
    }


def keys_in(server: SwiftServer, bucket: str) -> set[str]:
    pages = server.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def expected_keys(symbols: tuple[str, ...]) -> set[str]:
    return {
        f"house/backtests/1D/{preset}/{symbol}/{name}" for preset in PRESETS for symbol in symbols for name in FILES
    }


def assert_exported(project: Project, server: SwiftServer, bucket: str, symbols: tuple[str, ...]) -> None:
    """Every object is what lies in the current results, with its metadata."""
    assert keys_in(server, bucket) == expected_keys(symbols)
    for preset in PRESETS:
        for symbol in symbols:
            folder = current_result(project, "1D", preset, symbol)
            manifest = Manifest.load(folder)
            for name in FILES:
                got = server.admin.get_object(Bucket=bucket, Key=f"house/backtests/1D/{preset}/{symbol}/{name}")
                assert got["Body"].read() == (folder / name).read_bytes()
                about = {
                    "strategy": manifest.strategy,
                    "inputs-digest": manifest.inputs_digest,
                    "result-digest": manifest.result_digest,
                }
                assert about.items() <= got["Metadata"].items()
                assert got["ContentType"] == (
                    "application/json" if name.endswith(".json") else "application/vnd.apache.parquet"
                )


def counted(project: Project, name: str, after: int) -> dict[str, int]:
    """A number in the metadata of the exports materialized after an event, by partition."""
    rows = query(
        project,
        "SELECT partition, event FROM dagster.event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' "
        "AND asset_key = %s AND id > %s",
        '["exports_1d"]',
        after,
    )
    found: dict[str, int] = {}
    for partition, event in rows:
        data: Any = json.loads(event)["dagster_event"]["event_specific_data"]["materialization"]
        (entry,) = [entry for entry in data["metadata_entries"] if entry["label"] == name]
        found[partition] = entry["entry_data"]["value"]
    return found


def test_exports_and_a_second_run_that_sends_nothing(project: Project, swift: SwiftServer) -> None:  # noqa: F811
    bucket = swift.new_bucket()
    done = project.coin_hts(*argv(FEW), **variables(swift, bucket))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_exported(project, swift, bucket, FEW)
    pairs = {f"{preset}|{symbol}" for preset in PRESETS for symbol in FEW}
    assert counted(project, "uploaded_objects", 0) == dict.fromkeys(pairs, len(FILES))

    before = last_event(project)
    again = project.coin_hts(*argv(FEW), **variables(swift, bucket))
    assert again.returncode == 0
    assert counted(project, "uploaded_objects", before) == dict.fromkeys(pairs, 0)
    assert counted(project, "unchanged_objects", before) == dict.fromkeys(pairs, len(FILES))
    assert_exported(project, swift, bucket, FEW)
    doctor = project.coin_hts("doctor", "--json", **variables(swift, bucket))
    assert {one["name"]: one["state"] for one in document(doctor.stdout)}["export store"] == "ok"
    assert swift.secret not in done.stdout + done.stderr + again.stdout + doctor.stdout


def test_killed_in_the_middle_and_run_again(project: Project, swift: SwiftServer) -> None:  # noqa: F811
    bucket = swift.new_bucket()
    running = project.start("coin-hts", *argv(MANY), **variables(swift, bucket))
    try:
        wait_until(lambda: running.poll() is not None or len(keys_in(swift, bucket)) >= 20, 90, "no exports")
        assert running.poll() is None
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    sent = keys_in(swift, bucket)
    assert 20 <= len(sent) < len(expected_keys(MANY))
    for key in sent:
        if key.endswith("manifest.json"):  # sent last: who reads it finds all it names
            assert {f"{key.removesuffix('manifest.json')}{name}" for name in FILES} <= sent
    orphans = [run for run, status in run_statuses(project).items() if status == "STARTED"]

    before = last_event(project)
    done = project.coin_hts(*argv(MANY), **variables(swift, bucket))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_exported(project, swift, bucket, MANY)
    assert sum(counted(project, "unchanged_objects", before).values()) >= len(sent)
    assert {run_statuses(project)[run] for run in orphans} == {"FAILURE"}
    assert claimed_slots(project) == []


def test_wrong_secret(project: Project, swift: SwiftServer) -> None:  # noqa: F811
    bucket, secret = swift.new_bucket(), "not-the-right-secret-7c1d"
    done = project.coin_hts(*argv(OTHERS), **variables(swift, bucket, secret))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    (part,) = document(done.stdout)["timeframes"]
    assert part["failures"].keys() == {"exports_1d"}
    assert len(part["failures"]["exports_1d"]) == len(PRESETS) * len(OTHERS)
    for reason in part["failures"]["exports_1d"].values():
        assert "AWS_SECRET_ACCESS_KEY" in reason or "secret" in reason.lower()
    assert keys_in(swift, bucket) == set()
    # The other layers stand.
    assert {asset: run_statuses(project)[runs[-1]] for asset, runs in part["runs"].items()} == {
        "candles_1d": "SUCCESS", "indicators_1d": "SUCCESS", "backtests_1d": "SUCCESS", "rankings_1d": "SUCCESS",
        "exports_1d": "FAILURE",
    }  # fmt: skip
    assert {f"1D/{preset}/{symbol}" for preset in PRESETS for symbol in OTHERS} <= set(current_ids(project))
    doctor = project.coin_hts("doctor", "--json", **variables(swift, bucket, secret))
    assert doctor.returncode == 1
    assert {one["name"]: one["state"] for one in document(doctor.stdout)}["export store"] == "fail"

    for word in (secret, swift.secret):
        assert word not in done.stdout + done.stderr + doctor.stdout + doctor.stderr
        assert query(project, "SELECT id FROM dagster.event_logs WHERE event LIKE %s", f"%{word}%") == []
        assert query(project, "SELECT id FROM dagster.runs WHERE run_body LIKE %s", f"%{word}%") == []
        assert word not in (project.home / ".env").read_text()
        files = [path for path in (project.data / "dagster").rglob("*") if path.is_file()]
        assert not [path for path in files if word in path.read_text(errors="replace")]
