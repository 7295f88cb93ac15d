"""The sub-commands, one a module: each has its `COMMAND`, registered in `cli/main.py`."""
