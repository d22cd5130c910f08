"""Errors that a task gets from outside its steps (stopped, timed out, too large), in the form of the language's own."""

from __future__ import annotations

from node.worker.messages import SegmentKind, SegmentResult, StepError


def outside_error(
    kind: SegmentKind | None, code: str, message: str, *, retryable: bool = True, type: str = ""
) -> StepError:
    """The error; `kind` names the step, as far as it is known which one of the segment is meant."""
    if kind is None:
        return StepError(code, message, None, retryable, type)
    node = kind.step_id if kind.steps_total == 1 else None
    return StepError(code, worded(kind.level, kind.step_id, message), node, retryable, type)


def worded(level: int, step_id: str, message: str) -> str:
    """The message as the language words it: the original names the step, level 2 has `node` for that."""
    return f"error executing node {step_id}: {message}" if level == 1 else message


def error_result(error: StepError) -> SegmentResult:
    """The result of a task that ended with this error, and of which nothing else is known."""
    return SegmentResult(outputs={}, live=(), state=None, timings={}, error=error)
