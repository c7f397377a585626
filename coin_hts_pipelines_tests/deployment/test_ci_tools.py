"""`make audit` and `make secrets`: what they find, what they let pass, and what they say when nobody answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines_tests.conftest import CHECKOUT

# In two parts, like those below: this file is searched too.
PLANTED = "AKIA" + "IOSFODNN7EXAMPLQ"
CLOSED = "http://127.0.0.1:9/"  # nobody listens to the port of `discard`


def run(script: str, *argv: str, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, str(CHECKOUT / ".ci" / script), *argv)
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout with one harmless file."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "harmless.py").write_text("password = ''\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"key = '{PLANTED}'", "AWS Access Key"),
        ("url = 'postgresql://somebody:" + "correct-horse@db/x'", "Basic Auth Credentials"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "Private Key"),
        ("hook = 'https://hooks.slack.com/services/" + "T0AAAAAAA/B0AAAAAAA/abcdefghijklmnopqrstuvwx'", "Slack Token"),
    ],
)
def test_a_planted_secret_is_found(repository: Path, text: str, kind: str) -> None:
    assert run("find_secrets.py", cwd=repository).returncode == 0
    (repository / "planted.py").write_text(f"first = 1\n{text}\n")
    assert run("find_secrets.py", cwd=repository).returncode == 0, "git does not track it yet"
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    found = run("find_secrets.py", cwd=repository)
    assert found.returncode == 1
    assert f"planted.py:2: {kind}" in found.stdout
    assert text not in found.stdout, "a log of CI is no place for it"

    assert run("find_secrets.py", "--update", cwd=repository).returncode == 0
    assert text not in (repository / ".secrets.baseline").read_text()
    (repository / "planted.py").write_text(f"first = 1\n\n\n{text}\n")
    assert run("find_secrets.py", cwd=repository).returncode == 0, "it only moved"
    (repository / "harmless.py").write_text(f"{text}\n")
    assert run("find_secrets.py", cwd=repository).returncode == 1, "known to be none in another file only"


@contextmanager
def service(vulnerable: str) -> Iterator[str]:
    """A vulnerability service (OSV's) that knows of one package with a vulnerability."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bug: dict[str, Any] = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "summary": "bad", "affected": []}
            body = json.dumps({"vulns": [bug]} if asked["package"]["name"] == vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_vulnerable_package_fails_the_audit() -> None:
    with service("dagster") as url:
        done = run("audit.py", "-s", "osv", "--osv-url", url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PYSEC-2026-1" in done.stdout
    assert "1 vulnerabilities to mend" in done.stdout


def test_without_one_it_passes_and_says_how_many_were_looked_up() -> None:
    with service("nothing") as url:
        done = run("audit.py", "-s", "osv", "--osv-url", url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 vulnerabilities to mend" in done.stdout
    assert not done.stdout.startswith("0 of")


def test_offline_it_says_so_and_passes() -> None:
    done = run("audit.py", "-s", "osv", "--osv-url", CLOSED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("NOT AUDITED: the vulnerability service cannot be reached")


def test_what_it_cannot_read_fails() -> None:
    done = run("audit.py", "--no-such-option")
    assert done.returncode == 1
    assert done.stdout.startswith("pip-audit failed: ")


@pytest.mark.parametrize("name", ["docs", "audit", "secrets"])
def test_ci_and_the_makefile_call_them(name: str) -> None:
    assert f"\n{name}: " in (CHECKOUT / "Makefile").read_text()
    assert name == "docs" or f"\nmake {name}\n" in (CHECKOUT / ".ci" / "run").read_text()
