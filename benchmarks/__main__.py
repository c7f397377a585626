"""Print every row with its limit; exit status 1 if one is above it."""

from __future__ import annotations

import platform
import sys
from importlib import import_module

_MODULES = ("engine", "commands", "hundred_symbols")


def main() -> int:
    """Run the modules named on the command line, or all."""
    print(f"{platform.machine()}, Python {platform.python_version()}\n")
    print(f"{'what':<56}{'measured':>15}{'limit':>15}  ")
    failed = 0
    for name in sys.argv[1:] or _MODULES:
        for row in import_module(f"benchmarks.{name}").rows():
            verdict = "PASS" if row.ok else "FAIL"
            failed += not row.ok
            measured, limit = f"{row.value:,.2f} {row.unit}", f"{row.limit:,g} {row.unit}"
            print(f"{row.name:<56}{measured:>15}{limit:>15}  {verdict}  {row.note}", flush=True)
    return 1 if failed else 0


sys.exit(main())
