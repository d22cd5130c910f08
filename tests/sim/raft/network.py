"""A network that delays, loses, repeats and reorders, with cuts in one direction and connections that break.

`tcp`: in order per connection; a broken one loses what was under way. `late`: as tcp, but bytes of the old
connection may still arrive after the new one carries traffic. `wild`: no order at all, loss and repetition, some
messages very late.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from raft.messages import decode_frame, encode_frame

Deliver = Callable[[str, str, int, Any], None]
Schedule = Callable[..., None]

KINDS = ("tcp", "late", "wild")


def over_the_wire(message: Any) -> Any:
    """Encoded and decoded, as a real message is."""
    return decode_frame(encode_frame([message]))[0]


class Network:
    """Carries messages between nodes by `schedule(time, function, *arguments)`."""

    def __init__(
        self,
        *,
        kind: str,
        rng: random.Random,
        schedule: Schedule,
        deliver: Deliver,
        copy: Callable[[Any], Any] = over_the_wire,
    ) -> None:
        self._kind = kind
        self._rng = rng
        self._schedule = schedule
        self._deliver = deliver
        self._copy = copy
        self.faulty = True
        self.slowness = 1.0
        self.cuts: set[tuple[str, str]] = set()
        self._epochs: dict[tuple[str, str], int] = {}
        self._free_at: dict[tuple[str, str], float] = {}

    def heal(self) -> None:
        self.faulty = False
        self.slowness = 1.0
        self.cuts.clear()
        self._free_at.clear()

    def reset(self, a: str, b: str) -> None:
        """The connections between two nodes break; new ones are made at once."""
        for pair in ((a, b), (b, a)):
            self._epochs[pair] = self._epochs.get(pair, 0) + 1

    def _delay(self) -> float:
        rng = self._rng
        if not self.faulty:
            return rng.uniform(0.0001, 0.001)
        delay = rng.uniform(0.0001, 0.003)
        if rng.random() < 0.02:
            delay += rng.uniform(0.0, 0.15)
        return min(delay * self.slowness, 1.5)

    def send(self, now: float, sender: str, to: str, message: Any) -> None:
        if (sender, to) in self.cuts:
            return
        rng = self._rng
        message = self._copy(message)
        pair = (sender, to)
        epoch = self._epochs.get(pair, 0)
        if self._kind != "wild":
            at = max(now + self._delay(), self._free_at.get(pair, 0.0))
            self._free_at[pair] = at
            self._schedule(at, self._arrive, sender, to, epoch, message)
            return
        if self.faulty and rng.random() < 0.03:
            return
        self._schedule(now + self._delay(), self._arrive, sender, to, epoch, message)
        if self.faulty and rng.random() < 0.05:
            self._schedule(
                now + self._delay() + rng.choice((0.0, 0.01, 0.3, 2.0)),
                self._arrive,
                sender,
                to,
                epoch,
                message,
            )

    def _arrive(self, sender: str, to: str, epoch: int, message: Any) -> None:
        if self._kind != "wild" and epoch != self._epochs.get((sender, to), 0):
            if self._kind == "late" and self._rng.random() < 0.5:
                self._schedule(None, self._deliver, sender, to, epoch, message)
            return
        if (sender, to) not in self.cuts:
            self._deliver(sender, to, epoch, message)
