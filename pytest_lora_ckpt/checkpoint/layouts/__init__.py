"""Which files make up one checkpoint: one module per layout."""
