"""The coordinator: the replicated state machine of all executions, and the leader's scheduler around it.

Read `state.py` first (what is kept), then `commands.py` (what changes it), then `apply.py` and `run.py` (how). These
three, with `program.py` (tables made from a plan) and `journal.py` (an execution's history), are the **pure core**: no
clock, no randomness, no I/O. Equal state and equal command give equal state and equal effects on every replica.

`keyed.py` is part of it: the cache and the rate limiters, which executions share by key.

Around the core:
- `scheduler.py`, `timers.py`, `heartbeats.py`: ready queues, worker credits, timer wheel, signs of life. Volatile,
  rebuilt from the state. `tasks.py`: an attempt as the message to its runner.
- `inprocess.py`: the core alone, driven by the clock of one process: `run --local`.
- `store/`: `live.db` and `history.db`, written behind the log.
- `definitions.py`: raw payload -> compiled definition, cached. `views.py`: what readers see. `clock.py`: cluster time.
- `coordinator.py`: the asyncio shell. It implements raft's state machine and the `Engine` face of `node/engine.py`.

Not here: HTTP (`node/api/`), runner processes (`node/worker/`), the log (`raft/`), the language (`workflow/`).
"""
