"""Settings that contradict each other are refused at once, with both values in the text."""

from __future__ import annotations

import pytest

from raft.errors import SettingsInvalid
from raft.settings import Settings


def test_the_defaults_are_consistent() -> None:
    Settings()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"heartbeat_interval_s": 0.2}, "heartbeat_interval_s 0.2"),
        ({"heartbeat_interval_s": 0.0}, "heartbeat_interval_s 0.0"),
        ({"election_timeout_max_s": 0.3}, "election_timeout_max_s 0.3"),
        ({"frame_bytes_max": 100}, "frame_bytes_max 100"),
        ({"commands_per_entry_max": 0}, "commands_per_entry_max"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, float], text: str) -> None:
    with pytest.raises(SettingsInvalid, match=text):
        Settings(**settings)  # type: ignore[arg-type]
