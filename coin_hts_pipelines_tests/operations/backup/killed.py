"""A backup, restore, drill or prune in a process of its own that is killed (SIGKILL) at the n-th call of a function."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.operations.backup import Keep, drill_backup, find_backup, prune_backups, restore_backup
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.operations.backup.helpers import House

ROOM = "coin_hts_pipelines.operations.backup."


def run_and_die(house: House, work: str, step: str, call: int = 1, *, after: bool = False) -> None:
    """Run it and see it die at that step: `module:attribute`, or `module:Class.attribute`."""
    argument = json.dumps([str(house.home), house.url, work, step, call, after])
    done = subprocess.run(
        [sys.executable, "-m", __name__, argument],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, f"it lived past {step}: {done.returncode} {done.stderr}"


def _arm(step: str, call: int, after: bool) -> None:
    module, _, path = step.partition(":")
    owner: Any = import_module(module if "." in module or module in ("pathlib", "subprocess") else ROOM + module)
    *classes, name = path.split(".")
    for one in classes:
        owner = getattr(owner, one)
    real, numbers = getattr(owner, name), itertools.count(1)

    def fatal(*args: Any, **options: Any) -> Any:
        number = next(numbers)  # of this call: others go on in other threads
        if number == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **options)
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, fatal)


def _main() -> None:
    home, url, work, step, call, after = json.loads(sys.argv[1])
    house = House(Path(home), Database(url, pool_size=2))
    _arm(step, call, after)
    if work == "backup":
        house.back_up()
    elif work == "prune":
        prune_backups(house.target, Keep(1, 0, 0))
    elif work == "drill":
        drill_backup(house.settings, house.target)
    else:
        restore_backup(house.target, find_backup(house.target, "latest"), house.root, url, force=True)


if __name__ == "__main__":
    _main()
