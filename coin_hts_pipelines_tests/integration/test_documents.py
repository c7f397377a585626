"""The documents are true: their commands run, and what they name exists.

In a fenced block a line that begins with `$ ` is a command, and every one is run, in the order of the documents, in one
project home with an embedded Postgres. Commands in the text are held against the command line's own parser.
"""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import shlex
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.operations.alerts import KINDS
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage import s3_client
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, MarketStore, made_candles
from coin_hts_pipelines_tests.integration import documents
from coin_hts_pipelines_tests.integration.document_home import DocumentHome, make_home, stock
from coin_hts_pipelines_tests.integration.document_runner import MADE, NOT_RUN, STATUS, UP, WITH_DAEMON, Runner, recipe
from coin_hts_pipelines_tests.integration.documents import DOCUMENTS, Block, Command, name_of
from coin_hts_pipelines_tests.mail_server import Webhook, webhook_server
from coin_hts_pipelines_tests.test_architecture import RING_1, RING_2

NEW_MACHINE = "coin-hts backup restore latest"
BUCKET = "documents"


@pytest.fixture(scope="module")
def exchange() -> Iterator[FakeUpbit]:
    """A live exchange."""
    market, now = MarketStore(), datetime.now(UTC)
    for seed, (name, timeframe) in enumerate((("KRW-BTC", "1H"), ("KRW-ETH", "1H"), ("KRW-SHIB", "1M"))):
        made = made_candles(now - timedelta(days=20), now + timedelta(days=1), timeframe, seed=seed)
        market.put(name, timeframe, made)
    with FakeUpbit(market, limit=None) as running:
        yield running


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """Settings of a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    s3_client(f"http://{host}:{port}", "us-east-1", "key", "secret").create_bucket(Bucket=BUCKET)
    yield {
        "COIN_HTS_EXPORT_STORE": "s3",
        "COIN_HTS_S3_BUCKET": BUCKET,
        "COIN_HTS_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "COIN_HTS_S3_ACCESS_KEY_ID": "key",
        "COIN_HTS_S3_SECRET_ACCESS_KEY": "secret",
    }
    server.stop()


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    # A short path: the name of a Unix socket is limited to 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="hts-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def home(scratch: Path, exchange: FakeUpbit) -> Iterator[DocumentHome]:
    """The project home in which all documents are run, stocked, with somewhere to send alerts to."""
    stock(scratch)
    with webhook_server() as hook:
        yield from stocked_home(scratch, exchange, hook)


def stocked_home(scratch: Path, exchange: FakeUpbit, hook: Webhook) -> Iterator[DocumentHome]:
    made = make_home(scratch, "home", exchange.base_url)
    made.variables["COIN_HTS_SLACK_WEBHOOK_URL"] = hook.url
    with urllib.request.urlopen(f"{exchange.base_url}/v1/candles/minutes/1?market=KRW-SHIB&count=200") as answer:
        (made.project.home / "upbit_1m.json").write_bytes(answer.read())
    try:
        files = ["--source", "files", "--path", str(scratch / "candles")]
        for words in (["run", *files, "--symbols", "KRW-BTC,KRW-ETH", "--timeframes", "1D"], ["backup", "create"]):
            done = made.run(["coin-hts", *words])
            assert done.status == 0, done.output
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def runner(home: DocumentHome, bucket: dict[str, str]) -> Runner:
    return Runner(home, bucket, done={UP})


def is_of_a_new_machine(block: Block) -> bool:
    return any(command.text.startswith(NEW_MACHINE) for command in block.commands)


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if any(b.commands for b in documents.blocks(path))], ids=name_of
)
def test_every_command_runs(path: Path, runner: Runner) -> None:
    system = [program for program in ("jq",) if f"| {program} " in path.read_text() and not shutil.which(program)]
    if system:
        pytest.skip(f"{system} is not installed; CI installs it")
    for block in documents.blocks(path):
        if not is_of_a_new_machine(block):
            runner.block(block)
    assert path.name != "README.md" or runner.served, "`coin-hts up` was not tried"


def rankings(home: DocumentHome) -> dict[str, str]:
    """SHA-256 of every ranking, by its path."""
    data = home.project.data
    files = (data / "rankings").rglob("*.parquet")
    return {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_new_machine(home: DocumentHome, scratch: Path, exchange: FakeUpbit, bucket: dict[str, str]) -> None:
    """A new empty machine is brought back by the commands that operations.md names."""
    (block,) = (one for path in DOCUMENTS for one in documents.blocks(path) if is_of_a_new_machine(one))
    assert len(block.commands) == 3
    made = home.run(["coin-hts", "backup", "create"])
    assert made.status == 0, made.output
    before = rankings(home)
    assert before
    new = make_home(scratch, "new", exchange.base_url)
    shutil.copytree(scratch / "home" / "backups", new.project.home / "backups")
    try:
        assert not new.project.data.exists()
        Runner(new, bucket).block(block)
        assert rankings(new) == before
        listed = [json.loads(one.run(["coin-hts", "backtest", "list", "--json"]).output) for one in (home, new)]
        digests = [[(row["id"], row["result_digest"]) for row in rows] for rows in listed]
        assert digests[0] == digests[1] != []
    finally:
        new.close()


def all_commands() -> list[Command]:
    return [command for path in DOCUMENTS for block in documents.blocks(path) for command in block.commands]


def test_nothing_is_left_out_that_is_not_there() -> None:
    texts = [command.text for command in all_commands()]
    for prefix in [*NOT_RUN, *STATUS, WITH_DAEMON]:
        assert any(text.startswith(prefix) for text in texts), f"no document has {prefix!r}"
    for target, made in MADE.items():
        # `make install` makes `.env`, and that is what the command is for.
        assert f"$(BIN)/{made}" in recipe(".env" if target == "make install" else target.split()[1])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_what_looks_like_a_command_is_marked_as_one(path: Path) -> None:
    assert [line for block in documents.blocks(path) for line in block.unmarked] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_in_the_text_exist(path: Path) -> None:
    for mention in documents.mentions(path, "coin-hts"):
        for words in documents.alternatives(shlex.split(mention, comments=True)):
            documents.check_syntax(words)
    for mention in documents.mentions(path, "make"):
        recipe(mention.split()[1])


@pytest.mark.parametrize(
    "text",
    ["coin-hts nope", "coin-hts backup nope", "coin-hts doctor ID", "coin-hts up --prot 1", "coin-hts up --port"],
)
def test_the_check_of_the_text_sees(text: str) -> None:
    with pytest.raises(ValueError, match="`coin-hts "):
        documents.check_syntax(text.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in documents.links(path):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        assert found.exists(), f"{name_of(path)}: {target}"
        assert not anchor or anchor in documents.anchors(found), f"{name_of(path)}: {target}"


def test_every_alert_has_its_runbook() -> None:
    assert {path.stem for path in (documents.DOCS / "runbooks").glob("*.md")} == set(KINDS)
    for kind in KINDS:
        title = (documents.DOCS / "runbooks" / f"{kind}.md").read_text().splitlines()[0]
        assert f"`{kind}`" in title


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_settings_that_are_named_exist(path: Path) -> None:
    known = {f"COIN_HTS_{field.upper()}" for field in Settings.model_fields} | documents.NOT_SETTINGS
    for name, more in re.findall(r"\b(COIN_HTS_[A-Z0-9_]*[A-Z0-9])(_\*)?", path.read_text()):
        assert name in known or (more and any(one.startswith(name) for one in known)), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(path: Path) -> None:
    missing = [name for name in documents.named_files(path) if not documents.exists(name, path)]
    assert missing == []


def test_the_page_of_settings_is_current() -> None:
    made = runpy.run_path(str(documents.DOCS / "configuration.py"))
    assert made["PAGE"].read_text() == made["page"](), "write it anew: make docs"


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What docs/pictures/architecture.py has."""
    monkeypatch.syspath_prepend(str(documents.DOCS / "pictures"))
    return runpy.run_path(str(documents.DOCS / "pictures" / "architecture.py"))


