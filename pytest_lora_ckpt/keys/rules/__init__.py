"""A remapping as a short list of regular expressions."""
