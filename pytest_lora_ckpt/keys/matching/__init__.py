"""Which key of the model each key of the checkpoint becomes."""
