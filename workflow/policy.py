"""The `policy` object next to a node's `data`: retries, timeouts, queue, priority, effect class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from workflow.messages import RetryPolicy, StepPolicy

attempts_max: Final = 1_000_000
seconds_max: Final = 366 * 86_400.0
labels_max: Final = 64

_RETRY_FIELDS = frozenset(
    {"max_attempts", "initial_interval_s", "max_interval_s", "multiplier", "jitter", "non_retryable"}
)
_FIELDS = frozenset(
    {
        "retry",
        "timeout_s",
        "schedule_to_start_s",
        "heartbeat_s",
        "queue",
        "labels",
        "priority",
        "effect",
        "on_exhausted",
    }
)


class PolicyInvalid(ValueError):
    """The policy cannot be read. `path` is the place inside it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"policy.{path}: {message}" if path else f"policy: {message}")
        self.path = path


def parse_policy(data: Any) -> StepPolicy:
    """The policy in a JSON object. Raises PolicyInvalid for unknown fields, wrong types and values out of range."""
    if not isinstance(data, dict):
        raise PolicyInvalid("", "must be an object")
    _refuse_unknown(data, _FIELDS, "")
    effect = data.get("effect")
    if effect not in (None, "pure", "read", "write"):
        raise PolicyInvalid("effect", f"must be pure, read or write, not {effect!r}")
    on_exhausted = data.get("on_exhausted", "fail")
    if on_exhausted not in ("fail", "pause", "dead_letter"):
        raise PolicyInvalid("on_exhausted", f"must be fail, pause or dead_letter, not {on_exhausted!r}")
    queue = data.get("queue")
    if queue is not None and (type(queue) is not str or not queue or len(queue) > 200):
        raise PolicyInvalid("queue", "must be a text of 1 to 200 characters")
    return StepPolicy(
        retry=_parse_retry(data["retry"]) if data.get("retry") is not None else None,
        timeout_s=_seconds(data, "timeout_s"),
        schedule_to_start_s=_seconds(data, "schedule_to_start_s"),
        heartbeat_s=_seconds(data, "heartbeat_s"),
        queue=queue,
        labels=_labels(data.get("labels")),
        priority=_integer(data, "priority", 0, 9),
        effect=effect,
        on_exhausted=on_exhausted,
    )


def _parse_retry(data: Any) -> RetryPolicy:
    if not isinstance(data, dict):
        raise PolicyInvalid("retry", "must be an object")
    _refuse_unknown(data, _RETRY_FIELDS, "retry.")
    non_retryable = data.get("non_retryable", [])
    if type(non_retryable) is not list or any(type(code) is not str for code in non_retryable):
        raise PolicyInvalid("retry.non_retryable", "must be a list of error codes")
    defaults = RetryPolicy()
    multiplier = _number(data, "retry.multiplier", 1.0, 1000.0)
    jitter = _number(data, "retry.jitter", 0.0, 1.0)
    initial = _seconds(data, "retry.initial_interval_s")
    longest = _seconds(data, "retry.max_interval_s")
    return RetryPolicy(
        max_attempts=_integer(data, "retry.max_attempts", 1, attempts_max) or 3,
        initial_interval_s=defaults.initial_interval_s if initial is None else initial,
        max_interval_s=defaults.max_interval_s if longest is None else longest,
        multiplier=defaults.multiplier if multiplier is None else multiplier,
        jitter=defaults.jitter if jitter is None else jitter,
        non_retryable=tuple(non_retryable),
    )


def _refuse_unknown(data: Mapping[str, Any], known: frozenset[str], prefix: str) -> None:
    for key in data:
        if key not in known:
            raise PolicyInvalid(prefix + key, f"unknown field; known are {', '.join(sorted(known))}")


def _number(data: Mapping[str, Any], path: str, low: float, high: float) -> float | None:
    value = data.get(path.rpartition(".")[2])
    if value is None:
        return None
    if type(value) not in (int, float) or not low <= value <= high:
        raise PolicyInvalid(path, f"must be a number from {low:g} to {high:g}")
    return float(value)


def _seconds(data: Mapping[str, Any], path: str) -> float | None:
    return _number(data, path, 0.0, seconds_max)


def _integer(data: Mapping[str, Any], path: str, low: int, high: int) -> int | None:
    value = data.get(path.rpartition(".")[2])
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise PolicyInvalid(path, f"must be a whole number from {low} to {high}")
    return value


def _labels(data: Any) -> dict[str, str]:
    if data is None:
        return {}
    if not isinstance(data, dict) or any(type(value) is not str for value in data.values()):
        raise PolicyInvalid("labels", "must be an object of texts")
    if len(data) > labels_max:
        raise PolicyInvalid("labels", f"too many: {len(data)} (limit: {labels_max})")
    return dict(data)
