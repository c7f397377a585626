"""`make secrets` searches the files that git tracks here for passwords, keys and tokens.

What looks like one and is none (the planted ones of tests) stands in `.secrets.baseline`, by its hash; with `--update`
everything that is found is taken over into it, to be looked through before it is committed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core import baseline
from detect_secrets.settings import default_settings

BASELINE = Path(".secrets.baseline")
# Written by programs anew and anew: their digests are no keys.
MEASURED = ("benchmarks/results.json", "docs/reports/")


def main(arguments: list[str]) -> int:
    """Exit status: 1 if there is one that is not in the baseline."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.split("\0") if Path(name).is_file() and name != str(BASELINE)]
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"results": {}}
    accepted = {(name, one["hashed_secret"]) for name, found in known["results"].items() for one in found}
    secrets = SecretsCollection()
    # Its filters for what is obviously none are on, looking a key up at its service is off.
    with default_settings():
        secrets.scan_files(*files)
        if "--update" in arguments:
            baseline.save_to_file(secrets, str(BASELINE))
            return 0
    found = [one for one in secrets if not (one[0].startswith(MEASURED) and "Entropy" in one[1].type)]
    new = [(name, one) for name, one in found if (name, one.secret_hash) not in accepted]
    for name, one in new:
        sys.stdout.write(f"{name}:{one.line_number}: {one.type}\n")
    sys.stdout.write(f"{len(files)} files searched, {len(new)} secrets found\n")
    if new:
        sys.stdout.write("If it is one: replace it at its source, it is no secret any more. If it is none: --update.\n")
    return int(bool(new))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
