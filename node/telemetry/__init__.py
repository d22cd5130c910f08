"""What a node tells about itself: log lines with event names (logs.py). Metrics are in node/api/about.py."""
