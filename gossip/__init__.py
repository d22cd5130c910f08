"""SWIM membership with Lifeguard's extensions: who is in the cluster, who is alive, what each one offers.

Read `core.py` first: `Membership` is the whole protocol, without I/O. `table.py` has its rule book,
`probing.py` its failure detector, `rival.py` the check for a taken id, `suspicion.py`, `awareness.py` and
`spread.py` its arithmetic, `broadcast.py` and `order.py` its two queues,
`messages.py` and `effects.py` its words. Around it: `udp.py` (`Gossip`, the asyncio shell), `stream.py` (one
request, one answer over TCP), `seal.py` (AES-256-GCM packets), `seeds.py` (joining), `meta.py` (what a node
tells about itself), `settings.py` (every knob and bound), `codec.py` (stream messages on the wire).

What is not here: any decision on what a dead member means. Gossip says who is believed to live; leases and
fencing decide what a late result is worth. Nothing here imports another package of ours.
"""

from gossip.core import Membership
from gossip.effects import MemberEvent
from gossip.errors import GossipError, IdConflict, MetaTooLarge, SettingsInvalid, StreamFailed
from gossip.messages import Address, Member, NodeId, State
from gossip.meta import NodeMeta, decode_meta, encode_meta
from gossip.seal import Keyring
from gossip.settings import Settings
from gossip.stats import Stats
from gossip.stream import Streams, TcpStreams
from gossip.table import Change, Snapshot
from gossip.udp import Gossip, ShellStats, Status

__all__ = [
    "Address",
    "Change",
    "Gossip",
    "GossipError",
    "IdConflict",
    "Keyring",
    "Member",
    "MemberEvent",
    "Membership",
    "MetaTooLarge",
    "NodeId",
    "NodeMeta",
    "Settings",
    "SettingsInvalid",
    "ShellStats",
    "Snapshot",
    "State",
    "Stats",
    "Status",
    "StreamFailed",
    "Streams",
    "TcpStreams",
    "decode_meta",
    "encode_meta",
]
