"""Stream messages between the core's form and the wire's: a `TableHeard` travels as a `messages.Table`."""

from __future__ import annotations

from gossip.effects import Request, Response, TableHeard
from gossip.messages import Member, NodeId, Record, StreamMessage, Table, decode_stream, encode_stream
from gossip.table import EMPTY, Snapshot


def encode(message: Request | Response) -> bytes:
    """Plaintext of a stream request or answer."""
    return encode_stream(_to_table(message) if isinstance(message, TableHeard) else message)


def decode(plain: bytes) -> Request | Response:
    """Inverse of `encode`. Raises Malformed."""
    message: StreamMessage = decode_stream(plain)
    return _from_table(message) if isinstance(message, Table) else message


def _to_table(heard: TableHeard) -> Table:
    ages = heard.snapshot.ages
    records = tuple(
        Record(
            row.node_id,
            row.state,
            row.incarnation,
            row.address,
            row.meta,
            row.instance,
            row.version,
            int(ages.get(row.node_id, 0.0)),
        )
        for row in heard.snapshot
    )
    return Table(heard.source, heard.instance, records, heard.push)


def _from_table(table: Table) -> TableHeard:
    rows: dict[NodeId, Member | None] = {}
    ages: dict[NodeId, float] = {}
    for record in table.records:
        rows[record.node_id] = Member(
            record.node_id,
            record.state,
            record.incarnation,
            record.address,
            record.meta,
            record.instance,
            min(record.version, record.incarnation),
        )
        ages[record.node_id] = float(record.age_s)
    return TableHeard(table.source, table.instance, Snapshot(EMPTY, rows, ages), table.push)
