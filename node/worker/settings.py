"""Settings of a worker pool; every bound of it has its default and reason here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workflow.steps.base import NamedClient, Settings

MIB: Final = 1024 * 1024

ENVIRONMENT_KEPT: Final = (
    "COVERAGE_PROCESS_CONFIG",
    "COVERAGE_PROCESS_START",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
)
"""What a runner inherits of the node's environment: enough to find programs, zones and certificates, no secrets."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How runners are started and what they may use."""

    load: tuple[str, ...] = ()  # modules with step types (--load)
    language: Settings = field(default_factory=Settings)  # level-1 settings, address rules of the http step
    environment: Mapping[str, str] = field(default_factory=dict)  # added to ENVIRONMENT_KEPT
    http_clients: Mapping[str, NamedClient] = field(default_factory=dict, repr=False)  # --http-clients

    address_space_bytes_max: int = 2048 * MIB  # RLIMIT_AS: one workflow cannot take the host's memory
    open_files_max: int = 1024  # RLIMIT_NOFILE: room for io_tasks_max connections and their files
    result_bytes_max: int = MIB  # encoded result of one task: what an entry of the log can hold
    frame_bytes_max: int = 64 * MIB  # one message between node and runner: the biggest payload of the API
    cpu_tasks_max: int = 64  # with one runner, to hide the way there and back; the further ones wait here
    io_tasks_max: int = 256  # waiting for I/O in one runner at once; each holds a connection
    backlog_max: int = 100_000  # accepted, not yet handed to a runner; beyond it `submit` refuses
    plans_max: int = 256  # definitions that a runner keeps compiled
    plan_bytes_max: int = 64 * MIB  # the same in bytes of JSON

    task_wall_s_max: float = 300.0  # a task without a timeout of its own: what a level-1 execution may take
    loop_stall_s_max: float = 10.0  # an async step that does not yield: all I/O of its runner waits for it
    stop_grace_s: float = 0.1  # between asking a task to stop and killing its runner; a cancel takes <= 0.2 s
    steal_after_s: float = 0.02  # a CPU task that runs this long gives its followers to idle runners
    start_timeout_s: float = 30.0  # importing the user's modules included
    restart_delay_s: float = 0.1  # after a runner that died while starting; doubles up to restart_delay_s_max
    restart_delay_s_max: float = 5.0

    log_line_bytes_max: int = 8192
    log_bytes_per_attempt_max: int = 65_536  # the rest is dropped, with a line that says so

    def scrubbed_environment(self, environment: Mapping[str, str], import_path: list[str]) -> dict[str, str]:
        """The environment of a runner: ENVIRONMENT_KEPT of `environment`, what settings add, and how to import us."""
        kept = {name: environment[name] for name in ENVIRONMENT_KEPT if name in environment}
        kept["PYTHONPATH"] = os.pathsep.join(import_path)
        kept["MALLOC_ARENA_MAX"] = "2"  # glibc reserves 64 MiB of address space per arena
        return kept | dict(self.environment)


def slots_auto() -> int:
    """Runners per node when nothing else is said: one per CPU that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def language_settings_to_plain(settings: Settings) -> dict[str, Any]:
    """For the way to a runner; `Settings(**plain)` is the way back."""
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}
