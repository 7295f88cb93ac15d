"""`lora-ckpt`: the audit on a command line, for the time before there are tests. It does not import pytest."""
