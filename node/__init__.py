"""The peer process: where raft, gossip, workflow, the API and the workers are put together."""
