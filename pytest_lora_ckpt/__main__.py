"""`python -m pytest_lora_ckpt`: the command `lora-ckpt`."""

from __future__ import annotations

import sys

from pytest_lora_ckpt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
