"""The published JSON Schemas: every state of a task and its manifest conform, and what is wrong does not."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing

import coin_hts_pipelines
from coin_hts_pipelines.backtest import Between
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.results.task_manifest import TaskManifest, task_manifest
from coin_hts_pipelines.tasks.dead_letters import DeadLetter, DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.tasks.task_maker import request
from coin_hts_pipelines_tests.tasks.test_queue import STATES, in_state

SCHEMAS = Path(coin_hts_pipelines.__file__).parent / "tasks" / "schemas"


NAMES = ("dead_letter", "task_manifest", "task_result", "task_status")


def schema_of(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text())


def validator(name: str) -> jsonschema.Draft202012Validator:
    """Validator of a published schema, which may refer to the others."""
    jsonschema.Draft202012Validator.check_schema(schema_of(name))
    known = [(f"{one}.schema.json", referencing.Resource.from_contents(schema_of(one))) for one in NAMES]
    registry: Any = referencing.Registry().with_resources(known)
    checker = jsonschema.FormatChecker()
    return jsonschema.Draft202012Validator(schema_of(name), format_checker=checker, registry=registry)


@pytest.fixture
def queue(database: Database) -> TaskQueue:
    return TaskQueue(database)


def as_read(document: dict[str, Any]) -> Any:
    return json.loads(json.dumps(document, allow_nan=False))


@pytest.mark.parametrize("state", STATES)
def test_a_task_conforms_in_every_state(queue: TaskQueue, state: str) -> None:
    task_id, _ = in_state(queue, state)
    validator("task_status").validate(as_read(queue.get(task_id).to_dict()))


def test_a_sweep_that_failed_for_now_conforms(queue: TaskQueue) -> None:
    grid = {"vol_multiplier": [1.0, 2.0], "body_pct": Between(0.01, 0.02), "stop_loss": [None, 0.1]}
    sampling = {"method": "lhs", "trials": 5}
    task = queue.submit(request(grid=grid, sampling=sampling, name="n", start="2024-01-01"), idempotency_key="k")
    (claim,) = queue.claim(run_key="key")
    queue.start(claim, "run", "host")
    queue.fail(claim, OSError("disk full"), "transient")
    document = as_read(queue.get(task.id).to_dict())
    validator("task_status").validate(document)
    assert document["request"] == task.request.to_dict()
    assert document["symbols_total"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"state": "done"},
        {"progress": 1.5},
        {"odd": 1},
        {"id": "x"},
        {"symbols_total": 0},
        {"finished_at": None},
        {"path": None},
        {"error": "e"},
        {"progress": 0.5},
        {"error_kind": "odd"},
        {"request": {}},
    ],
)
def test_what_is_no_completed_task_does_not_conform(queue: TaskQueue, change: dict[str, Any]) -> None:
    document = queue.get(in_state(queue, "completed")[0]).to_dict()
    with pytest.raises(jsonschema.ValidationError):
        validator("task_status").validate(as_read({**document, **change}))


def failed_manifest() -> dict[str, Any]:
    asked = request("KRW-BTC", "KRW-ETH")
    made = task_manifest(
        "20250101T000000.000000Z-0123abcd",
        2,
        asked.to_dict(),
        asked.symbols,
        {},
        failed={"KRW-BTC": "no candles"},
        error="1 of 2 symbols failed: KRW-BTC: no candles",
        started=datetime.now(UTC),
    )
    return as_read(made.model_dump(mode="json"))  # type: ignore[no-any-return]


def test_a_manifest_conforms() -> None:
    validator("task_manifest").validate(failed_manifest())


@pytest.mark.parametrize("change", [{"kind": "sweep"}, {"odd": 1}, {"attempt": 0}, {"files": [{"name": "x"}]}])
def test_what_is_no_manifest_does_not_conform(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator("task_manifest").validate({**failed_manifest(), **change})


def test_the_schema_names_every_field_of_a_manifest() -> None:
    schema = schema_of("task_manifest")
    assert set(schema["properties"]) == set(schema["required"]) == set(TaskManifest.model_fields)


def letter(queue: TaskQueue) -> dict[str, Any]:
    in_state(queue, "failed")
    return as_read(DeadLetters(queue).list()[0].to_dict())  # type: ignore[no-any-return]


def test_a_dead_letter_conforms(queue: TaskQueue) -> None:
    validator("dead_letter").validate(letter(queue))
    schema = schema_of("dead_letter")
    assert set(schema["properties"]) == set(schema["required"]) == {one.name for one in fields(DeadLetter)}


@pytest.mark.parametrize(
    "change", [{"odd": 1}, {"attempts": 0}, {"error": None}, {"error_kind": "odd"}, {"request": {}}, {"died_at": "x"}]
)
def test_what_is_no_dead_letter_does_not_conform(queue: TaskQueue, change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator("dead_letter").validate({**letter(queue), **change})


def result_document() -> dict[str, Any]:
    rows = [{"symbol": "KRW-ETH", "sharpe": None, "trades": 3, "synthetic": False}]
    return {"path": "/data/tasks/x", "symbol": None, "table": "summary", "rows": rows, "manifest": failed_manifest()}


def test_a_result_conforms() -> None:
    validator("task_result").validate(result_document())
    validator("task_result").validate({**result_document(), "symbol": "KRW-ETH", "table": "trades", "rows": []})


@pytest.mark.parametrize(
    "change",
    [
        {"odd": 1},
        {"symbol": "KRW-ETH"},
        {"table": "trades"},
        {"table": "odd", "symbol": "KRW-ETH"},
        {"rows": [[1]]},
        {"rows": [{"a": {}}]},
        {"manifest": {}},
        {"path": None},
    ],
)
def test_what_is_no_result_does_not_conform(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator("task_result").validate({**result_document(), **change})


def test_a_request_is_the_same_in_all_schemas() -> None:
    requests = [schema_of(name)["$defs"]["request"] for name in ("dead_letter", "task_manifest", "task_status")]
    assert requests[0] == requests[1] == requests[2]


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({"run_url": None, "task_url": "http://localhost/t"}, True),
        ({"task_url": None}, False),
        ({"run_url": 5}, False),
    ],
)
def test_where_the_ui_shows_a_task_may_be_added(queue: TaskQueue, more: dict[str, Any], fits: bool) -> None:
    document = as_read(queue.get(in_state(queue, "running")[0]).to_dict())
    assert validator("task_status").is_valid({**document, **more}) is fits


def test_the_schemas_are_part_of_the_package() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["coin_hts_pipelines"]
    names = [f"tasks/schemas/{path.name}" for path in SCHEMAS.iterdir()]
    assert sorted(path.name for path in SCHEMAS.iterdir()) == [f"{name}.schema.json" for name in NAMES]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in names)
