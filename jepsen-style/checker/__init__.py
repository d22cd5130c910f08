"""Is a recorded history of concurrent operations linearizable?

Here: `history.py` reads and checks the JSON lines, `models.py` says what each operation does to a state,
`linearizability.py` searches for an order. Nothing here runs a cluster or a client; the search is pure and takes its
clock as an argument. Read `linearizability.py` first. The command line is `../check.py`.
"""
