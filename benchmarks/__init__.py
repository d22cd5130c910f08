"""Load on real nodes, and what each run measures: throughput, latency, CPU and memory of everybody who takes part.

`python -m benchmarks.w1` … `w5` start a node, put the load of DESIGN §6 on it from this one process, and print a table;
`--json FILE` keeps the numbers. Read `workloads.py` first (what is run), then `engine_run.py` (how it is measured);
`load_client.py` is the client, `node_under_test.py` the node, `report.py` the figures. `runners.py` measures the worker
pool alone, without a node.
"""
