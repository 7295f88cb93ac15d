"""Files that are not on this machine: read by exact ranges, through fsspec, in few requests."""
