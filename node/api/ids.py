"""Ids that the API makes. The one file of this package that reads the clock and the system's randomness for them."""

from __future__ import annotations

import os
import time
import uuid

# Executions hash to groups one day (DESIGN §8); until then everything is in group 0.
GROUP = "00"


def new_execution_id() -> str:
    """26 lower-case hex digits: group (2), milliseconds of Unix time (12), random (12). Sorts by time."""
    return f"{GROUP}{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"


def new_workflow_id() -> str:
    """The id of a workflow saved through the original server's routes: a random UUID, as there."""
    return str(uuid.uuid4())
