"""The house holds: rings point inwards, one module reads the environment, the command line is light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import coin_hts_pipelines

PACKAGE = Path(coin_hts_pipelines.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))

RING_1 = ("market", "indicators", "strategies", "backtest", "errors", "parallel", "kernels", "clock")
RING_2 = ("lake", "results", "catalog", "tasks", "storage", "operations", "reports", "settings")

# Imports every module of some rooms in an interpreter in which some packages do not exist.
_IMPORT = """
import importlib, json, pkgutil, sys

rooms, forbidden = json.loads(sys.argv[1])


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is not for this ring")


sys.meta_path.insert(0, Absent())
count = 0
for room in rooms:
    module = importlib.import_module(f"coin_hts_pipelines.{room}")
    count += 1
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        if not found.name.endswith("migrations.env"):  # Alembic executes it, nobody imports it
            importlib.import_module(found.name)
            count += 1
print(count)
"""
_DAGSTER = ("dagster", "dagster_aws", "dagster_postgres", "dagster_shared", "dagster_pipes")


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize(
    ("rooms", "forbidden"),
    [
        pytest.param(RING_1, (*_DAGSTER, "sqlalchemy", "boto3", "pydantic_settings", "click"), id="ring 1"),
        pytest.param(RING_2, (*_DAGSTER, "click"), id="ring 2"),
    ],
)
def test_a_ring_is_whole_without_what_lies_outside(rooms: tuple[str, ...], forbidden: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _IMPORT, json.dumps([rooms, forbidden])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > len(rooms)


def test_every_room_belongs_to_a_ring() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    ring_3 = {"defs", "control", "cli", "definitions"}
    assert rooms - {"py.typed"} == {*RING_1, *RING_2, *ring_3}


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize(
    ("packages", "places"),
    [
        (_DAGSTER, {"defs", "control", "cli", "definitions.py"}),
        (("sqlalchemy", "alembic", "psycopg2"), {"catalog", "tasks", "operations", "control"}),
        (("boto3", "botocore", "s3transfer"), {"storage"}),
        (("coin_hts_pipelines.defs", "coin_hts_pipelines.control"), {"defs", "control", "cli", "definitions.py"}),
        (("coin_hts_pipelines.cli",), {"cli"}),
    ],
)
def test_a_package_is_imported_only_in_its_rooms(packages: tuple[str, ...], places: set[str]) -> None:
    # Also inside functions, and where the linter's ban is lifted for another package.
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in MODULES
        for name in _imported(path)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }
    assert users
    assert users <= places


_ENVIRONMENT = {"environ", "environb", "getenv", "putenv"}


def _reads_environment(tree: ast.AST) -> bool:
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "os"]
    names |= {alias.name for node in imports for alias in node.names}
    return bool(names & _ENVIRONMENT)


@pytest.mark.parametrize("source", ["import os\nos.getenv('X')", "from os import environ", "import os\nos.environ"])
def test_the_scan_for_the_environment_sees(source: str) -> None:
    assert _reads_environment(ast.parse(source))


def test_only_the_settings_touch_the_environment() -> None:
    assert [_name(path) for path in MODULES if _reads_environment(ast.parse(path.read_text()))] == ["settings.py"]


def test_every_module_says_what_it_is() -> None:
    assert [_name(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_the_entry_point_is_short() -> None:
    assert len((PACKAGE / "definitions.py").read_text().splitlines()) <= 30


@pytest.mark.parametrize("argv", [["--help"], ["--version"], []])
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    script = """
import sys
from coin_hts_pipelines.cli import main
sys.argv = ["coin-hts", *sys.argv[1:]]
try:
    main()
finally:
    heavy = {"dagster", "pandas", "numpy", "numba", "pyarrow", "sqlalchemy", "boto3", "talib", "rich"}
    print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.endswith("loaded: []\n"), done.stdout + done.stderr
    assert "coin-hts" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "imported", "banned"),
    [
        ("market/new.py", "dagster", True),
        ("market/new.py", "sqlalchemy", True),
        ("backtest/new.py", "boto3", True),
        ("lake/new.py", "dagster", True),
        ("lake/new.py", "sqlalchemy", True),
        ("results/new.py", "dagster_postgres", True),
        ("reports/new.py", "dagster", True),
        ("settings.py", "dagster_aws", True),
        ("catalog/new.py", "sqlalchemy", False),
        ("storage/new.py", "boto3", False),
        ("operations/new.py", "sqlalchemy", False),
        ("defs/new.py", "dagster", False),
        ("control/new.py", "dagster", False),
        ("cli/new.py", "dagster", False),
        ("definitions.py", "dagster", False),
    ],
)
def test_the_linter_knows_the_rings(place: str, imported: str, banned: bool) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251"),
            *("--output-format", "concise", "--stdin-filename", str(PACKAGE / place), "-"),
        ],
        input=f'"""New."""\n\nimport {imported}\n\nprint({imported})\n',
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert ("TID251" in done.stdout) is banned, done.stdout + done.stderr
