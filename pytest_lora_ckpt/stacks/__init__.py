"""Loaders for the usual libraries, each as its documentation tells people to load."""

from typing import TYPE_CHECKING

from pytest_lora_ckpt._lazy import attach

if TYPE_CHECKING:
    from pytest_lora_ckpt.stacks.base import find_base as find_base
    from pytest_lora_ckpt.stacks.errors import StackError as StackError
    from pytest_lora_ckpt.stacks.loader import StackLoader as StackLoader
    from pytest_lora_ckpt.stacks.register import NAMES as NAMES
    from pytest_lora_ckpt.stacks.register import STACKS as STACKS
    from pytest_lora_ckpt.stacks.register import Stack as Stack
    from pytest_lora_ckpt.stacks.register import find_stack as find_stack
    from pytest_lora_ckpt.stacks.register import named_loader as named_loader

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "base": ["find_base"],
        "errors": ["StackError"],
        "loader": ["StackLoader"],
        "register": ["NAMES", "STACKS", "Stack", "find_stack", "named_loader"],
    },
)
