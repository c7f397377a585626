"""The `coin-hts` command. Belongs here: options, tables, exit codes. Not here: anything another program could need.

Each noun is a file of its own and imported only when it is called: `--help` must be instant.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from coin_hts_pipelines.errors import CoinHtsError, InvalidCandles, InvalidRequest

BAD_INPUT, FAILED_WORK, INTERRUPTED = 2, 1, 130

_COMMANDS = {
    "run": "Candles to exports in one go, then the rankings.",
    "backtest": "Run one strategy by hand; list and show results.",
    "strategy": "List and show strategies, plug-ins included.",
    "sweep": "Try many parameters, and see how much of the best is luck.",
    "task": "Backtests and sweeps in the background: submit, watch, result.",
    "data": "List, import, check and generate candles.",
    "preset": "List, show, add and remove standing backtests.",
    "backup": "Back up, verify, restore; try a restore for practice.",
    "storage": "Prune what is old; set up the object store.",
    "alert": "List alerts, and send one to see that they arrive.",
    "migrate": "Import results of an older system.",
    "up": "Serve the Dagster UI and its daemon.",
    "db": "The embedded Postgres: start, stop, url.",
    "setup": "Start and migrate Postgres, write .env.",
    "doctor": "Say what works and what does not.",
    "status": "One screen: what happened in the last 24 hours.",
    "metrics": "Serve figures for Prometheus.",
    "readiness": "GO or NO-GO, from what was measured; writes the reports.",
}


class LazyGroup(click.Group):
    """A group whose commands stand in modules of this package, imported when they are called.

    `lazy` gives for each name the place of the command (`module:attribute`) and its line of help.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of help."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command of a name; None for an unknown one."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"coin_hts_pipelines.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write names and lines of help without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])


@click.command(
    cls=LazyGroup,
    lazy={name: (f"{name}:command", text) for name, text in _COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="coin_hts_pipelines", prog_name="coin-hts")
@click.pass_obj
def cli(start_logs: Callable[[], None] | None) -> None:
    """Trustworthy, fast, self-running backtests of crypto strategies on Dagster."""
    # Of `main` only: a test that calls a command in its own process logs nowhere.
    if start_logs is not None:
        start_logs()


def main() -> NoReturn:
    """Run the command: exit status 0 done, 1 failed work, 2 bad input, 130 interrupted; errors are one sentence."""
    # Imports make many objects and no garbage: looking for it after every 700 takes a fifth of a short command.
    gc.set_threshold(50_000)
    try:
        code = cli.main(standalone_mode=False, obj=_start_logs)
        sys.exit(code if isinstance(code, int) else 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _say("interrupted; runs of this command are canceled and nothing is half-written")
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(BAD_INPUT)
    except (InvalidRequest, InvalidCandles) as error:
        _say(f"error: {error}")
        sys.exit(BAD_INPUT)
    except CoinHtsError as error:
        _say(f"error: {error}")
        sys.exit(FAILED_WORK)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(f"error: {place}{error.strerror or error}")
        sys.exit(FAILED_WORK)


def _start_logs() -> None:
    from coin_hts_pipelines.operations.logs import configure_logs  # noqa: PLC0415
    from coin_hts_pipelines.settings import get_settings  # noqa: PLC0415

    # Settings that cannot be read are said by the command that needs them.
    with suppress(CoinHtsError):
        configure_logs(get_settings(), process="cli", console=True)


def _say(text: str) -> None:
    from coin_hts_pipelines.operations.redaction import redact  # noqa: PLC0415

    click.echo(redact(text), err=True)
