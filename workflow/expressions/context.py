"""What an expression sees."""

from __future__ import annotations

from collections.abc import Mapping

from workflow.values import Value


class EvalContext:
    """The names an expression can reach; cheap to make and to reuse.

    `value` is the current value (`input`, `item`). `variables` are the workflow's variables plus those
    that the step adds (index, items, accumulator …; a step that sets `item` itself hides a workflow
    variable of that name). `context` is constants overlaid by variables, `results` the results of finished
    steps by id. Evaluators never change any of them, so a step that evaluates per item sets `value` and
    the entries of its own `variables` dict between two evaluations.
    """

    __slots__ = ("context", "results", "spent", "value", "variables")

    def __init__(
        self,
        value: Value,
        variables: Mapping[str, Value],
        context: Mapping[str, Value],
        results: Mapping[str, Value],
    ) -> None:
        self.value = value
        self.variables = variables
        self.context = context
        self.results = results
        self.spent = 0  # evaluation steps of the current evaluation; the evaluators' own
