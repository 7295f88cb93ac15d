"""Lightning: `load_from_checkpoint` of the project's own module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_lora_ckpt.stacks.request import Request

NAME = "lightning"
NEEDS = "lightning"


def load(request: Request) -> Any:
    """See `Stack`."""
    return request.target.load_from_checkpoint(str(request.path))
