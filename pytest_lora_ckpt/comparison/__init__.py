"""Hold a checkpoint against a model: what loads, what is missing, and why."""
