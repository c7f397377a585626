"""Where a drill happens, and what is done with the folder and server of one that was killed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from pathlib import Path

from coin_hts_pipelines.operations.embedded_postgres import stop_server

SCRATCH = ".drill"
_log = logging.getLogger(__name__)


def remove_scratch(scratch: Path) -> None:
    """End the servers in the folder of a drill and remove it; never raises, for worse is being said."""
    try:
        for pgdata in scratch.glob("*/postgres"):
            stop_server(pgdata)
    except Exception as error:
        _log.warning("the server of a drill in %s does not end: %s", scratch, error)
    shutil.rmtree(scratch, ignore_errors=True)


def remove_stale_scratch(data_root: Path) -> None:
    """Remove what a killed drill left, as large as the data itself; one that is at work is left alone."""
    scratch = data_root / SCRATCH
    if not scratch.exists():
        return
    try:
        lock = os.open(scratch.with_name(f"{scratch.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # whoever needs the disk will say what is wrong with it
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_scratch(scratch)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
