"""Strategies for single names: `module_paths`, and `key_strings` for unusual keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from pytest_lora_ckpt.strategies.anatomy import ARRANGEMENTS, BERT, LLAMA, TOWERS, Stack
from pytest_lora_ckpt.strategies.validation import check_count, check_names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Words with a meaning in torch or PEFT, which may also be the name of a module.
_ROLES = (
    "model",
    "module",
    "default",
    "base_model",
    "base_layer",
    "original_module",
    "modules_to_save",
    "lora_A",
    "lora_B",
    "lora",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "weight",
)
_STRANGE = ("", " ", "0", "007", "-1", "²", "a b", "x-y", "%s", "{0..3}", "\\d+", "(", "$", "*", "日本", "é", "e\u0301")
_CONTROLS = ("\0", "\n", "\r\n", "\t", "\x1b[31m", "\u202e", "\ufeff", "\u2028")


def module_paths(
    *, max_depth: int = 8, layers: int = 4, towers: Collection[str] = tuple(TOWERS)
) -> st.SearchStrategy[str]:
    """Draw the dotted path of a module as it occurs in real models; shrinks to `lm_head`.

    Args:
        max_depth: The most segments that a path has.
        layers: How many layers there are to number.
        towers: Towers whose modules may be drawn in addition to the text model's: `vision`, `audio`.

    Raises:
        InvalidArgument: A number below 1, or no such tower.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(module_paths(), lambda path: True, settings=quick)
        'lm_head'
        >>> find(module_paths(), lambda path: "." in path, settings=quick)
        'model.layers.0.self_attn.q_proj'
    """
    depth = check_count("max_depth", max_depth)
    count = check_count("layers", layers)
    chosen = check_names("towers", towers, TOWERS)
    paths = list(dict.fromkeys(path for path in _paths(chosen) if path.count(".") < depth))
    return st.builds(
        lambda path, number: path.replace("#", str(number)),
        st.sampled_from(paths),
        st.integers(min_value=0, max_value=count - 1),
    )


def _paths(towers: Collection[str]) -> Iterator[str]:
    """All paths, `#` for the number of the layer, the plainest first."""
    yield LLAMA.head
    yield from _below("model", LLAMA)
    yield from _below("bert", BERT)
    yield BERT.head
    for places in ARRANGEMENTS.values():
        yield from (f"{places['projector']}.linear_1", places["head"])
        yield from _below(places["text"], LLAMA)
        for tower in towers:
            yield from _below(places[tower], TOWERS[tower])


def _below(root: str, stack: Stack) -> Iterator[str]:
    layer = f"{root}.{stack.layers}.#"
    yield from (f"{layer}.{name}" for name in (*stack.linears, *stack.norms))
    yield from (root, f"{root}.{stack.layers}", layer)
    yield from (f"{root}.{name}" for name in (stack.embedding[0], stack.norm))


def key_strings(*, max_segments: int = 6, max_length: int = 10_000) -> st.SearchStrategy[str]:
    """Draw keys that no grammar expects, for code that must take any string; shrinks to the empty string.

    Real modules called `model`, `module` or `default`, words of PEFT in the wrong places, empty segments, numbers as
    names, spaces, patterns, control characters, any unicode text, and very long keys.

    Args:
        max_segments: The most segments that a key has, long ones apart.
        max_length: The most characters of a key.

    Raises:
        InvalidArgument: A number below 1.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(key_strings(), lambda key: key.startswith("module."), settings=quick)
        'module.'
    """
    most = check_count("max_segments", max_segments)
    longest = check_count("max_length", max_length)
    segments = st.one_of(
        st.sampled_from(_STRANGE),
        st.sampled_from(_ROLES),
        st.sampled_from(_CONTROLS),
        module_paths(),
        st.text(max_size=5),
    )
    keys: list[st.SearchStrategy[str]] = [
        st.lists(segments, max_size=most).map(".".join),
        st.text(max_size=min(longest, 20)),
        st.builds(
            lambda segment, repeats: segment * repeats,
            st.sampled_from(("x", "7.", "module.", "é")),
            st.sampled_from((1, 100, 1_000, 10_000)),
        ),
    ]
    return st.one_of(keys).map(lambda key: key[:longest])
