"""The log: one file of JSON lines, `<log folder>/coin-hts.jsonl`, that every process of the house appends to.

Everybody logs by the standard library; `configure_logs` puts a handler at the root, so every logger is included, those
of libraries one level quieter than ours. Dagster's records of a run do not reach the root: `dagster.yaml` names
`RunRecords`, which hands them on. Warnings are shown on standard error too; standard output belongs to the commands.

One file for all processes, because a question ("what happened to this run?") does not know which process wrote the
answer, and run workers are processes of a minute each. `logging.handlers.RotatingFileHandler` is for one process: two
that rotate at once lose a whole file. Here each line is one `write` to a file opened for appending, under `flock` on a
side file; under the same lock the size is looked at, the files are renamed, and a handler whose file was renamed by
another process opens the new one. A line is written whole or not at all: what a full disk cut off is taken back.

A record factory takes secrets out of every record when it is made, so that no handler of anybody's sees them, Dagster's
included; an error that Dagster stores as an event of its own is no record and passes by it. A log that cannot be
written is said once; work goes on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from coin_hts_pipelines.operations.redaction import learn_secrets, may_hold_secrets, redact, redact_value
from coin_hts_pipelines.settings import Settings

__all__ = ["LOG_NAME", "LogFile", "RunRecords", "bind", "configure_logs", "redact", "reset_logs"]

LOG_NAME = "coin-hts.jsonl"
_OURS = ("coin_hts_pipelines", "dagster", "dagster-webserver")
_MEGABYTE = 1024 * 1024
# Asked for again whenever the folder was removed and made anew meanwhile.
_TRIES = 5
# Dagster calls every event of a run DEBUG; these are what a person wants to read of a run that is well.
_MILESTONES = {"PIPELINE_START", "PIPELINE_SUCCESS", "PIPELINE_CANCELED", "STEP_SUCCESS"}
_NOT_FIELDS = {
    *logging.makeLogRecord({}).__dict__,
    *("message", "asctime", "taskName", "color_message"),
    *("dagster_meta", "dagster_event", "dagster_event_batch_metadata"),
}


# ---- a record as fields


def _dagster_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Run, job, step, asset, partition, symbol and duration where Dagster gives them."""
    meta: Mapping[str, Any] | None = getattr(record, "dagster_meta", None)
    if not meta:
        return {}
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    fields: dict[str, Any] = {
        "message": meta.get("orig_message"),
        "run": meta.get("run_id"),
        "job": meta.get("job_name"),
        "step": meta.get("step_key"),
        "sensor": meta.get("name"),
        "symbol": tags.get("dagster/partition/symbol"),
        "partition": tags.get("dagster/partition"),
    }
    first, last = (tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    if first and last:
        fields["partition"] = first if first == last else f"{first}...{last}"
    event = meta.get("dagster_event")
    if event is not None:
        data = event.event_specific_data
        duration, error = getattr(data, "duration_ms", None), getattr(data, "error", None)
        fields["event_type"] = event.event_type_value
        fields["asset"] = event.asset_key.to_user_string() if event.asset_key else None
        fields["partition"] = event.partition or fields["partition"]
        fields["duration"] = round(duration / 1000, 3) if duration is not None else None
        fields["exception"] = error.to_string() if error is not None else None
    return fields


def _level(record: logging.LogRecord) -> int:
    event = getattr(record, "dagster_event", None)
    return logging.INFO if event is not None and event.event_type_value in _MILESTONES else record.levelno


def _exception(record: logging.LogRecord) -> str | None:
    if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
        return "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return record.exc_text or (record.exc_info if isinstance(record.exc_info, str) else None)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the text are still worth reading
        return f"{record.msg} {record.args}"


def _fields(record: logging.LogRecord, process: str) -> dict[str, Any]:
    """Everything a line says; fields without a value are left out."""
    from structlog.contextvars import get_contextvars  # noqa: PLC0415

    fields = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": logging.getLevelName(_level(record)).lower(),
        "logger": record.name,
        "message": _message(record),
        "process": process,
        "pid": record.process,
        "exception": _exception(record),
    }
    more = {
        **get_contextvars(),
        **{name: value for name, value in record.__dict__.items() if name not in _NOT_FIELDS},
        **{name: value for name, value in _dagster_fields(record).items() if value is not None},
    }
    # A field of the caller's never takes the place of one of ours.
    message, exception = more.pop("message", fields["message"]), more.pop("exception", None) or fields["exception"]
    fields = {**more, **fields, "message": message, "exception": exception}
    order = ("timestamp", "level", "logger", "message", "run", "task", "symbol", "partition", "duration")
    named = {name: fields.pop(name) for name in order if name in fields}
    return {name: value for name, value in (named | fields).items() if value is not None}


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Put fields (`run=`, `task=`, `symbol=`) on every line that this thread logs inside."""
    from structlog.contextvars import bound_contextvars  # noqa: PLC0415

    with bound_contextvars(**{name: value for name, value in fields.items() if value is not None}):
        yield


# ---- where lines go


class _JsonLine(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        fields, render = _fields(record, self.process), _json()
        # Most lines hold nothing to hide, and one look at the whole costs less than one at each field.
        with suppress(ValueError):
            line = str(render(None, "", fields))
            if not may_hold_secrets(line):
                return line
        return str(render(None, "", redact_value(fields)))


@cache
def _json() -> Any:
    # A tenth of a second, and most commands log nothing.
    from structlog.processors import JSONRenderer  # noqa: PLC0415

    # NaN is not JSON.
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode
    return JSONRenderer(lambda fields, **_: encode(fields))


def _say(text: str) -> None:
    """Last resort: say something on standard error, if there is one."""
    with suppress(Exception):
        sys.stderr.write(f"{redact(text)}\n")
        sys.stderr.flush()


class LogFile(logging.Handler):
    """Appends lines to a file that other processes append to and rotate as well."""

    def __init__(self, path: Path, max_bytes: int, files: int, process: str) -> None:
        super().__init__()
        self.path, self.max_bytes, self.files = path, max_bytes, files
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._name = str(path)  # one call of the system a line, and none of pathlib
        self._file = self._lock_file = -1
        self._identity = (0, 0)
        self._pid = os.getpid()
        self._failed = False
        self.setFormatter(_JsonLine(process))

    def filter(self, record: logging.LogRecord) -> bool:
        """Refuse what `RunRecords` has written: Dagster repeats the records of a run for its console."""
        return "log_message_id" not in (getattr(record, "dagster_meta", None) or ()) and super().filter(record)

    def append(self, record: logging.LogRecord) -> None:
        """Write a record whatever the filter says."""
        self.acquire()
        try:
            self.emit(record)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line; what goes wrong is said once and never raised."""
        try:
            self.write(self.format(record).encode(errors="backslashreplace") + b"\n")
        except Exception as error:
            if not self._failed:
                self._failed = True
                _say(f"the log {self.path} cannot be written ({error}); the work goes on without it")

    def write(self, line: bytes) -> None:
        """Append a line, after putting the file aside when it would grow too large.

        Raises
        ------
        OSError
            If it cannot be written; the file then is as before.
        """
        if self._pid != os.getpid():
            # Of a fork: its lock is its parent's, and would keep neither out.
            self._forget()
            self._pid = os.getpid()
        try:
            size = self._take_lock()
            if size and size + len(line) > self.max_bytes:
                self._rotate()
                size = self._open()
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            if self._lock_file >= 0:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _take_lock(self) -> int:
        """Lock, see to it that the open file is the one at the path, and return its size."""
        if self._file >= 0:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                found = os.stat(self._name)  # noqa: PTH116
                if (found.st_dev, found.st_ino) == self._identity:
                    return found.st_size
        for _ in range(_TRIES):
            if self._lock_file < 0:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock_file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            if _is_at(self._lock_file, self._lock_path):
                return self._open()
            self._forget()
        raise OSError(f"{self._lock_path} is removed again and again")

    def _open(self) -> int:
        self._close_file()
        self._file = os.open(self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        found = os.fstat(self._file)
        self._identity = found.st_dev, found.st_ino
        return found.st_size

    def _rotate(self) -> None:
        for number in range(self.files - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._aside(number).replace(self._aside(number + 1))
        self.path.replace(self._aside(1))
        for old in self.path.parent.glob(f"{self.path.name}.*"):
            suffix = old.name.removeprefix(f"{self.path.name}.")
            if suffix.isdigit() and int(suffix) > self.files:
                old.unlink(missing_ok=True)

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _forget(self) -> None:
        self._close_file()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def close(self) -> None:
        """Close the files; the next line opens them again, since `dictConfig` closes every handler there is."""
        self.acquire()
        try:
            self._forget()
        finally:
            self.release()
        super().close()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class _Console(logging.Handler):
    """Warnings for a person on standard error, in colours on a terminal, without tracebacks: those are in the file."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if _prints_itself(record.name):
                return
            fields = redact_value(_fields(record, ""))
            for name in ("process", "pid", "timestamp"):
                fields.pop(name, None)
            text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", str(fields.pop("message")))
            if "exception" in fields:
                fields["reason"] = str(fields.pop("exception")).rstrip().rpartition("\n")[2]
            # Now and not before: a run captures this process's streams for a while.
            stream = sys.stderr
            shown = _renderer(stream.isatty())(None, "", {**fields, "event": text})
            stream.write(f"{shown}\n")
            stream.flush()
        except Exception:
            _say(f"{record.levelname.lower()}: {record.msg}")


@cache
def _renderer(colors: bool) -> Any:
    from structlog.dev import ConsoleRenderer  # noqa: PLC0415

    return ConsoleRenderer(colors=colors, pad_event_to=0, pad_level=False, sort_keys=False)


def _prints_itself(name: str) -> bool:
    """Whether a logger has a handler of its own, as those of Dagster's servers have."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger is not logging.root:
        if logger.handlers:
            return True
        logger = logger.parent
    return False


class RunRecords(logging.Handler):
    """What Dagster logs of a run, to be named in `dagster.yaml`; in a process that keeps no log it does nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record on, milestones as INFO."""
        file = _Configured.file
        if file is not None and _level(record) >= file.level:
            file.append(record)


# ---- configuring


class _Configured:
    """What `configure_logs` has put up in this process."""

    file: LogFile | None = None
    handlers: tuple[logging.Handler, ...] = ()
    factory: Any = None


def configure_logs(settings: Settings, *, process: str, console: bool) -> None:
    """Log everything of this process to the file; called again, it begins anew.

    Parameters
    ----------
    settings
        Folder, level, size and number of files; their secrets are hidden.
    process
        Kind of process, a field of every line: cli, webserver, daemon, code-server, run.
    console
        Whether warnings are shown on standard error too.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    learn_secrets(settings)
    reset_logs()
    file = LogFile(settings.logs / LOG_NAME, settings.log_max_megabytes * _MEGABYTE, settings.log_files, process)
    file.setLevel(level)
    shown = _Console(level=logging.WARNING)
    _Configured.file, _Configured.handlers = file, (file, shown) if console else (file,)
    for handler in _Configured.handlers:
        logging.root.addHandler(handler)
    _set_levels(level)
    if _Configured.factory is None:
        _Configured.factory = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_make_clean)


def _set_levels(level: int) -> None:
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    # Others one level quieter: at INFO boto3 and Alembic tell of every call, at DEBUG numba of every instruction.
    logging.root.setLevel(max(level, min(level + 10, logging.WARNING)))


def reset_logs() -> None:
    """Take back what `configure_logs` has put up."""
    for handler in _Configured.handlers:
        logging.root.removeHandler(handler)
        handler.close()
    _Configured.file, _Configured.handlers = None, ()
    if _Configured.factory is not None and logging.getLogRecordFactory() is _make_clean:
        logging.setLogRecordFactory(_Configured.factory)
        _Configured.factory = None
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)


def _make_clean(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Make a record without secrets; one that holds none is left as it is."""
    record: logging.LogRecord = (_Configured.factory or logging.LogRecord)(*args, **kwargs)
    with suppress(Exception):
        _clean(record)
    return record


def _clean(record: logging.LogRecord) -> None:
    message = _message(record)
    if may_hold_secrets(message) and redact(message) != message:
        # First part by part: uvicorn's formatter for one counts on the number of arguments.
        args = record.args
        if isinstance(args, tuple):
            record.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in args)
        record.msg = redact(str(record.msg))
        if redact(_message(record)) != _message(record):
            record.msg, record.args = redact(message), ()
    text = _exception(record)
    if text is not None and (clean := redact(text)) != text:
        # Every formatter takes this text before it looks at the exception.
        record.exc_text, record.exc_info = clean, None
