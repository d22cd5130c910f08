"""Errors of the language.

WorkflowError
  LoadError       a payload cannot be loaded (payload.py)
  StepFailed      a step failed with the original's text
    EngineCrash   what killed the original's process; no fallback may hide it
  EvalError       an expression has no value; callers usually fall back to something
  CodecError      a value cannot be encoded or decoded (codec.py)
"""

from __future__ import annotations


class WorkflowError(Exception):
    """Base of this package's errors."""


class StepFailed(WorkflowError):
    """A step failed. `text` is the message without the `error executing node <id>: ` prefix."""

    def __init__(
        self, text: str, *, code: str = "step_failed", retryable: bool = True, type: str = ""
    ) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.retryable = retryable
        self.type = type


class EngineCrash(StepFailed):
    """What killed the original's process (a panic, endless recursion). An error here that nothing falls
    back from.

    Evaluators and step functions never catch it: it must not become `false` or a skipped item.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, code="engine_crash", retryable=False)


class EvalError(WorkflowError):
    """An expression has no value; the message is the original's where it can be seen."""


class LimitExceeded(StepFailed):
    """An expression is too long, too deep or takes too many evaluation steps. Not something to fall back
    from.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, code="expression_limit", retryable=False)
