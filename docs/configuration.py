"""Writes docs/configuration.md from the settings: `python docs/configuration.py` (`make docs`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from coin_hts_pipelines.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"

HEAD = """\
# Configuration

Written by `make docs` from `coin_hts_pipelines/settings.py`; a test fails when it is not current.

- Each setting is an environment variable, or a line of the file `.env` in the project home; the environment wins, an
  empty value is as good as none. `.env.example` has them all to copy from. `make install` makes `.env` with mode 600,
  and git ignores it.
- A value that is not accepted ends every command with status 2 and the name of its variable.
- **Secrets** are marked. They stand in the environment or in `.env` and nowhere else: in no command line, log, backup
  or page of the UI.
- Processes read their settings when they start: after a change, `make up` again.
- Older names in brackets are read where the name itself is not set. Relative paths start at the project home.
"""


def sections() -> dict[str, list[tuple[str, str, str]]]:
    """Entries `(comment, variable, value)` of `.env.example` by section."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    comment = title = ""
    for line in (ROOT / ".env.example").read_text().splitlines():
        if line.startswith("# --- "):
            title = line.strip("# -")
            found[title] = []
        elif line.startswith("# "):
            comment = line[2:]
        elif entry := re.fullmatch(r"#([A-Z0-9_]+)=(.*)", line):
            found[title].append((comment, entry[1], entry[2]))
    return found


def accepted(info: FieldInfo) -> str:
    """What values a setting takes."""
    limits = {name: getattr(rule, name) for rule in info.metadata for name in ("ge", "gt", "le") if hasattr(rule, name)}
    pattern = next((rule.pattern for rule in info.metadata if getattr(rule, "pattern", None)), "")
    if words := re.fullmatch(r"(?:\(\?i\))?\^\((\w+(?:\|\w+)*)\)\$", pattern):
        return ", ".join(f"`{word}`" for word in words[1].split("|"))
    if pattern:
        return "time, `HH:MM`"
    kinds = _kinds(info.annotation)
    if SecretStr in kinds:
        return "**secret**"
    if bool in kinds:
        return "`true`, `false`"
    if tuple in kinds:
        return "list, by commas"
    if int in kinds or float in kinds:
        least = f"from {limits['ge']}" if "ge" in limits else f"above {limits['gt']}"
        most = f" to {limits['le']}" if "le" in limits else ""
        return f"{'whole number' if int in kinds else 'number'} {least}{most}"
    return "path" if Path in kinds else "text"


def _kinds(annotation: Any) -> set[Any]:
    return {get_origin(part) or part for part in (annotation, *get_args(annotation))}


def default(field: str, info: FieldInfo) -> str:
    """Default of a setting, as one would write it."""
    if field == "home":
        return "found"
    value = info.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"


def variable(field: str, info: FieldInfo) -> str:
    """Variable of a setting with its older names."""
    older = info.validation_alias.choices[1:] if isinstance(info.validation_alias, AliasChoices) else []
    names = "".join(f" (`{str(name).upper()}`)" for name in older)
    return f"`COIN_HTS_{field.upper()}`{names}"


def page() -> str:
    """Text of docs/configuration.md.

    Raises
    ------
    ValueError
        If `.env.example` has not every setting, in the order of the class.
    """
    fields = Settings.model_fields
    listed = [name for entries in sections().values() for _, name, _ in entries if name.startswith("COIN_HTS_")]
    if listed != [f"COIN_HTS_{field.upper()}" for field in fields]:
        raise ValueError(".env.example does not list the settings in the order of settings.py")
    lines = [HEAD]
    for title, entries in sections().items():
        lines += [
            f"## {re.sub(r' *[(;].*', '', title)}",
            "",
            "| variable | accepted | default | |",
            "|---|---|---|---|",
        ]
        for comment, name, value in entries:
            field = name.removeprefix("COIN_HTS_").lower()
            if name.startswith("COIN_HTS_"):
                info = fields[field]
                cells = [variable(field, info), accepted(info), default(field, info), info.description or ""]
            else:
                cells = [
                    f"`{name}`",
                    "**secret**" if "PASSWORD" in name else "text",
                    f"`{value}`" * bool(value),
                    comment,
                ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
