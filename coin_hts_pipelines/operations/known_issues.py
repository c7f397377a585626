"""What people write down for the readiness report: known issues, start conditions, open decisions, what "done" means.

It stands in `docs/known_issues.toml`; figures do not, each line of the definition of done names what measures it.
"""

from __future__ import annotations

import tomllib
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from coin_hts_pipelines.errors import PermanentError

FILE = Path("docs/known_issues.toml")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
# test PLACE | benchmark NAME: ROW | gate NAME
Measure = Annotated[str, StringConstraints(pattern=r"^(test \S.*|benchmark \w+: .+|gate .+)$")]


class Severity(StrEnum):
    """How bad an issue is; what makes one of each is said in `operations.readiness`."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KnownIssue(_Entry):
    """Something that is wrong and known; it is taken out when it is mended."""

    id: Text
    severity: Severity
    title: Text
    since: date
    workaround: Text


class StartCondition(_Entry):
    """What must hold on the machine before the thing is started for good."""

    text: Text


class OpenDecision(_Entry):
    """What nobody has decided yet."""

    text: Text
    since: date


class DoneLine(_Entry):
    """A line of the definition of done, and the measured values that tick it; all of them must be good."""

    text: Text
    measured_by: tuple[Measure, ...] = ()


class Register(_Entry):
    """The whole file; `ui_end_to_end` names the tests that use the interface as a person does."""

    ui_end_to_end: tuple[Text, ...]
    issue: tuple[KnownIssue, ...] = ()
    start_condition: tuple[StartCondition, ...] = ()
    open_decision: tuple[OpenDecision, ...] = ()
    done: tuple[DoneLine, ...]

    @model_validator(mode="after")
    def _has_each_once(self) -> Register:
        ids = [one.id for one in self.issue]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"issue {twice[0]} stands there twice")
        return self


def read_register(home: Path) -> Register:
    """Read the file.

    Raises
    ------
    PermanentError
        If it is missing, is no TOML, or has an entry that is none; the message names the first.
    """
    path = home / FILE
    try:
        return Register.model_validate(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise PermanentError(f"there is no {path}; nobody knows what is known to be wrong") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise PermanentError(f"{path} cannot be used: {place}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise PermanentError(f"{path} cannot be read: {error}") from error
