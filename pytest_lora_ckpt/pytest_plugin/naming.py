"""Names of checkpoints as pytest writes them."""

from __future__ import annotations


def written_by_pytest(name: str) -> str:
    r"""Return a name as pytest writes it into a test id.

    Example:
        >>> written_by_pytest("größe.ckpt")
        'gr\\xf6\\xdfe.ckpt'
    """
    return name.encode("unicode_escape").decode("ascii")
