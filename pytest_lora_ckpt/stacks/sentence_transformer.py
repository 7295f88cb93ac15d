"""sentence-transformers: `SentenceTransformer` of what `save_pretrained` wrote, or a base model with `load_adapter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint.bounded_json import parse_json
from pytest_lora_ckpt.checkpoint.limits import OverLimitError
from pytest_lora_ckpt.checkpoint.storage import LocalStorage
from pytest_lora_ckpt.stacks.base import find_base
from pytest_lora_ckpt.stacks.base_model import at_hand
from pytest_lora_ckpt.stacks.errors import GIVE_LOADER, StackError
from pytest_lora_ckpt.vocabulary.stacks import SENTENCE_MODULES
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.stacks.request import Request

NAME = "sentence-transformers"
NEEDS = "sentence-transformers"


def load(request: Request) -> Any:
    """See `Stack`."""
    _check_modules(request)
    base = None
    if request.checkpoint.adapter_config is not None:  # It opens what the adapter's config names.
        base = at_hand(find_base(request.base, request.checkpoint, request.around))
    from sentence_transformers import SentenceTransformer

    if base is None or request.base is None:
        return SentenceTransformer(str(request.directory), device="cpu")
    model = SentenceTransformer(base.source, device="cpu")
    model.load_adapter(str(request.directory))
    return model


def _check_modules(request: Request) -> None:
    """Refuse modules of other packages: sentence-transformers imports what the file names.

    Raises:
        StackError: There is one.
    """
    listing, budget = LocalStorage(request.checkpoint.budget).locate(str(request.directory)), request.checkpoint.budget
    if not listing.has(SENTENCE_MODULES):
        return
    try:
        window = listing.window(SENTENCE_MODULES)
        budget.check("config_bytes", window.length)
        modules = parse_json(window.read(0, window.length), budget).value
    except (OSError, ValueError, OverLimitError) as error:
        raise StackError(f"{SENTENCE_MODULES} cannot be read: {printable(str(error), 200)}.", GIVE_LOADER) from error
    kinds = (
        [each.get("type") if isinstance(each, dict) else None for each in modules] if isinstance(modules, list) else []
    )
    for kind in kinds:
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
            message = f"{SENTENCE_MODULES} names {printable(repr(kind), 100)}, which is not of sentence-transformers."
            raise StackError(message, GIVE_LOADER)
