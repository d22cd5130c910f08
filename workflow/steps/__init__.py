"""Step types: what each `type` of a workflow's nodes does.

Start with `base.py` (the interface of a step function and what it is given), then `registry.py` (the table
of all types); the functions themselves are in files by family. Step functions are plain functions without
I/O; the only one that awaits is `http`, and its client is passed in.
"""
