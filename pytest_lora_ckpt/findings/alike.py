"""The layers of a network are alike, so the one that differs stands out."""

from __future__ import annotations

# Where more differ, it was meant (layers_to_transform, a hybrid, the last layers in another dtype).
_FEW = 0.2


def template(path: str) -> str:
    """Write a path with a star for each number; like modules have one template.

    Example:
        >>> template("layers.3.mlp.up_proj")
        'layers.*.mlp.up_proj'
    """
    return ".".join("*" if segment.isdigit() else segment for segment in path.split("."))


def stand_out(odd: int, total: int) -> bool:
    """Tell whether those that differ are so few that it is a mistake.

    Example:
        >>> stand_out(1, 2), stand_out(2, 28), stand_out(14, 28), stand_out(0, 28)
        (True, True, False, False)
    """
    return odd == 1 or 0 < odd <= _FEW * total
