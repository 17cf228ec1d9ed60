"""What a process that serves streams sets up first."""

from __future__ import annotations

import sys

SWITCH_SECONDS = 0.0005
"""How long a thread of Python computes while another one, such as gRPC's with a message, waits: 5 ms by default."""


def prepare_process() -> None:
    """Set the process up for many small messages. gRPC's own setting is in services/__init__.py."""
    sys.setswitchinterval(SWITCH_SECONDS)
