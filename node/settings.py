"""All settings of one node. Every part keeps its own knobs beside its code; this file puts them together.

NodeSettings
  data_dir, slots and the times of start and stop   here
  api          node/api/server.py           ApiSettings
  worker       node/worker/settings.py      WorkerSettings
  coordinator  node/coordinator/settings.py Settings
  raft         raft/settings.py             Settings
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.api.server import ApiSettings
from node.coordinator.settings import Settings as CoordinatorSettings
from node.worker.settings import WorkerSettings, slots_auto
from raft.settings import Settings as RaftSettings
from workflow.steps.base import NamedClient
from workflow.steps.base import Settings as LanguageSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node. Frozen: a change of settings is a restart."""

    data_dir: Path
    slots: int = field(default_factory=slots_auto)  # one runner process per CPU that this process may use
    api: ApiSettings = field(default_factory=ApiSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    coordinator: CoordinatorSettings = field(default_factory=CoordinatorSettings)
    raft: RaftSettings = field(default_factory=RaftSettings)
    drain_s: float = (
        5.0  # at a stop, for tasks that run; longer ones are reported as lost and go on elsewhere
    )
    stop_timeout_s: float = 20.0  # all of a stop; what has not ended by then is abandoned, as by kill -9

    @classmethod
    def from_options(
        cls,
        *,
        data_dir: Path,
        api_host: str = "127.0.0.1",
        api_port: int = 7410,
        slots: int | None = None,
        load: tuple[str, ...] = (),
        allow_http: bool = False,
        allow_localhost: bool = False,
        allow_private: bool = False,
        language: Mapping[str, Any] | None = None,
        http_clients: Mapping[str, NamedClient] | None = None,
    ) -> NodeSettings:
        """The settings that the options of `start` stand for; all others keep their defaults.

        `language` has limits of the language by name (docs/cli.md). Raises ValueError for an unknown name or a value
        that does not fit.
        """
        limits = LanguageSettings.from_config(
            {
                "allow_http": allow_http,
                "allow_localhost": allow_localhost,
                "allow_private_ips": allow_private,
                **(language or {}),
            }
        )
        return cls(
            data_dir=data_dir,
            slots=slots or slots_auto(),
            api=ApiSettings(host=api_host, port=api_port),
            worker=WorkerSettings(load=load, language=limits, http_clients=http_clients or {}),
        )
