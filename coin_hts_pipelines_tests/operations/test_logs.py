"""The log: whole JSON lines from many processes at once, no secrets, and work that goes on when it cannot be had."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.operations.logs import (
    LOG_NAME,
    LogFile,
    RunRecords,
    bind,
    configure_logs,
    redact,
    reset_logs,
)
from coin_hts_pipelines.operations.redaction import HIDDEN, learn_secrets, redact_value
from coin_hts_pipelines.settings import Settings

SECRETS = {
    "database_url": "postgresql://user:db-p%40ss-word-1@db.example:5432/hts",
    "s3_access_key_id": "PLANTEDACCESSKEY",
    "s3_secret_access_key": 'planted/secret+key="\\1',
    "slack_webhook_url": "https://chat.example/services/T0PLANT/B0PLANT/plantedhook",
    "smtp_password": "hush1",
}
# What no output may hold, whatever the form it was written in.
PLANTED = ("db-p", "PLANTEDACCESSKEY", "secret+key", "secret%2Bkey", "plantedhook", "hush1")
_log = logging.getLogger("coin_hts_pipelines.tests")


def settings_at(home: Path, **values: Any) -> Settings:
    return Settings(home=home, **{"log_max_megabytes": 1, **values})


@pytest.fixture
def secret_settings(tmp_path: Path) -> Settings:
    return settings_at(tmp_path, **SECRETS)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    reset_logs()


def lines(settings: Settings, name: str = LOG_NAME) -> list[dict[str, Any]]:
    """Every line of a log, parsed strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [
        json.loads(line, parse_constant=refuse) for line in (settings.logs / name).read_text().splitlines(keepends=True)
    ]


def handle_alone(settings: Settings, text: str, *args: Any) -> None:
    """Write a record that pytest's own handlers refuse."""
    handler = LogFile(settings.logs / LOG_NAME, 100_000, 2, "test")
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, text, args, None))
    handler.close()


# ---- lines


def test_a_line_has_every_field(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    configure_logs(settings, process="cli", console=False)
    with bind(run="run-1", task="task-1", symbol="KRW-BTC"):
        try:
            raise ValueError("of the work")
        except ValueError:
            _log.exception("bar %d of %s", 3, "many", extra={"duration": 1.5, "partition": "2024", "ratio": math.nan})
    _log.info("outside")
    first, second = lines(settings)
    assert list(first)[:9] == [
        *("timestamp", "level", "logger", "message", "run", "task", "symbol", "partition", "duration"),
    ]
    assert first["timestamp"].endswith("+00:00")
    assert (first["level"], first["logger"], first["message"]) == ("error", _log.name, "bar 3 of many")
    assert (first["run"], first["task"], first["symbol"]) == ("run-1", "task-1", "KRW-BTC")
    assert (first["partition"], first["duration"], first["ratio"]) == ("2024", 1.5, "nan")
    assert first["exception"].startswith("Traceback")
    assert first["exception"].endswith("ValueError: of the work")
    assert (first["process"], first["pid"]) == ("cli", os.getpid())
    assert not {"run", "task", "symbol", "exception"} & set(second)


def test_a_thread_that_was_given_the_context_logs_what_is_bound(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    configure_logs(settings, process="cli", console=False)
    with bind(task="task-2", symbol=None):
        thread = Thread(target=copy_context().run, args=(_log.info, "in a thread"))
        thread.start()
        thread.join()
    (line,) = lines(settings)
    assert line["task"] == "task-2"
    assert "symbol" not in line


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("DEBUG", ["ours debug", "ours info", "other info", "other warning"]),
        ("info", ["ours info", "other warning"]),
        ("WARNING", ["other warning"]),
        ("ERROR", []),
    ],
)
def test_others_are_one_level_quieter_than_ours(level: str, shown: list[str], tmp_path: Path) -> None:
    settings = settings_at(tmp_path, log_level=level)
    configure_logs(settings, process="cli", console=False)
    other = logging.getLogger("somebody.elses")
    _log.debug("ours debug")
    other.debug("other debug")
    _log.info("ours info")
    other.info("other info")
    other.warning("other warning")
    found = [line["message"] for line in lines(settings)] if shown else []
    assert len(found) == len(shown)
    assert all(part in text for part, text in zip(shown, found, strict=True))
    assert (settings.logs / LOG_NAME).exists() is bool(shown)


