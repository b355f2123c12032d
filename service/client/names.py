"""What this machine and process are called where nobody says."""

from __future__ import annotations

import os
import re
import socket


def machine_name() -> str:
    """The machine's name, as the server takes names."""
    return re.sub(r"[^a-z0-9_.\-]", "-", socket.gethostname().lower()).strip("-._")[:40] or "machine"


def process_name() -> str:
    """A name for this process among all others."""
    return f"{machine_name()}-{os.getpid()}"
