"""Training: optimizer, loop, hooks, writers, checkpoints."""
