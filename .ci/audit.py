"""Looks up known vulnerabilities of every package of the lock: `make audit`.

Arguments go to pip-audit. A service that cannot be reached, or does not know the packages (an index that only mirrors),
is said and passes: whoever works offline is not stopped by it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"

# Findings nothing can be done about yet: their id, why, and until when.
ACCEPTED: dict[str, str] = {}

_UNREACHABLE = re.compile(r"Could not connect|requests\.exceptions\.|ServiceError|ConnectionError|Timeout")


def main(arguments: list[str]) -> int:
    """Exit status: 1 for a vulnerability that is not accepted, or a lock that cannot be read."""
    argv = [Path(sys.executable).with_name("pip-audit"), "--requirement", LOCK, "--disable-pip", "--require-hashes"]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "10", *arguments]
    done = subprocess.run([*argv, *options], capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if _UNREACHABLE.search(done.stderr):
            return _say(f"NOT AUDITED: the vulnerability service cannot be reached ({last})", 0)
        return _say(f"pip-audit failed: {last}", 1)
    packages = json.loads(done.stdout)["dependencies"]
    known = [one for one in packages if "skip_reason" not in one]
    found = [(one, bug) for one in known for bug in one["vulns"]]
    for package, bug in found:
        names = {bug["id"], *bug.get("aliases", [])}
        reason = next((ACCEPTED[name] for name in names if name in ACCEPTED), None)
        mended = ", ".join(bug["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{package['name']} {package['version']}: {bug['id']}, mended in {mended}")
        sys.stdout.write(f" (accepted: {reason})\n" if reason else "\n")
        bug["accepted"] = reason is not None
    if not known:
        return _say(f"NOT AUDITED: the vulnerability service knows none of the {len(packages)} packages", 0)
    bad = sum(not bug["accepted"] for _, bug in found)
    return _say(f"{len(known)} of {len(packages)} packages looked up, {bad} vulnerabilities to mend", int(bad > 0))


def _say(text: str, status: int) -> int:
    sys.stdout.write(f"{text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
