"""Examples that run: `python -m examples.quickstart` starts a node and runs order.json on it.

order.json        an order: prices, a discount for big orders, two waits, a branch, a join
resize_image.py   a step type of one's own, and resize_image.json that uses it
"""