def test_arguments_that_do_not_fit_are_logged_all_the_same(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    for text, args in (("%d bars", ("many",)), ("a lone surrogate \ud800 and\na second line", ())):
        handle_alone(settings, text, *args)
    first, second = lines(settings)
    assert "many" in first["message"]
    assert second["message"].endswith("and\na second line")


def test_configuring_again_leaves_one_handler_and_resetting_none(tmp_path: Path) -> None:
    before, factory = list(logging.root.handlers), logging.getLogRecordFactory()
    first, second = settings_at(tmp_path / "1"), settings_at(tmp_path / "2")
    configure_logs(first, process="cli", console=True)
    configure_logs(second, process="cli", console=False)
    _log.info("once")
    assert [line["message"] for line in lines(second)] == ["once"]
    assert not first.logs.exists()
    reset_logs()
    assert logging.root.handlers == before
    assert logging.getLogRecordFactory() is factory
    _log.info("nowhere")
    assert len(lines(second)) == 1


def test_lines_go_on_after_a_library_configured_logging(tmp_path: Path) -> None:
    from logging.config import dictConfig

    settings = settings_at(tmp_path)
    configure_logs(settings, process="cli", console=False)
    _log.info("before")
    dictConfig({"version": 1, "disable_existing_loggers": False})  # closes every handler there is
    _log.info("after")
    assert [line["message"] for line in lines(settings)] == ["before", "after"]


# ---- Dagster's records


def run_record(level: int = logging.DEBUG, event_type: str | None = None, **event: Any) -> logging.LogRecord:
    record = logging.LogRecord("dagster", level, "", 0, "job - run-9 - the long form", (), None)
    made = None
    if event_type:
        data = SimpleNamespace(duration_ms=event.pop("duration_ms", None), error=event.pop("error", None))
        key = SimpleNamespace(to_user_string=lambda: "candles_1d")
        made = SimpleNamespace(
            event_type_value=event_type, asset_key=key, event_specific_data=data, partition=event.get("partition")
        )
    record.dagster_event = made
    record.dagster_meta = {
        "run_id": "run-9",
        "job_name": "job",
        "step_key": "candles_1d",
        "orig_message": "the short form",
        "dagster_event": made,
        "log_message_id": "1",
        "job_tags": event.get("tags", {}),
    }
    return record


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (run_record(logging.INFO), {"level": "info", "message": "the short form", "run": "run-9", "job": "job"}),
        (run_record(event_type="STEP_OUTPUT"), None),
        (run_record(event_type="STEP_SUCCESS", duration_ms=1234.5), {"level": "info", "duration": 1.234}),
        (run_record(logging.INFO, "ASSET_MATERIALIZATION", partition="A|2024"), {"partition": "A|2024"}),
        (
            run_record(
                logging.ERROR,
                "STEP_FAILURE",
                error=SimpleNamespace(to_string=lambda: "why"),
                tags={
                    "dagster/asset_partition_range_start": "A|2023",
                    "dagster/asset_partition_range_end": "A|2024",
                    "dagster/partition/symbol": "A",
                },
            ),
            {"exception": "why", "partition": "A|2023...A|2024", "asset": "candles_1d", "symbol": "A"},
        ),
    ],
)
def test_records_of_a_run_say_which(record: logging.LogRecord, expected: dict[str, Any] | None, tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    configure_logs(settings, process="run", console=False)
    RunRecords().handle(record)
    if expected is None:
        assert not settings.logs.exists()
        return
    (line,) = lines(settings)
    assert expected.items() <= line.items()
    assert (line["run"], line["step"]) == ("run-9", "candles_1d")


def test_the_copy_that_dagster_makes_for_its_console_is_not_written_again(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    configure_logs(settings, process="run", console=False)
    record = run_record(logging.WARNING)
    RunRecords().handle(record)
    logging.getLogger("dagster").handle(record)
    assert len(lines(settings)) == 1


def test_records_of_a_run_go_nowhere_in_a_process_without_a_log() -> None:
    RunRecords().handle(run_record(logging.ERROR))


# ---- the console


def test_warnings_are_shown_in_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_at(tmp_path, **SECRETS)
    configure_logs(settings, process="cli", console=True)
    _log.info("not for the console")
    with bind(task="task-3"):
        try:
            raise OSError("with hush1")
        except OSError:
            _log.exception("the \x1b[31mend")
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "error" in line
    assert "task-3" in line
    assert f"OSError: with {HIDDEN}" in line
    assert "\x1b" not in line
    assert "Traceback" not in line


def test_a_terminal_gets_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    configure_logs(settings_at(tmp_path), process="cli", console=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    _log.warning("look")
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b[" not in (tmp_path / "data/logs" / LOG_NAME).read_text()


def test_what_prints_itself_is_not_printed_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("prints.itself")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    try:
        configure_logs(settings_at(tmp_path), process="daemon", console=True)
        logging.getLogger("prints.itself.below").error("said elsewhere")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err == ""
    assert "said elsewhere" in (tmp_path / "data/logs" / LOG_NAME).read_text()


# ---- secrets


SECRET_TEXTS = [
    *SECRETS.values(),
    "db-p@ss-word-1",
    "db-p%40ss-word-1",
    "/services/T0PLANT/B0PLANT/plantedhook",
    quote(SECRETS["s3_secret_access_key"], safe=""),
    repr(SECRETS["s3_secret_access_key"]),
    json.dumps({"key": SECRETS["s3_secret_access_key"]}),
    str(SECRETS),
]


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_values_of_the_settings_are_hidden_in_every_form(text: str, secret_settings: Settings) -> None:
    learn_secrets(secret_settings)
    clean = redact(f"before {text} behind")
    assert clean.startswith("before ")
    assert clean.endswith(" behind")
    assert HIDDEN in clean
    assert not [secret for secret in PLANTED if secret in clean]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql+psycopg2://me:open-sesame@host/db?x=1", "postgresql+psycopg2://me:***@host/db?x=1"),
        ("redis://:open-sesame@host", "redis://:***@host"),
        ("Authorization: Bearer open-sesame", "Authorization: ***"),
        ("{'Authorization': b'AWS4 Credential=open, Signature=sesame', 'a': 1}", "{'Authorization': b'***', 'a': 1}"),
        ('{"authorization": "open-sesame", "a": 1}', '{"authorization": "***", "a": 1}'),
        ("GET /k?X-Amz-Signature=open&X-Amz-Date=5", "GET /k?X-Amz-Signature=***&X-Amz-Date=5"),
        ("x-amz-security-token: open-sesame end", "x-amz-security-token: *** end"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key ***."),
        ("https://hooks.slack.com/services/open/sesame said no", "https://hooks.slack.com/*** said no"),
        ("host=db password=open-sesame dbname=x", "host=db password=*** dbname=x"),
        ("{'smtp_password': 'open-sesame', 'n': 1}", "{'smtp_password': '***', 'n': 1}"),
        ("AWS_SECRET_ACCESS_KEY=open-sesame", "AWS_SECRET_ACCESS_KEY=***"),
        # Not secrets.
        ("http://127.0.0.1:3000/runs/1", "http://127.0.0.1:3000/runs/1"),
        ("a wrong password: try again", "a wrong password: try again"),
        ("the symbol KRW-BTC of 2024", "the symbol KRW-BTC of 2024"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_a_short_secret_hides_no_part_of_a_word(tmp_path: Path) -> None:
    learn_secrets(settings_at(tmp_path, smtp_password="sol7"))
    assert redact("console7, sol7s, login:sol7!") == "console7, sol7s, login:***!"


@given(st.text(min_size=12, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_any_long_secret_is_hidden(secret: str, before: str, behind: str) -> None:
    learn_secrets(Settings(smtp_password=secret))
    for form in (secret, repr(secret)[1:-1], json.dumps(secret), quote(secret, safe="")):
        assert secret not in redact(f"{before}{form}{behind}") or secret in before + behind


def test_nested_values_are_clean(secret_settings: Settings) -> None:
    learn_secrets(secret_settings)
    value = redact_value(
        {
            "deep": [{"tuple": ("hush1", 1, None, 2.5)}, {"set": {"hush1"}}],
            "bytes": b"PLANTEDACCESSKEY",
            "object": ValueError("hush1"),
            "hush1": "a key",
            "password": 12345,
            "headers": {"Authorization": "anything"},
        }
    )
    assert value == {
        "deep": [{"tuple": [HIDDEN, 1, None, 2.5]}, {"set": [HIDDEN]}],
        "bytes": HIDDEN,
        "object": HIDDEN,
        HIDDEN: "a key",
        "password": HIDDEN,
        "headers": {"Authorization": HIDDEN},
    }


def test_no_handler_of_anybody_sees_a_secret(secret_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    others = io.StringIO()
    handler = logging.StreamHandler(others)
    logger = logging.getLogger("somebody.elses")
    logger.addHandler(handler)
    configure_logs(secret_settings, process="cli", console=True)
    try:
        logger.error("whole hush1")
        logger.error("in %s and %s", "arguments hush1", {"nested": ["hush1"]})
        logger.error("split %s%s", "PLANTEDACC", "ESSKEY")
        logger.error("field", extra={"field": {"deep": [SECRETS["s3_secret_access_key"]]}})
        logger.error("field", extra={"webhook": 5})
        with bind(run=SECRETS["slack_webhook_url"]):
            logger.error("bound")
        try:
            raise RuntimeError(f"cannot reach {SECRETS['database_url']}")
        except RuntimeError:
            logger.exception("with a traceback")
    finally:
        logger.removeHandler(handler)
    file = (secret_settings.logs / LOG_NAME).read_text()
    texts = {"file": file, "other": others.getvalue(), "stderr": capsys.readouterr().err}
    assert [(where, secret) for where, text in texts.items() for secret in PLANTED if secret in text] == []
    assert len(lines(secret_settings)) == 7
    assert texts["other"].count("with a traceback\nTraceback") == 1
    assert f"in arguments {HIDDEN} and" in others.getvalue()


def test_the_number_of_arguments_stays(secret_settings: Settings) -> None:
    configure_logs(secret_settings, process="cli", console=False)
    record = _log.makeRecord(_log.name, logging.INFO, "", 0, "%s %d", ("hush1", 5), None)
    assert record.args == (HIDDEN, 5)


# ---- one file, many processes


_WRITER = """
import logging, sys
from pathlib import Path
from coin_hts_pipelines.operations.logs import LogFile

who, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
handler = LogFile(path, 20_000, 1000, "test")
for number in range(count):
    handler.handle(logging.LogRecord(who, logging.INFO, "", 0, f"{number} " + "x" * (number % 300), (), None))
"""


def start_writers(path: Path, count: int, writers: int = 4) -> list[subprocess.Popen[bytes]]:
    return [
        subprocess.Popen([sys.executable, "-c", _WRITER, f"writer-{number}", str(path), str(count)])
        for number in range(writers)
    ]


def test_processes_that_rotate_the_same_file_lose_and_tear_nothing(tmp_path: Path) -> None:
    path, count = tmp_path / LOG_NAME, 1500
    assert [writer.wait(120) for writer in start_writers(path, count)] == [0] * 4
    files = [*sorted(tmp_path.glob(f"{LOG_NAME}.[0-9]*"), key=lambda old: -int(old.suffix[1:])), path]
    assert len(files) > 10
    assert max(file.stat().st_size for file in files) <= 20_000
    written: dict[str, list[int]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            found = json.loads(line)
            written.setdefault(found["logger"], []).append(int(found["message"].split()[0]))
    # In order too: the files put aside are a chain.
    assert written == {f"writer-{number}": list(range(count)) for number in range(4)}


def test_a_killed_writer_leaves_whole_lines_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    writers = start_writers(path, 10_000_000, writers=3)
    try:
        while not path.with_name(f"{LOG_NAME}.3").exists():
            assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    handler = LogFile(path, 20_000, 1000, "test")
    handler.write(b'{"message": "after"}\n')
    handler.close()
    for file in tmp_path.glob(f"{LOG_NAME}*[0-9l]"):
        assert all(json.loads(line) for line in file.read_text().splitlines())


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / LOG_NAME, 100, 2, "test")
    (tmp_path / f"{LOG_NAME}.7").write_text("of a time when more were kept")
    for number in range(9):
        handler.write(b"%d" % number + b"x" * 60 + b"\n")
    handler.close()
    kept = {path.name: path.read_text()[0] for path in tmp_path.iterdir() if path.suffix != ".lock"}
    assert kept == {LOG_NAME: "8", f"{LOG_NAME}.1": "7", f"{LOG_NAME}.2": "6"}


def test_a_line_larger_than_a_file_is_kept_whole(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / LOG_NAME, 100, 2, "test")
    for letter in (b"a", b"b"):
        handler.write(letter * 500 + b"\n")
    handler.close()
    assert (tmp_path / LOG_NAME).read_bytes() == b"b" * 500 + b"\n"
    assert (tmp_path / f"{LOG_NAME}.1").read_bytes() == b"a" * 500 + b"\n"


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    handler = LogFile(folder / LOG_NAME, 100_000, 2, "test")
    handler.write(b"1\n")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    handler.write(b"2\n")
    handler.close()
    assert (folder / LOG_NAME).read_bytes() == b"2\n"


def test_a_fork_has_a_lock_of_its_own(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / LOG_NAME, 100_000, 2, "test")
    handler.write(b"parent\n")
    opened = handler._lock_file
    child = os.fork()
    if child == 0:
        handler.write(b"child\n")
        same = os.path.samestat(os.fstat(handler._lock_file), (tmp_path / f"{LOG_NAME}.lock").stat())
        os._exit(0 if same and handler._pid == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    handler.write(b"parent\n")
    assert handler._lock_file == opened
    assert (tmp_path / LOG_NAME).read_bytes() == b"parent\nchild\nparent\n"
    handler.close()


# ---- a log that cannot be written


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_at(tmp_path, log_dir=tmp_path / "file" / "logs")
    configure_logs(settings, process="cli", console=False)
    for _ in range(3):
        _log.info("the work goes on")
    err = capsys.readouterr().err
    assert err.count(str(settings.logs / LOG_NAME)) == 1
    assert "cannot be written" in err
    (tmp_path / "file").unlink()
    _log.info("mended")
    assert [line["message"] for line in lines(settings)] == ["mended"]


def test_one_that_cannot_open_the_file_keeps_no_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / LOG_NAME
    one, other = (LogFile(path, 100_000, 2, "test") for _ in range(2))
    one.write(b"1\n")
    path.unlink()
    path.mkdir()
    one.emit(logging.LogRecord("x", logging.INFO, "", 0, "lost", (), None))
    assert "cannot be written" in capsys.readouterr().err
    path.rmdir()
    writer = Thread(target=other.write, args=(b"2\n",), daemon=True)
    writer.start()
    writer.join(10)
    assert not writer.is_alive(), "it waits for a lock that nobody gives back"
    one.write(b"3\n")
    assert path.read_bytes() == b"2\n3\n"
    one.close()
    other.close()


def test_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True, check=False, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        settings = settings_at(tmp_path, log_dir=disk)
        configure_logs(settings, process="cli", console=False)
        for number in range(500):
            _log.info("%d %s", number, "x" * 1000)
        found = lines(settings)  # each is whole
        assert 0 < len(found) < 500
        assert capsys.readouterr().err.count("No space left on device") == 1
        (disk / LOG_NAME).write_bytes(b"")
        _log.info("there is room again")
        assert [line["message"] for line in lines(settings)] == ["there is room again"]
        reset_logs()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


_FULL = """
import logging, resource, signal, sys
from pathlib import Path
from coin_hts_pipelines.operations.logs import LogFile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
handler = LogFile(Path(sys.argv[1]), 100_000, 2, "test")
for number in range(20):
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "y" * 150, (), None))
print("went on")
"""


def test_a_line_that_was_cut_off_is_taken_back(tmp_path: Path) -> None:
    # The limit of a file's size ends a write in the middle, as a disk does that is full then.
    path = tmp_path / LOG_NAME
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "went on\n"
    assert done.stderr.count(str(path)) == 1
    found = path.read_text()
    assert found.endswith("}\n")
    assert all(json.loads(line) for line in found.splitlines())


def test_a_closed_standard_error_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    configure_logs(settings_at(tmp_path, log_dir=tmp_path / "file" / "logs"), process="cli", console=True)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    _log.error("the work goes on")


def test_a_field_that_cannot_be_shown_breaks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Sulky:
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    settings = settings_at(tmp_path)
    handle_alone(settings, "%s", Sulky())
    handle_alone(settings, "next")
    assert lines(settings)[-1]["message"] == "next"
    assert capsys.readouterr().err.count("cannot be written") == 1
