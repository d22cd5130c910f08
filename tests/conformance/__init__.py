"""The recorded results of the original engine, replayed.

`cases.py` reads the recordings, `compare.py` says what equal means, `exceptions.py` is the one table of deliberate
differences. Cases run in three ways: `local.py` runs the library in this process with a task boundary after every
step, and again segment by segment as a cluster does; `api.py` sends them to a running node. `run.py` is the command:

    python -m tests.conformance.run [--family NAME] [--way steps|segments] [--api URL]
"""
