"""Runs the commands of the documents, block by block, in a stocked project home."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.integration.document_home import FORKED, DocumentHome, Outcome
from coin_hts_pipelines_tests.integration.documents import Block, Command

# Commands that are not run, by how they begin, and why.
NOT_RUN = {
    "docker compose": "needs a Docker engine; test_compose runs what the services run, as the document says",
    "git pull": "would change the checkout the tests run in",
}
# What the Makefile makes of a target, beside the installation: that is run in its place.
MADE = {"make install": "coin-hts setup", "make run": "coin-hts run", "make up": "coin-hts up"}
# These fail where the document says that they do.
STATUS = {"coin-hts backtest check --strategy no_losers": 1}
UP = "coin-hts up"
# Once is enough, however many documents name them: they look at everything and change nothing of their own.
ONCE = ("coin-hts doctor", UP)
# A block with this command is run while `coin-hts up` serves.
WITH_DAEMON = "coin-hts task watch"

_SHELL = re.compile(r"[|;&<>]|\$\(")


@dataclass
class Runner:
    """Runs commands in a home; `bucket` are settings of an object store."""

    home: DocumentHome
    bucket: dict[str, str]
    done: set[str] = field(default_factory=set)
    served: bool = False

    def block(self, block: Block) -> None:
        """Run the commands of a block; what they write to `.env` lasts to its end."""
        env_file = self.home.project.home / ".env"
        before = env_file.read_text() if env_file.exists() else None
        if any(command.text.startswith(WITH_DAEMON) for command in block.commands):
            with self.serving(UP.split()):
                self._commands(block)
            self.served = True
        else:
            self._commands(block)
        if before is not None:
            env_file.write_text(before)

    def _commands(self, block: Block) -> None:
        for command in block.commands:
            if not any(command.text.startswith(prefix) for prefix in NOT_RUN):
                self._command(command)

    def _command(self, command: Command) -> None:
        outcome = self._shell(command.text) if needs_a_shell(command.text) else self._words(command.words)
        expected = next((status for prefix, status in STATUS.items() if command.text.startswith(prefix)), 0)
        assert outcome.status == expected, f"{command}\nstatus {outcome.status}\n{outcome.output}"
        assert "Traceback" not in outcome.output, f"{command}\n{outcome.output}"

    def _shell(self, text: str) -> Outcome:
        if " && " in text:
            first, _, last = text.partition(" && ")
            outcome = self._shell(first)
            return outcome if outcome.status else self._words(shlex.split(last, comments=True))
        return self.home.shell(text.replace("RUN_ID", self.home.newest_run()))

    def _words(self, words: list[str]) -> Outcome:
        if words[0] == "make":
            words = shlex.split(MADE[" ".join(words)])
        text = shlex.join(words)
        if text in ONCE and text in self.done:
            return Outcome(0, "")
        self.done.add(text)
        if words[:2] == ["coin-hts", "up"] or words[:2] == ["coin-hts", "metrics"] or "--watch" in words:
            with self.serving(words) as outcome:
                return outcome
        if words[:2] == ["pip", "install"]:
            return self._install(words)
        extra = self.bucket if words[:3] == ["coin-hts", "storage", "bootstrap"] else {}
        return self.home.run(self.home.fill(words), **extra)

    def serving(self, words: list[str]) -> AbstractContextManager[Outcome]:
        """Have a command serve that does not end."""
        port = words[words.index("--port") + 1] if "--port" in words else self.home.variables["COIN_HTS_PORT"]
        paths = {"up": "/server_info", "metrics": "/metrics"}
        return self.home.serving(words, f"http://127.0.0.1:{port}{paths[words[1]]}" if words[1] in paths else "")

    def _install(self, words: list[str]) -> Outcome:
        """Install where only this home looks, from a copy: pip builds where the source is."""
        *options, source = words[2:]
        copy = self.home.packages.parent / "source"
        shutil.copytree(CHECKOUT / source, copy)
        argv = [sys.executable, "-m", "pip", "install", "-qq", "--no-index", *options, "--target"]
        done = subprocess.run([*argv, self.home.packages, copy], capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stderr)


def needs_a_shell(text: str) -> bool:
    """Whether a line is more than a program of ours and its words."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"|\s#.*", "", text)
    return bool(_SHELL.search(bare)) or text.split(maxsplit=1)[0] not in (*FORKED, "make", "pip")


def recipe(target: str) -> str:
    """Recipe of a target of the Makefile."""
    found = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)*)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert found, f"the Makefile has no target {target}"
    return found[1]
