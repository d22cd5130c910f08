"""The stores under the state machine: written behind the log, in batches, each with its own applied index.

- `stores.py`: opens both, flushes them in the background, says how far they are; read this first.
- `flush.py`: one flush: what changed up to one applied index, encoded on the loop in slices, written in a thread.
- `live.py`: `live.db`, a row per live execution and the tables beside it; snapshots are copies of it.
- `history.py`: `history.db`, finished executions; searches, retention.

The log is the truth: what a store has not written yet is replayed from there. `history.db` is always written first,
so it is never behind `live.db`, and an execution that left the one is in the other.
"""
