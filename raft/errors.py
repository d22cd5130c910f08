"""Errors of the log, one small tree.

    RaftError
    ├── NotLeader            definite: nothing was proposed here; `leader_id` says where to go
    ├── Overloaded           definite: a bounded queue is full; try again after `retry_after_s`
    ├── StorageFull          definite: no space for more commands; reads go on
    ├── CommandTooLarge      definite: the command cannot fit into one entry
    ├── MembershipRefused    definite: this change of members is not allowed now; the text says why
    ├── OutcomeUnknown       indefinite: proposed, then leadership or the node was lost; it may still commit
    ├── Unavailable          definite: no leader could confirm a read within its time
    ├── Stopped              definite: the node is closed, or stopped after a fatal error (its cause)
    ├── StorageFailed        fatal: a write or sync failed, or what is on disk cannot be trusted
    │   └── JournalDamaged, SnapshotDamaged
    ├── DataDirectoryLocked  definite: another process holds the data directory (in files.py)
    └── SettingsInvalid      a setting that contradicts another one

*Definite* means: the operation certainly had no effect, so it may be retried blindly.
"""

from __future__ import annotations

from typing import ClassVar


class RaftError(Exception):
    """Base of everything this library raises on purpose."""

    code: ClassVar[str] = "raft_error"
    definite: ClassVar[bool] = False


class NotLeader(RaftError):
    """Only the leader takes commands. `leader_id` is the leader as far as known here."""

    code = "not_leader"
    definite = True

    def __init__(self, message: str, leader_id: str | None = None) -> None:
        super().__init__(message)
        self.leader_id = leader_id


class Overloaded(RaftError):
    """A bounded queue is full; `limit` names it."""

    code = "overloaded"
    definite = True

    def __init__(self, message: str, *, limit: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after_s = retry_after_s


class StorageFull(RaftError):
    """The disk has no room for more commands. Nothing was written; what was acknowledged is safe."""

    code = "storage_full"
    definite = True


class CommandTooLarge(RaftError):
    """One command exceeds what one entry can hold."""

    code = "command_too_large"
    definite = True


class MembershipRefused(RaftError):
    """The change of members is not allowed now; nothing was proposed."""

    code = "membership_refused"
    definite = True


class OutcomeUnknown(RaftError):
    """The command may or may not commit later: ask under its idempotency key before retrying."""

    code = "outcome_unknown"


class Unavailable(RaftError):
    """A read could not be confirmed in time; it has no effect, so it may be retried."""

    code = "unavailable"
    definite = True


class Stopped(RaftError):
    """This node takes no more work: it was closed, or it stopped because of the error in `__cause__`."""

    code = "stopped"
    definite = True


class StorageFailed(RaftError):
    """A write or a sync failed, or what is on disk contradicts itself. The node stops: after a failed
    sync the page cache may be 'clean' without the data being on disk, so nothing is retried."""

    code = "storage_failed"


class JournalDamaged(StorageFailed):
    """A frame in the middle of the journal fails its checksum: entries that were acknowledged may be
    missing."""

    code = "journal_damaged"


class SnapshotDamaged(StorageFailed):
    """A snapshot's checksum does not match; the one before it may still be good."""

    code = "snapshot_damaged"


class SettingsInvalid(RaftError):
    """A setting is out of its range or contradicts another one."""

    code = "settings_invalid"
    definite = True
