"""What an expression sees while it is evaluated, and how an evaluation fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from workflow.values import Value

CALLS_MAX = 1_000_000
"""Function bodies (`x => …`) that one evaluation may run: bounds time where lists are nested in lists."""
TEXT_LENGTH_MAX = 4 * 1024 * 1024
"""Characters of a text that an expression may build: stops doubling in a loop long before memory ends."""
LIST_LENGTH_MAX = 1_000_000
"""Elements of an array that an expression may build, for the same reason."""


class ExpressionError(ValueError):
    """An expression that cannot be read or evaluated. `position` counts characters from 0; None: unknown."""

    def __init__(self, message: str, position: int | None = None, text: str = "") -> None:
        self.reason = message
        self.position = position
        self.text = text
        where = ""
        if position is not None:
            shown = text if len(text) <= 120 else text[:117] + "..."
            where = f" (at character {position + 1} of: {shown})"
        super().__init__(message + where)


class Missing(ExpressionError):
    """A name, field or element that is not there; `??` and `?.` turn it into null."""


def _no_clock() -> datetime:
    raise ExpressionError("now() is not available here")


class Scope:
    """Names of one evaluation. `current` is the current value: a bare name that is not in `names` is its field.

    `nodes` are the results of finished steps (`node.<id>`), `names` everything else (`input`, `item`, `inputs`, …).
    """

    __slots__ = ("calls", "current", "names", "nodes", "now")

    def __init__(
        self,
        names: dict[str, Value],
        *,
        current: Value = None,
        nodes: Mapping[str, Value] | None = None,
        now: Callable[[], datetime] = _no_clock,
    ) -> None:
        self.names = names
        self.current = current
        self.nodes = nodes if nodes is not None else {}
        self.now = now
        self.calls = 0

    def count_call(self) -> None:
        self.calls += 1
        if self.calls > CALLS_MAX:
            raise ExpressionError(
                f"the expression runs more than {CALLS_MAX} function bodies; split the work"
            )


Closure = Callable[[Scope], Value]


class Function:
    """`(x, i) => body`: called by functions such as map with as many arguments as it names."""

    __slots__ = ("body", "parameters")

    def __init__(self, parameters: tuple[str, ...], body: Closure) -> None:
        self.parameters = parameters
        self.body = body

    def caller(self, scope: Scope) -> Callable[..., Value]:
        """A Python function; its names live in `scope.names` only while it runs."""
        names, body, parameters = scope.names, self.body, self.parameters

        def call(*values: Value) -> Value:
            scope.count_call()
            kept = [(name, names[name]) for name in parameters if name in names]
            for name, value in zip(parameters, values, strict=False):
                names[name] = value
            try:
                return body(scope)
            finally:
                for name in parameters:
                    names.pop(name, None)
                for name, value in kept:
                    names[name] = value

        return call
