"""Workers: the runner processes in which the steps of workflows run, and the pool that feeds them.

The node's own event loop never runs a step. A `WorkerPool` keeps N runners (child processes, started by `spawn`), hands
them tasks in batches, watches them, and replaces those that die, hang or overrun their limits.

Read `messages.py` first (what goes in and comes out), then `pool.py` (which runner gets what, what happens when one is
lost); `process.py` is one runner as the node sees it, `runner.py` the program inside. `user_steps.py` joins functions
registered with `thaiyyal.step_type` to the language; `http_client.py` is the client behind the `http` step.
"""
