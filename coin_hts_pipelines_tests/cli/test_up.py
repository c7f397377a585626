"""`coin-hts up`: what it listens on, and what it says when that is open to others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.conftest import clean_environment

__all__ = ["new_database"]

# What it would become is printed in its place.
SCRIPT = """
import json, os, sys
os.execv = lambda program, argv: (print(json.dumps(argv)), sys.exit(0))
from coin_hts_pipelines.cli import main
sys.argv = ["coin-hts", "up", *sys.argv[1:]]
main()
"""
OPEN = "is open to other machines: whoever reaches it can start and end any run"


@pytest.mark.parametrize(
    ("argv", "variables", "address", "warned"),
    [
        ((), {}, "127.0.0.1", False),
        (("--host", "localhost"), {}, "localhost", False),
        (("--host", "::1"), {}, "::1", False),
        (("--host", "0.0.0.0"), {}, "0.0.0.0", True),
        (("--host", "::"), {}, "::", True),
        (("--host", "192.168.1.5"), {}, "192.168.1.5", True),
        ((), {"COIN_HTS_HOST": "0.0.0.0"}, "0.0.0.0", True),
        (("--host", "127.0.0.1"), {"COIN_HTS_HOST": "0.0.0.0"}, "127.0.0.1", False),
    ],
)
def test_opening_it_is_said(
    argv: tuple[str, ...],
    variables: dict[str, str],
    address: str,
    warned: bool,
    tmp_path: Path,
    new_database: Callable[[], str],
) -> None:
    (tmp_path / "dagster.yaml").write_text((Path(__file__).parents[2] / "dagster.yaml").read_text())
    environment = {**clean_environment(), "COIN_HTS_DATABASE_URL": new_database(), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *argv],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stdout)
    assert started[started.index("-h") + 1] == address
    assert started[started.index("-p") + 1] == "3000"
    assert (f"warning: {address} {OPEN}" in done.stderr) is warned
    assert ("without a login" in done.stderr) is warned
