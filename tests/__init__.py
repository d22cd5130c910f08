"""All tests. `python -m tests` runs them in stages, as CI does; `python -m tests --list` says which there are.

unit/ (cores, fast), property/ (Hypothesis), conformance/ (recorded results of the original engine), scenario/ (named
situations, citing the papers), sim/ (whole nodes in one process under virtual time), process/ (real processes on
loopback).
"""
