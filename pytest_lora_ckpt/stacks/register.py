"""The libraries that there are loaders for: one module per library.

To add a library, write a module with what `Stack` names and give it a line in `STACKS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pytest_lora_ckpt.stacks import (
    diffusers_pipeline,
    lightning_module,
    peft_adapter,
    sentence_transformer,
    transformers_model,
)
from pytest_lora_ckpt.stacks.loader import StackLoader

if TYPE_CHECKING:
    from pytest_lora_ckpt.stacks.request import Request


class Stack(Protocol):
    """A module that loads as one library's documentation tells people to.

    Attributes:
        NAME: Its name in `--lora-loader`.
        NEEDS: The distribution to install.
    """

    NAME: str
    NEEDS: str

    def load(self, request: Request) -> Any:
        """Load a checkpoint. No code from its files runs: `trust_remote_code` is never given.

        Raises:
            StackError: It cannot, and says what to give.
        """
        ...


STACKS: tuple[Stack, ...] = (
    peft_adapter,
    transformers_model,
    diffusers_pipeline,
    sentence_transformer,
    lightning_module,
)
NAMES = tuple(each.NAME for each in STACKS)


def find_stack(name: str) -> Stack:
    """Return the library of a name.

    Raises:
        ValueError: There is none.

    Example:
        >>> find_stack("peft").NEEDS
        'peft'
    """
    for each in STACKS:
        if name == each.NAME:
            return each
    raise ValueError(f"the libraries are {', '.join(NAMES)}.")


def named_loader(name: str, *, base: str | None = None, original: Any = None) -> StackLoader:
    """Return the loader of a library by its name: `"peft"`, `"lightning:module.Class"`.

    Raises:
        ValueError: There is no such library, or no such class.
    """
    from pathlib import Path

    name, _, target = name.partition(":")
    place = None if original is None or "://" in str(original) else Path(original)
    return StackLoader(find_stack(name), base, _imported(target) if target else None, place)


def _imported(target: str) -> Any:
    import importlib

    module, _, name = target.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot import {target}: {error}.") from error
