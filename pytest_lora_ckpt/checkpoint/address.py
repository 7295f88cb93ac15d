"""`Address`: where something lies that is not on this machine. A `Path` would lose one of its slashes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pytest_lora_ckpt.vocabulary.files import WEIGHTS_ENDINGS
from pytest_lora_ckpt.wording.addresses import has_scheme, redacted

_HUB_ID = re.compile(r"([a-z0-9][\w.-]*)/[a-z0-9][\w.-]*(?:@[^/@]+(?:/.*)?)?", re.IGNORECASE | re.ASCII)
_NO_IDS = (*WEIGHTS_ENDINGS, ".json", ".yaml", ".gguf", ".py", ".txt", ".zip", ".tar.gz")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """An address, with what `Path` has of the same. Shown, it is without the credentials that it carries.

    Attributes:
        full: The address as it was given.

    Example:
        >>> address = Address("https://me:secret@host/run/last.ckpt?sig=abc")
        >>> print(address, address.name, address.stem, address.parent)
        https://***@host/run/last.ckpt?sig=*** last.ckpt last https://***@host/run
    """

    full: str

    def __str__(self) -> str:
        return redacted(self.full)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __fspath__(self) -> str:
        return self.full

    @property
    def _path(self) -> tuple[str, str, str]:
        """What comes before the path, the path, and what comes behind it."""
        first, mark, rest = with_scheme(self.full).partition("://")
        inner, chain, outer = rest.partition("::")
        path, *query = re.split(r"(?=[?#])", inner, maxsplit=1) if first.startswith("http") else [inner]
        return first + mark, path.rstrip("/"), "".join(query) + chain + outer

    @property
    def name(self) -> str:
        """The last part of the path, as it is called where it lies."""
        before, path, _ = self._path
        name = path.rpartition("/")[2]
        return unquote(name) if before.startswith("http") else name

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path, the server's name first; without what follows the path."""
        host, *parts = self._path[1].split("/")
        return (host.rpartition("@")[2], *parts)

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the name; of a server's name it is none."""
        return PurePosixPath(self.name).suffix if len(self.parts) > 1 else ""

    @property
    def parent(self) -> Address:
        """The directory that it lies in."""
        before, path, behind = self._path
        chain = behind.find("::")
        return Address(before + path.rpartition("/")[0] + (behind[chain:] if chain >= 0 else ""))

    def resolve(self) -> Address:
        """Return the address itself: there is no other to lead to."""
        return self


Place = Path | Address
"""Where a checkpoint lies."""


class AddressText(str):
    """An address as the project's own code gets it, whole; where it is shown as a value, without its credentials.

    Example:
        >>> text = AddressText("https://me:secret@host/a.ckpt")
        >>> text, text.partition("@")[2]
        ('https://***@host/a.ckpt', 'host/a.ckpt')
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redacted(str(self)))


def is_address(text: str) -> bool:
    """Whether a text is an address, and not a path on this machine.

    An id on the Hugging Face Hub is one, `org/name` or `org/name@revision`, where there is no directory `org` here.

    Example:
        >>> is_address("s3://bucket/last.ckpt"), is_address("runs/last.ckpt"), is_address("replica:finetune")
        (True, False, False)
        >>> is_address("org/name"), is_address("org/name@v1/adapter"), is_address("runs/exp/best")
        (True, True, False)
    """
    if has_scheme(text):
        return True
    found = _HUB_ID.fullmatch(text)
    return found is not None and not text.endswith(_NO_IDS) and not os.path.lexists(found[1])


def with_scheme(address: str) -> str:
    """Return an address with its scheme: that of the Hub for an id.

    Example:
        >>> with_scheme("org/name"), with_scheme("s3://bucket/last.ckpt")
        ('hf://org/name', 's3://bucket/last.ckpt')
    """
    return address if has_scheme(address) else f"hf://{address}"


def place(path: str | os.PathLike[str]) -> Place:
    """Return a path on this machine as a `Path`, and an address as an `Address`.

    Example:
        >>> place("s3://bucket/last.ckpt"), place("runs/last.ckpt").name
        (Address('s3://bucket/last.ckpt'), 'last.ckpt')
    """
    text = os.fspath(path)
    return Address(text) if is_address(text) else Path(text)
