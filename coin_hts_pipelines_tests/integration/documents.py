"""What stands in the documents: commands, mentions of commands, links, names of settings and files."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from coin_hts_pipelines.cli import cli
from coin_hts_pipelines_tests.conftest import CHECKOUT

DOCS = CHECKOUT / "docs"
# The README first: it is what stocks a home; the others in the order of their names. Reports are what a program found.
DOCUMENTS = [
    CHECKOUT / "README.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if DOCS / "reports" not in path.parents),
]

# Blocks of these languages are files, not what somebody types.
FILES = ("toml", "python", "json", "yaml", "ini")
PROGRAMS = (
    "coin-hts|make|dagster|dg|docker|git|pip|python3?|tail|head|cat|jq|grep|curl|echo|cp|mv|rm|mkdir|cd|export|sudo|"
    "systemctl|psql|pg_dump|pg_restore|ssh|openssl|set|kill"
)
_LOOKS_TYPED = re.compile(rf"(?:{PROGRAMS}|\.venv/bin/\S+)(?: |$)")


@dataclass(frozen=True)
class Command:
    """A line that somebody types, its continuations joined."""

    document: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """The words, without a comment."""
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Block:
    """A fenced block: its commands, and its other lines."""

    commands: tuple[Command, ...]
    others: tuple[tuple[int, str], ...]

    @property
    def unmarked(self) -> list[str]:
        """Lines that look like commands and do not begin with `$ `."""
        return [f"{line}: {text}" for line, text in self.others if _LOOKS_TYPED.match(text)]


def name_of(path: Path) -> str:
    """Path of a document, from the checkout."""
    return str(path.relative_to(CHECKOUT))


def blocks(path: Path) -> list[Block]:
    """Fenced blocks of a document, but for files it shows."""
    return [_block(name_of(path), lines) for language, lines in _fenced(path) if language not in FILES]


def _fenced(path: Path) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    inside: list[tuple[int, str]] | None = None
    language = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if inside is None:
                inside, language = [], line.strip("` ")
            else:
                yield language, inside
                inside = None
        elif inside is not None:
            inside.append((number, line))
    assert inside is None, f"{path}: a block has no end"


def _block(document: str, lines: list[tuple[int, str]]) -> Block:
    commands, others, rest = [], [], iter(lines)
    for number, line in rest:
        if not line.startswith("$ "):
            others.append((number, line))
            continue
        text = line[2:]
        while text.endswith("\\"):
            text = text[:-1].rstrip() + " " + next(rest)[1].strip()
        commands.append(Command(document, number, text))
    return Block(tuple(commands), tuple(others))


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def code_spans(text: str) -> list[str]:
    """What stands between single backticks; a span may be wrapped."""
    paragraphs = re.split(r"\n\s*\n", text)
    return [" ".join(span.split()) for one in paragraphs for span in re.findall(r"`([^`]+)`", one)]


def mentions(path: Path, program: str) -> list[str]:
    """Commands of a program that are mentioned, and not typed: in text, tables and outputs."""
    printed = "\n\n".join(text for block in blocks(path) for _, text in block.others)
    return [one for one in code_spans(prose(path)) + code_spans(printed) if one.startswith(f"{program} ")]


def alternatives(words: list[str]) -> list[list[str]]:
    """`a b|c d` is two commands, `a [b]` one with all it may have."""
    return [list(choice) for choice in itertools.product(*(word.strip("[]").split("|") for word in words))]


def check_syntax(words: list[str]) -> None:
    """Hold the words of a `coin-hts` command against its commands, options and arguments, without running it.

    Raises
    ------
    ValueError
        If there is no such command, option or argument.
    """
    command: click.Command = cli
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            raise ValueError(f"`{shlex.join(words)}`: there is no command {rest[0]!r}")
        command, rest = found, rest[1:]
    try:
        # Not `make_context`: that would want values of their types where a document has placeholders.
        _, left, _ = command.make_parser(click.Context(command)).parse_args(list(rest))
    except click.ClickException as error:
        raise ValueError(f"`{shlex.join(words)}`: {error.format_message()}") from error
    if left:
        raise ValueError(f"`{shlex.join(words)}`: {left} is too much")


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """Targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))


# Variables of that form which are none of the settings.
NOT_SETTINGS = {"COIN_HTS_SHARED_DATA", "COIN_HTS_DAGSTER_STORAGE"}


def named_files(path: Path) -> list[str]:
    """Code spans that are paths of files of this project."""
    spans = code_spans(prose(path))
    return [span for span in spans if re.fullmatch(r"[\w./-]*[\w-]\.(py|md|toml|yaml|yml|svg)|docs/[\w./-]+", span)]


def exists(name: str, path: Path) -> bool:
    """Whether the file that a document names is there: from the root, from the document, in a package."""
    packages = (CHECKOUT / "coin_hts_pipelines", CHECKOUT / "coin_hts_pipelines_tests")
    places = (CHECKOUT, path.parent, DOCS, DOCS / "examples" / "my_strategies", *packages)
    return any((place / name).exists() for place in places)
