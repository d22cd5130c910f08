"""What users of Thaiyyal Node import: a client, and step types of their own. Imports nothing above itself.

`client.py` talks to a node (`Client`, and `SyncClient` for programs without asyncio); `step_types.py` has the decorator
and says how a function's parameters are filled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thaiyyal.step_types import StepContext, StepFailed, StepTypeError, step_type

if TYPE_CHECKING:
    from thaiyyal.client import ApiError, Client, ExecutionFailed, Start, SyncClient, Unreachable, WaitTimeout

__all__ = [
    "ApiError",
    "Client",
    "ExecutionFailed",
    "Start",
    "StepContext",
    "StepFailed",
    "StepTypeError",
    "SyncClient",
    "Unreachable",
    "WaitTimeout",
    "step_type",
]

_OF_THE_CLIENT = {
    "ApiError",
    "Client",
    "ExecutionFailed",
    "Start",
    "SyncClient",
    "Unreachable",
    "WaitTimeout",
}


def __getattr__(name: str) -> Any:
    """The client is imported when it is first used: a runner that only loads step types does without aiohttp."""
    if name in _OF_THE_CLIENT:
        from thaiyyal import client

        return getattr(client, name)
    raise AttributeError(f"module 'thaiyyal' has no attribute {name!r}")
