"""Whether a process of this machine still lives; a process id alone is used again."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def process_token(pid: int) -> str | None:
    """Host, process id and start time of a living process; None for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):  # dead, but nobody has waited for it
            return None
        started = fields[19]
    except (OSError, IndexError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        started = "unknown"
    return f"{socket.gethostname()}/{pid}/{started}"


def is_dead(token: str) -> bool:
    """Whether a process of this host has ended; of others nothing is known."""
    host, pid, _ = token.split("/")
    return host == socket.gethostname() and process_token(int(pid)) != token
