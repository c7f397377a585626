"""Processes are killed, disks are full, candles are damaged: each task still ends in a state that tells the truth."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coin_hts_pipelines.errors import CoinHtsError, InvalidRequest
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.operations.embedded_postgres import find_server
from coin_hts_pipelines.results.manifest import MANIFEST
from coin_hts_pipelines.tasks.dead_letters import DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.faults.conftest import HEAVY_SYMBOLS, Instance, heavy, kill, light, worker_pid
from coin_hts_pipelines_tests.integration.helpers import wait_until


def test_the_worker_is_killed_in_the_middle(instance: Instance, undisturbed: dict[str, str]) -> None:
    struck = instance.queue.submit(heavy()).id
    manifests = [instance.store.folder(struck) / name / MANIFEST for name in HEAVY_SYMBOLS]
    running = instance.until_running(struck)
    wait_until(lambda: any(path.exists() for path in manifests), 60, "a finished symbol")
    kill(worker_pid(running))
    kept = {path: path.stat().st_ino for path in manifests if path.exists()}
    assert len(kept) < len(HEAVY_SYMBOLS), "it was quicker"
    task = instance.until_final([struck])[struck]
    assert (task.state, task.attempts) == ("completed", 2)
    assert {path: path.stat().st_ino for path in kept} == kept, "what was finished is not computed again"
    assert instance.digest(struck) == undisturbed["heavy"]
    instance.assert_clean()


def test_the_daemon_is_killed_and_started_again(instance: Instance, undisturbed: dict[str, str]) -> None:
    struck = instance.queue.submit(heavy()).id
    instance.until_running(struck, 0.1)
    kill(instance.daemon.pid)
    instance.daemon.wait()
    waiting = [instance.queue.submit(light()).id for _ in range(3)]
    instance.start_daemon()
    tasks = instance.until_final([struck, *waiting])
    assert {task.state for task in tasks.values()} == {"completed"}
    assert instance.digest(struck) == undisturbed["heavy"]
    assert {instance.digest(task_id) for task_id in waiting} == {undisturbed["light"]}
    # The last tick of the dead daemon may have claimed them for a run that nobody launched any more.
    assert {tasks[task_id].attempts for task_id in waiting} <= {1, 2}
    instance.assert_clean()


def test_postgres_is_killed_and_comes_back_after_ten_seconds(instance: Instance, undisturbed: dict[str, str]) -> None:
    struck = instance.queue.submit(heavy()).id
    waiting = [instance.queue.submit(light()).id for _ in range(3)]
    instance.until_running(struck, 0.1)
    server = find_server(instance.project.data / "postgres")
    assert server is not None
    kill(server.pid)
    wait_until(lambda: find_server(instance.project.data / "postgres") is None, 30, "the end of Postgres")
    time.sleep(10)  # the fault itself
    started = instance.project.coin_hts("db", "start")
    assert started.returncode == 0, started.stderr
    if instance.daemon.poll() is not None:  # as a supervisor would
        instance.start_daemon()
    tasks = instance.until_final([struck, *waiting])
    assert {task.state for task in tasks.values()} == {"completed"}
    assert instance.digest(struck) == undisturbed["heavy"]
    assert {instance.digest(task_id) for task_id in waiting} == {undisturbed["light"]}
    instance.assert_clean()


def test_a_poisoned_candle_file_fails_its_task_alone_and_at_once(
    instance: Instance, undisturbed: dict[str, str]
) -> None:
    CandleStore(instance.project.data).merge("KRW-BAD", "1D", random_walk(365, 9), source="sample")
    poisoned = light("KRW-BAD")
    (file,) = (instance.project.data / "KRW-BAD" / "1D").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:1000] + b"\0" * 500)
    ids = [instance.queue.submit(request).id for request in (light(), poisoned, light())]
    tasks = instance.until_final(ids)
    assert [tasks[task_id].state for task_id in ids] == ["completed", "failed", "completed"]
    assert {instance.digest(ids[0]), instance.digest(ids[2])} == {undisturbed["light"]}
    bad = tasks[ids[1]]
    assert (bad.attempts, bad.error_kind) == (1, "permanent")
    assert "KRW-BAD" in str(bad.error)
    letter = DeadLetters(instance.queue).get(bad.id)
    assert letter.request == poisoned.to_dict()
    assert "Traceback" in str(letter.traceback)
    manifest = instance.store.manifest(bad.id)
    assert manifest.error is not None
    assert list(manifest.failed_symbols) == ["KRW-BAD"]
    instance.assert_clean()


@pytest.fixture
def small_disk(instance: Instance) -> Iterator[Path]:
    """A disk of 200 kB as the folder of the results; what is on it at the end is moved away with it."""
    folder = instance.project.data / "tasks"
    aside = instance.project.data / "tasks-before"
    folder.rename(aside)
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        folder.rmdir()
        aside.rename(folder)
        pytest.skip(f"no small disk can be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield folder
    finally:
        left = [path for path in folder.iterdir() if not path.name.startswith(".")]
        for path in left:
            subprocess.run(["cp", "-r", path, aside], check=True)
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
        aside.rename(folder)


def test_the_disk_is_full_until_somebody_makes_room(
    instance: Instance, undisturbed: dict[str, str], small_disk: Path
) -> None:
    struck = instance.queue.submit(heavy()).id
    waits = wait_until(
        lambda: (task := instance.queue.get(struck)).attempts == 1 and task.error and task, 90, "the first attempt"
    )
    assert (waits.state, waits.error_kind) == ("queued", "transient")
    assert "No space left" in waits.error
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    task = instance.until_final([struck])[struck]
    assert task.state == "completed"
    assert task.attempts >= 2
    assert instance.digest(struck) == undisturbed["heavy"]


def test_the_disk_stays_full(instance: Instance, small_disk: Path) -> None:
    (small_disk / ".fill").write_bytes(b"\0" * 150_000)
    struck = TaskQueue(instance.queue.database, max_attempts=2).submit(heavy()).id
    task = instance.until_final([struck])[struck]
    assert (task.state, task.attempts, task.error_kind) == ("failed", 2, "transient")
    assert "No space left" in str(task.error)
    assert DeadLetters(instance.queue).get(struck).attempts == 2
    assert not list(small_disk.rglob("*.tmp"))
    (small_disk / ".fill").unlink()


def test_fifty_cancels_at_random_moments(instance: Instance, undisturbed: dict[str, str]) -> None:
    random.seed(50)
    ids, running = [], []
    ended = threading.Event()

    def cancel(task_id: str, after: float) -> None:
        ended.wait(after)
        try:
            running.append(instance.queue.cancel(task_id, "at random").state)
        except InvalidRequest:
            running.append("ended")  # it was quicker
        except CoinHtsError as error:
            running.append(repr(error))

    threads = []
    for number in range(50):
        task_id = instance.queue.submit(heavy() if number % 5 == 0 else light()).id
        ids.append(task_id)
        threads.append(threading.Thread(target=cancel, args=(task_id, random.uniform(0, 20))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    asked = time.monotonic()
    tasks = instance.until_final(ids)
    seconds = time.monotonic() - asked
    assert set(running) <= {"cancelled", "running", "ended"}
    assert {task.state for task in tasks.values()} <= {"cancelled", "completed"}
    for number, task_id in enumerate(ids):
        if tasks[task_id].state == "completed":
            assert not tasks[task_id].cancel_requested
            assert instance.digest(task_id) == undisturbed["heavy" if number % 5 == 0 else "light"]
        else:
            assert tasks[task_id].cancel_reason == "at random"
            assert not instance.store.folder(task_id).exists()
    assert running.count("ended") == sum(task.state == "completed" for task in tasks.values())
    print(f"{running.count('running')} cancelled at work, all final {seconds:.1f} s after the last cancel")
    instance.assert_clean()
