"""`.env.example` names every setting once, with its description, older names and default."""

import re
from pathlib import Path

import pytest
from pydantic import AliasChoices

from coin_hts_pipelines.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / ".env.example").read_text()
ENTRY = re.compile(r"^# (?P<comment>.+)\n#?(?P<name>[A-Z0-9_]+)=(?P<value>.*)$", re.MULTILINE)


def older_names(field: str) -> list[str]:
    alias = Settings.model_fields[field].validation_alias
    if not isinstance(alias, AliasChoices):
        return []
    return [str(name).upper() for name in alias.choices if name != f"coin_hts_{field}"]


def test_it_lists_exactly_the_settings() -> None:
    listed = re.findall(r"^#?(COIN_HTS_[A-Z0-9_]+)=", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(f"COIN_HTS_{field.upper()}" for field in Settings.model_fields)


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_a_setting_is_described_by_its_own_words(field: str) -> None:
    comments = {entry["name"]: entry["comment"] for entry in ENTRY.finditer(TEXT)}
    comment = comments[f"COIN_HTS_{field.upper()}"]
    assert comment.startswith(Settings.model_fields[field].description or "no description")
    assert all(name in comment for name in older_names(field))


def test_its_values_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        for name in (f"COIN_HTS_{field.upper()}", *older_names(field)):
            monkeypatch.delenv(name, raising=False)
    filled = tmp_path / "filled"
    lines = [f"{entry['name']}={entry['value']}" for entry in ENTRY.finditer(TEXT) if entry["name"] != "COIN_HTS_HOME"]
    filled.write_text("\n".join(line for line in lines if line.startswith("COIN_HTS_")))

    assert Settings(_env_file=filled) == Settings(_env_file=None)
    assert len(filled.read_text().splitlines()) == len(Settings.model_fields) - 1


def test_nothing_is_set_in_it() -> None:
    assert [line for line in TEXT.splitlines() if line and not line.startswith("#")] == []
