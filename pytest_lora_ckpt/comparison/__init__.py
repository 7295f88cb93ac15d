"""Compare a checkpoint with a model: what loads, what is missing, and why."""