def test_the_pictures_of_the_architecture_are_current(drawing: dict[str, Any]) -> None:
    for name, draw in drawing["PICTURES"].items():
        assert (documents.DOCS / "pictures" / name).read_text() == draw(), f"draw {name} anew: make docs"


def test_its_rooms_are_those_of_the_rule(drawing: dict[str, Any]) -> None:
    rings = {number: set(rooms) for number, rooms in drawing["RINGS"].items()}
    assert rings == {1: set(RING_1), 2: set(RING_2), 3: {"cli", "control", "defs", "definitions"}}
    ring_of = {room: number for number, rooms in rings.items() for room in rooms}
    for room, (_, imported) in drawing["rooms"]().items():
        assert all(ring_of[other] <= ring_of[room] for other in imported), room


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")
def test_it_names_every_asset_sensor_schedule_and_job() -> None:
    """And nothing of that kind that is not there."""
    repository = build_defs().get_repository_def()
    found = {
        *(key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()),
        *(sensor.name for sensor in repository.sensor_defs),
        *(schedule.name for schedule in repository.schedule_defs),
        *(name for name in repository.job_names if not name.startswith("__")),
    }
    names = {re.sub(r"_(1d|1h|5m|1m)(?=_|$)", "_*", name) for name in found}
    text = (documents.DOCS / "architecture.md").read_text()
    drawn = "".join((documents.DOCS / "pictures" / name).read_text() for name in ("flow.svg", "rooms.svg"))
    assert {name for name in names if name not in text + drawn} == set()
    told = {span for span in documents.code_spans(text) if re.fullmatch(r"[a-z]+(_[a-z*]+)+", span)}
    assert told <= names | {"coin_hts_pipelines"}
