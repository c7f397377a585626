"""Many real processes at one queue: none lost, none twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.tasks.queue import TaskQueue

SUBMITTERS, CLAIMERS, EACH, SHARED = 8, 4, 200, 100

_START = """
import json, sys, time
from pathlib import Path
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines_tests.tasks.task_maker import request

url, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
queue = TaskQueue(Database(url, pool_size=1))
print("ready", flush=True)
sys.stdin.readline()
"""
# The first hundred keys are everybody's, so that eight processes race for each of them.
_SUBMIT = f"""
keys = [f"shared-{{k}}" if k < {SHARED} else f"{{number}}-{{k}}" for k in range({EACH})]
print(json.dumps({{key: queue.submit(request(), idempotency_key=key).id for key in keys}}))
"""
_CLAIM = """
found = []
while True:
    last = (folder / "submitted").exists()
    claims = queue.claim(7, run_key=f"claimer-{number}")
    for claim in claims:
        assert claim.attempt == 1
        assert queue.start(claim, f"run-{number}", "host")
        assert queue.complete(claim, "/path")
    found += [claim.task_id for claim in claims]
    if last and not claims:
        break
    if not claims:
        time.sleep(0.01)
print(json.dumps(found))
"""


def _begin(script: str, url: str, number: int, folder: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", _START + script, url, str(number), str(folder)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> object:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)


def test_none_is_lost_and_none_is_claimed_twice(database: Database, tmp_path: Path) -> None:
    url = database.url.render_as_string(hide_password=False)
    submitters = [_begin(_SUBMIT, url, number, tmp_path) for number in range(SUBMITTERS)]
    claimers = [_begin(_CLAIM, url, number, tmp_path) for number in range(CLAIMERS)]
    try:
        for process in (*submitters, *claimers):
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        for process in (*submitters, *claimers):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ids: dict[str, set[str]] = {}
        for process in submitters:
            answer = _answer(process)
            assert isinstance(answer, dict)
            assert len(answer) == EACH
            for key, task_id in answer.items():
                ids.setdefault(key, set()).add(task_id)
        (tmp_path / "submitted").touch()
        claimed = Counter(task_id for process in claimers for task_id in _answer(process))
    finally:
        for process in (*submitters, *claimers):
            process.kill()
            process.wait()
    expected = SHARED + SUBMITTERS * (EACH - SHARED)
    assert len(ids) == expected
    assert all(len(found) == 1 for found in ids.values()), "a key has two tasks"
    everything = {next(iter(found)) for found in ids.values()}
    assert len(everything) == expected
    assert set(claimed) == everything
    assert set(claimed.values()) == {1}
    tasks = TaskQueue(database).list(limit=None)
    assert {task.id for task in tasks} == everything
    assert {(task.state, task.attempts) for task in tasks} == {("completed", 1)}
