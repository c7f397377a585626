"""`coin-hts storage`: what it prints, its exit status, and what reaches the bucket."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines import cli
from coin_hts_pipelines.operations.bucket import least_policy
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.control import test_retention as control
from coin_hts_pipelines_tests.control.run_maker import RunMaker
from coin_hts_pipelines_tests.defs.helpers import forget_settings, home
from coin_hts_pipelines_tests.operations import test_bucket

new_database, url, maker, folders = control.new_database, control.url, control.maker, control.folders
endpoint_url, client, bucket = test_bucket.endpoint_url, test_bucket.client, test_bucket.bucket
__all__ = ["home"]

pytestmark = [pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")]

Say = Callable[..., tuple[str, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `coin-hts storage` and return what it printed on its two streams."""

    def run(line: str, *, status: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["coin-hts", "storage", *line.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert (ended.value.code or 0) == status, err
        return out, err

    return run


# ---- prune and usage


def test_a_dry_run_says_what_the_real_one_does(maker: RunMaker, folders: Path, say: Say) -> None:
    maker.made(("candles_1d", "a|2024"), days=1)
    before = maker.runs()
    dry = json.loads(say("prune --dry-run --json")[0])
    assert maker.runs() == before
    assert (dry["dry_run"], dry["removed"]["runs"]["count"], dry["removed"]["run folders"]["bytes"]) == (True, 1, 10)
    real = json.loads(say("prune --json")[0])
    assert (real["removed"], real["kept_runs"]) == (dry["removed"], dry["kept_runs"])
    assert len(maker.runs()) == len(before) - 1
    assert {one["name"] for one in real["tables"]} >= {"dagster.event_logs", "catalog.tasks"}
    assert {one["count"] for one in json.loads(say("prune --json")[0])["removed"].values()} == {0}


def test_it_says_by_kind_what_it_removed(maker: RunMaker, folders: Path, say: Say) -> None:
    maker.made(("candles_1d", "a|2024"), days=1)
    would = say("prune --dry-run")[0]
    assert "What would be removed" in would
    out = say("prune")[0]
    cells = [line.split() for line in out.splitlines()]
    assert ["runs", "1"] in cells
    assert ["run", "folders", "2", "10"] in cells
    assert "old runs kept for the latest events of a partition: 0" in out
    assert "before" in out


def test_what_cannot_be_removed_is_named(
    maker: RunMaker, folders: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COIN_HTS_EXPORT_STORE", "s3")
    forget_settings()
    out = say("prune", status=1)[0]
    assert "cannot be removed: preset exports: exports go to S3 but no bucket is set; set COIN_HTS_S3_BUCKET" in out
    assert set(json.loads(say("prune --json", status=1)[0])["problems"]) == {
        "preset exports",
        "task exports",
        "task rows",
    }


def test_usage_names_tables_and_folders(maker: RunMaker, folders: Path, say: Say) -> None:
    told = json.loads(say("usage --json")[0])
    sizes = {one["path"]: (one["bytes"], one["files"]) for one in told["folders"]}
    assert sizes[str(folders)] == (15, 3)
    assert {one["name"] for one in told["tables"]} >= {"dagster.runs", "catalog.results"}
    assert all(one["bytes"] > 0 for one in told["tables"])
    text = say("usage")[0]
    assert str(folders) in text.replace("\n", "")
    assert "dagster.event_logs" in text


# ---- bootstrap


@pytest.fixture
def at_s3(home: Path, endpoint_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    variables = {
        "COIN_HTS_EXPORT_STORE": "s3",
        "COIN_HTS_S3_BUCKET": bucket,
        "COIN_HTS_S3_PREFIX": "/house/",
        "COIN_HTS_S3_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    return


@pytest.mark.usefixtures("at_s3")
def test_the_bucket_is_set_up_and_the_policy_printed(client: Any, bucket: str, say: Say) -> None:
    out, err = say("bootstrap --dry-run")
    assert json.loads(out) == least_policy(bucket, "house/")
    assert err.splitlines() == ["versioning: planned", "lifecycle: planned"]
    assert test_bucket.rules_of(client, bucket) == []
    out, err = say("bootstrap")
    assert json.loads(out) == least_policy(bucket, "house/")
    assert err.splitlines() == ["versioning: done", "lifecycle: done"]
    assert [rule["Filter"]["Prefix"] for rule in test_bucket.rules_of(client, bucket)] == [
        "house/",
        "house/",
        "house/tasks/",
    ]
    assert say("bootstrap")[1].splitlines() == ["versioning: unchanged", "lifecycle: unchanged"]
    assert "planted-secret" not in out + err


@pytest.mark.usefixtures("at_s3")
def test_a_refusal_is_told_and_the_policy_still_printed(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_S3_BUCKET", "nothing-here")
    forget_settings()
    out, err = say("bootstrap", status=1)
    assert json.loads(out)["Statement"]
    assert err.count("the bucket does not exist; check COIN_HTS_S3_BUCKET") == 2


@pytest.mark.parametrize("variables", [{}, {"COIN_HTS_EXPORT_STORE": "s3"}, {"COIN_HTS_S3_BUCKET": "mine"}])
def test_without_a_bucket_there_is_nothing_to_set_up(
    home: Path, say: Say, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    assert "COIN_HTS_S3_BUCKET" in say("bootstrap", status=2)[1]
    assert get_settings().root == home / "data"
