"""`StackLoader`: a loader by the name of a library."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.stacks.request import Request
from pytest_lora_ckpt.wording import beginning, said

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.stacks import Stack


@dataclass(frozen=True)
class StackLoader:
    """Loads a checkpoint as a library's documentation tells people to.

    Args:
        stack: The library.
        base: The base model that the user gave: a path, or an id on the Hub.
        target: The class that the user named, for Lightning.
        original: The checkpoint of which copies may be loaded: base models are found around it too.
    """

    stack: Stack
    base: str | None = None
    target: Any = None
    original: Path | None = None

    def __call__(self, path: Path | str) -> Any:
        """Return the loaded model, at rest.

        Raises:
            StackError: It cannot be loaded; the message says why, and what to give.
        """
        request = Request(path, self.base, () if self.original is None else (self.original,), self.target)
        try:
            with warnings.catch_warnings():
                # The library's own: whoever named it cannot mend what is deprecated in it.
                warnings.simplefilter("default")
                for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                    warnings.simplefilter("ignore", kind)
                return self.stack.load(request).eval()
        except StackError:
            raise
        except Exception as error:  # Whatever the library raises.
            message = f"{self.stack.NAME} raised {type(error).__name__}: {beginning(said(error))}"
            remedy = f"Mend what {self.stack.NAME} says, or give your own code: --lora-loader=module:function."
            raise StackError(message, remedy) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process by the name of the library."""
        return _named, (self.stack.NAME, self.base, self.target, self.original)

    @property
    def __name__(self) -> str:
        """The name by which it was asked for."""
        return self.stack.NAME


def _named(name: str, base: str | None, target: Any, original: Path | None) -> StackLoader:
    from pytest_lora_ckpt.stacks import find_stack

    return StackLoader(find_stack(name), base, target, original)
