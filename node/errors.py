"""The errors that the node's parts raise to each other and that the API turns into problem+json.

    ThaiyyalError
    ├── RequestInvalid      400/422  the request or the workflow is wrong; `problems` has each place
    ├── NotFound            404      no such execution, workflow, payload
    ├── Conflict            409      the operation does not fit the state (terminal execution, reused key)
    ├── TooLarge            413      a body, a graph or a value over its limit
    ├── Overloaded          429      a limit is full; `retry_after_s`, `limit` names it
    ├── StorageFull         507      the disk is full; nothing was accepted
    ├── NotLeader           503      this node does not lead now; nothing was accepted
    ├── Unavailable         503      the engine is starting or stopping; nothing was accepted
    └── OutcomeUnknown      503      it may or may not have been accepted: ask, or repeat under the same idempotency key

*Definite* (STYLE §11) means: the operation certainly had no effect, so it may be repeated blindly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request: `path` is its place (`nodes[3].data.op`), "" for the whole."""

    path: str
    message: str
    code: str = ""


class ThaiyyalError(Exception):
    """Base of all errors of the node; `code` is stable, clients match on it and never on the text."""

    code: ClassVar[str] = "internal"
    definite: ClassVar[bool] = False
    http_status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestInvalid(ThaiyyalError):
    """The request cannot be carried out as it is written. `status` is 400 for its form, 422 for its meaning."""

    code = "request_invalid"
    definite = True
    http_status = 422

    def __init__(
        self, message: str, *, code: str = "", status: int = 422, problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message)
        self.detail_code = code or self.code
        self.status = status
        self.problems = tuple(problems)


class NotFound(ThaiyyalError):
    """Nothing is known under this id."""

    code = "not_found"
    definite = True
    http_status = 404


class Conflict(ThaiyyalError):
    """The operation does not fit the state that the thing is in."""

    code = "conflict"
    definite = True
    http_status = 409


class TooLarge(ThaiyyalError):
    """Something is over a limit of size; the text names the limit and its knob."""

    code = "too_large"
    definite = True
    http_status = 413


class Overloaded(ThaiyyalError):
    """A bounded thing is full. `limit` names the bound, `retry_after_s` says when to come back."""

    code = "overloaded"
    definite = True
    http_status = 429

    def __init__(self, message: str, *, limit: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after_s = retry_after_s


class StorageFull(ThaiyyalError):
    """The disk has no room; nothing was accepted, everything acknowledged before is kept."""

    code = "storage_full"
    definite = True
    http_status = 507


class NotLeader(ThaiyyalError):
    """This node does not lead; nothing was accepted. `leader_id` is who does, as far as known."""

    code = "not_leader"
    definite = True
    http_status = 503

    def __init__(self, message: str, *, leader_id: str | None = None) -> None:
        super().__init__(message)
        self.leader_id = leader_id


class Unavailable(ThaiyyalError):
    """The engine is starting or stopping; nothing was accepted."""

    code = "unavailable"
    definite = True
    http_status = 503


class OutcomeUnknown(ThaiyyalError):
    """The operation may or may not have taken effect; repeat it under the same idempotency key."""

    code = "outcome_unknown"
    definite = False
    http_status = 503
