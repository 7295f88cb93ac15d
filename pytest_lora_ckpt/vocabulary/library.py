"""How one library calls the modules of a model, and how such rows are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Library(NamedTuple):
    """How one library calls the modules of a model.

    Attributes:
        source: Where the names stand.
        layers: The module that holds the layers.
        names: Role -> the end of the module's path. `#` is any number, a number is that number. A parameter ends the
            path where the libraries call it differently.
    """

    source: str
    layers: str
    names: Mapping[str, str]


def attention(parent: str, *names: str, kind: str = "") -> dict[str, str]:
    """Names of the four projections."""
    return {f"{kind}{role}": f"{parent}.{name}" for role, name in zip(("q", "k", "v", "o"), names, strict=True)}


def mlp(parent: str, gate: str, up: str, down: str) -> dict[str, str]:
    """Names of a gated MLP."""
    return {"gate": f"{parent}.{gate}", "up": f"{parent}.{up}", "down": f"{parent}.{down}"}


def experts(parent: str, gate: str, up: str, down: str) -> dict[str, str]:
    """Names of the MLPs of experts."""
    return {f"expert {role}": tail for role, tail in mlp(f"{parent}.experts.#", gate, up, down).items()}


def norms(first: str, second: str, final: str) -> dict[str, str]:
    """Names of the norms."""
    return {"first norm": first, "second norm": second, "final norm": final}
