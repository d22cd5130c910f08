"""A replicated log as a library: it cannot lose what it acknowledged.

For one group of 1, 3, 5 or 7 voters and any number of learners. Knows nothing of what the commands mean.
Begin with `driver.Raft` (how it is used) or `core.Core` (how it works).

- `core.py`: the protocol, pure: events and time in; writes, messages and effects out. `log.py`,
  `progress.py`,
  `quorum.py` are its parts, `messages.py` the wire.
- `storage_api.py`: what core and driver ask of storage; `journal.py` and `snapshots.py` fill it.
- `driver.py`: the asyncio shell; `machine.py`: what a user gives and gets; `recovery.py`: from disk to a running core;
  `transport.py`: how frames travel; `workers.py`: threads for the disk.
- `settings.py`, `errors.py`.

Not here: who may join, addresses and encryption of links (a `Transport` brings those), and the state machine.
"""

from raft.driver import Raft
from raft.effects import ConfigChanged, Role, RoleChanged
from raft.machine import Event, LeaderReady, NodeStopped, StateMachine, Status
from raft.settings import Settings
from raft.storage_api import Config, NodeId
from raft.transport import MemoryNetwork, NoTransport, TcpTransport, Transport

__all__ = [
    "Config",
    "ConfigChanged",
    "Event",
    "LeaderReady",
    "MemoryNetwork",
    "NoTransport",
    "NodeId",
    "NodeStopped",
    "Raft",
    "Role",
    "RoleChanged",
    "Settings",
    "StateMachine",
    "Status",
    "TcpTransport",
    "Transport",
]
