"""The expression language: three string-splitting evaluators that share a value resolver, compiled to closures.

`evaluate_condition` (EB), `evaluate_value` (EV) and `simple_condition` (SC) are what step functions call; each text
is compiled once and kept in a bounded cache. Start with `context.py` (what an expression sees), then `evaluate.py`.
"""
