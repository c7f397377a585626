"""Strategies of other packages: found by their entry points, and harmless where they are broken."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest, Exits, run_backtest
from coin_hts_pipelines.operations.health import check_strategies
from coin_hts_pipelines.strategies import broken_plugins, get_strategy, list_strategies
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.strategies.plugin_maker import WORKING, install, on_path

BUILTIN = list_strategies()
Install = Callable[[str, dict[str, str], str], None]


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Install]:
    """Installs packages beside one that works."""
    install(tmp_path, "working-package", {"working": "working_package:Working"}, WORKING)
    with ExitStack() as stack:
        stack.enter_context(on_path(tmp_path))

        def more(package: str, strategies: dict[str, str], source: str) -> None:
            install(tmp_path / package, package, strategies, source)
            stack.enter_context(on_path(tmp_path / package))

        yield more


@pytest.mark.usefixtures("installed")
def test_a_strategy_of_another_package() -> None:
    assert list_strategies() == sorted([*BUILTIN, "working"])
    assert broken_plugins() == {}
    assert check_strategies().state == "ok"
    assert "working" in check_strategies().detail

    candles = random_walk(45, 1)
    request = BacktestRequest("working", {"hold_period_bars": 5})
    assert request.identity()["strategy_version"] == "7"
    assert BacktestRequest.from_dict(request.to_dict()) == BacktestRequest("working", request.full_params)
    trades = run_backtest(candles, request).trades
    assert trades["entry_bar"].tolist() == [0, 10, 20, 30, 40]
    assert trades["exit_bar"].tolist() == [1, 11, 21, 31, 41]
    assert set(trades["reason"]) == {"signal"}
    held = run_backtest(candles, BacktestRequest("working", {"hold_period_bars": 5}, exits=Exits(signal_exit=False)))
    assert held.trades["exit_bar"].tolist()[:4] == [5, 15, 25, 35]


def test_it_is_gone_with_the_test() -> None:
    assert list_strategies() == BUILTIN
    assert "working_package" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_a_strategy_of_the_package_imports_no_plugin() -> None:
    BacktestRequest("sma_cross")
    assert "working_package" not in sys.modules
    get_strategy("working")
    assert "working_package" in sys.modules


BASE = "from coin_hts_pipelines.strategies import Param, Strategy\n"
BODY = "    def compute(self, candles, params, start, stop): ...\n"
PARAMS = "    params = (Param('n', 1, 1, 5, 'n'),)\n"
CLASS = f"{BASE}class Bad(Strategy):\n    name = 'bad'\n{PARAMS}{BODY}"
BROKEN = {
    "an import that fails": ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    "no such class": ("class Good: ...", "AttributeError: module 'bad_package' has no attribute 'Bad'"),
    "a syntax error": ("class Bad(:", "SyntaxError: invalid syntax"),
    "an error on import": ("raise ValueError('no\\n  licence')", "cannot be loaded: ValueError: no licence"),
    "an exit on import": ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
    "a function": ("def Bad(): ...", "is no subclass of Strategy"),
    "another class": ("class Bad: ...", "is no subclass of Strategy"),
    "an object": (f"{CLASS}Bad = Bad()", "is no subclass of Strategy"),
    "the base class": (f"{BASE}Bad = Strategy", "TypeError: Can't instantiate abstract class"),
    "without compute": (f"{BASE}class Bad(Strategy):\n    name = 'bad'\n{PARAMS}", "TypeError: Can't instantiate"),
    "without a name": (f"{BASE}class Bad(Strategy):\n{PARAMS}{BODY}", "has no attribute 'name'"),
    "without parameters": (f"{BASE}class Bad(Strategy):\n    name = 'bad'\n{BODY}", "has no attribute 'params'"),
    "of another name": (CLASS.replace("'bad'", "'fine'"), "has name = 'fine'; expected that of its entry point, 'bad'"),
    "a version that is no text": (f"{CLASS}    version = 2\n", "has version = 2; expected a text"),
    "a default out of range": (CLASS.replace("1, 1, 5", "9, 1, 5"), "bad: parameter n = 9 is not accepted"),
    "arguments": (f"{CLASS}    def __init__(self, n): ...\n", "missing 1 required positional argument"),
    "defaults that are refused": (
        f"{CLASS}    def check(self, params):\n        raise ValueError('never')\n",
        "cannot be loaded: ValueError: never",
    ),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_takes_no_other_down(installed: Install, source: str, reason: str) -> None:
    installed("bad-package", {"bad": "bad_package:Bad"}, source)
    assert list_strategies() == sorted([*BUILTIN, "working"])
    assert get_strategy("working").version == "7"
    assert list(broken_plugins()) == ["bad"]
    assert broken_plugins()["bad"].startswith("bad-package (bad_package:Bad) ")
    assert reason in broken_plugins()["bad"]
    with pytest.raises(InvalidRequest) as raised:
        BacktestRequest("bad")
    assert str(raised.value) == f"strategy 'bad' cannot be used: {broken_plugins()['bad']}"
    assert "\n" not in str(raised.value)
    with pytest.raises(InvalidRequest, match=r"'moon' is unknown; available: .*working"):
        BacktestRequest("moon")
    finding = check_strategies()
    assert (finding.name, finding.state) == ("strategies", "fail")
    assert finding.detail == f"1 plug-ins cannot be used: bad: {broken_plugins()['bad']}"


def test_a_name_the_package_has_is_refused(installed: Install) -> None:
    installed("bold-package", {"sma_cross": "bold_package:Bold"}, WORKING.replace("Working", "Bold"))
    assert list_strategies() == sorted([*BUILTIN, "working"])
    assert type(get_strategy("sma_cross")).__module__ == "coin_hts_pipelines.strategies.sma_cross"
    assert broken_plugins() == {
        "sma_cross": "the name is given by coin_hts_pipelines itself (coin_hts_pipelines.strategies.sma_cross) "
        "and by bold-package (bold_package:Bold); rename it in one, or uninstall one"
    }
    assert "bold_package" not in sys.modules


def test_a_name_two_packages_give_is_refused(installed: Install) -> None:
    installed("second-package", {"working": "second_package:Working", "other": "second_package:Other"}, (
        WORKING + WORKING.replace("Working", "Other").replace('"working"', '"other"')
    ))  # fmt: skip
    assert list_strategies() == sorted([*BUILTIN, "other"])
    assert get_strategy("other").name == "other"
    with pytest.raises(InvalidRequest) as raised:
        get_strategy("working")
    text = str(raised.value)
    assert text.startswith("strategy 'working' cannot be used: the name is given by ")
    assert "working-package (working_package:Working)" in text
    assert "second-package (second_package:Working)" in text
