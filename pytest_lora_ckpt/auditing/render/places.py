"""Where a checkpoint lies, as other tools are told: relative to the working directory where it lies below that."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from pytest_lora_ckpt.wording.addresses import has_scheme, redacted

_OF_AN_ADDRESS = "%:/?#[]@!$&'()*+,;=~"


def relative(path: str, top: Path | None = None) -> str:
    """Return a path relative to a directory, with slashes; as it is where it does not lie below that.

    Args:
        path: The path, or an address, which loses its credentials.
        top: The directory; by default the working directory.

    Example:
        >>> relative(str(Path("runs", "best.ckpt").absolute())), relative("https://me:secret@host/a.pt")
        ('runs/best.ckpt', 'https://***@host/a.pt')
        >>> relative("simplecache::https://me:secret@host/a.pt")
        'simplecache::https://***@host/a.pt'
    """
    if has_scheme(path):
        return redacted(path)
    place, top = Path(path), top or Path.cwd()
    return (place.relative_to(top) if place.is_relative_to(top) else place).as_posix()


def uri(path: str) -> str:
    """Return the same as a URI, or as a relative reference to one.

    Example:
        >>> uri(str(Path("runs 7", "größe.ckpt").absolute())), uri("https://host/a b.pt?download=1")
        ('runs%207/gr%C3%B6%C3%9Fe.ckpt', 'https://host/a%20b.pt?download=1')
    """
    shown = relative(path)
    if has_scheme(shown):
        return quote(shown, _OF_AN_ADDRESS, errors="backslashreplace")
    start = "file://" if Path(shown).is_absolute() else "./" * (":" in shown.partition("/")[0])
    return start + quote(shown, errors="backslashreplace")


def is_relative(reference: str) -> bool:
    """Whether a reference that `uri` gave is relative to the working directory.

    Example:
        >>> is_relative("runs/best.ckpt"), is_relative("s3://bucket/best.ckpt"), is_relative("file:///best.ckpt")
        (True, False, False)
    """
    return ":" not in reference.partition("/")[0]
