"""With `coin-hts up` running, one changed candle partition ends in fresh exports of its symbol with no further hand.

The `automation` fixture did the change; these tests run last (see conftest.py).
"""

from __future__ import annotations

import json
import os
import signal

from coin_hts_pipelines_tests.integration.conftest import CHANGED, SYMBOLS, YEAR, Automation
from coin_hts_pipelines_tests.integration.helpers import (
    STRATEGIES,
    assert_exported,
    files_under,
    materialized,
    processes_in,
    run_statuses,
    wait_until,
)

PRESETS = {f"{name}_1d" for name in STRATEGIES}
FLOW_SECONDS = 240


def test_a_changed_candle_flows_down_to_the_exports(automation: Automation) -> None:
    project = automation.project
    pairs = {f"{preset}|{CHANGED}" for preset in PRESETS}
    years = {f"{CHANGED}|{YEAR}"}
    expected = {
        "candles_1d": years,
        "indicators_1d": years,
        "backtests_1d": pairs,
        "rankings_1d": PRESETS,
        "exports_1d": pairs,
    }

    def settled() -> bool:
        statuses = set(run_statuses(project).values())
        assert "FAILURE" not in statuses
        found = {asset: materialized(project, asset, automation.event) for asset in expected}
        # The year behind the changed one looks back into it, and has no candles.
        found["indicators_1d"].discard(f"{CHANGED}|{YEAR + 1}")
        assert all(found[asset] <= expected[asset] for asset in expected), f"more than asked for: {found}"
        return statuses == {"SUCCESS"} and found == expected

    wait_until(settled, FLOW_SECONDS, f"fresh exports of just {CHANGED}", pause=1)
    exports = files_under(project.data, "exports/backtests/**/*")
    assert exports.keys() == automation.exports.keys()
    assert len(exports) == 5 * len(PRESETS) * len(SYMBOLS)
    renewed = {name for name in exports if exports[name] != automation.exports[name]}
    assert {name.split("/")[-2] for name in renewed} == {CHANGED}
    for preset in PRESETS:
        assert_exported(project, "1D", preset, CHANGED)
        manifest = f"exports/backtests/1D/{preset}/{CHANGED}/manifest.json"
        assert manifest in renewed
        assert json.loads((project.data / manifest).read_text())["bars"] == 366


def test_the_doctor_sees_the_daemon(automation: Automation) -> None:
    done = automation.project.coin_hts("doctor", "--json")
    assert done.returncode == 0, done.stdout
    states = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)}
    assert states["daemon"] == "ok"


def test_ctrl_c_ends_all_of_it(automation: Automation) -> None:
    home = automation.project.home
    assert len(processes_in(home)) >= 4, "web server, daemon, code server and their parent"
    os.kill(automation.process.pid, signal.SIGINT)
    assert automation.process.wait(timeout=60) in (0, -signal.SIGINT)
    wait_until(lambda: not processes_in(home), 30, "the end of every process")
