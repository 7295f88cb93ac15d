"""Addresses as they may be shown: without the credentials that they carry."""

from __future__ import annotations

import re

_HIDDEN = "***"

# Parameters that say which file, or how to send it; any other may be a key, a token or a signature.
_HARMLESS = frozenset(
    {"alt", "dl", "download", "file", "filename", "generation", "path", "raw", "ref", "rev", "revision", "version"}
    | {"versionid"}
)
_ENDS = r"\s\\\"'<>`"  # What ends an address in a text.
# A scheme, or the name of a filesystem around another one: `simplecache::s3://bucket/last.ckpt`.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+(?:://|::.*://)", re.IGNORECASE)
_USER = re.compile(rf"(?<=://)[^/?#{_ENDS}]+@")
_QUERY = re.compile(rf"(://[^?#{_ENDS}]*)(\?[^#{_ENDS}]*)?(#[^{_ENDS}]*)?")
_SIGNATURE = re.compile(rf"(X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)=)[^&{_ENDS}]+", re.IGNORECASE)


def has_scheme(text: str) -> bool:
    """Whether a text is an address with a scheme, or with several (fsspec's chains).

    Example:
        >>> has_scheme("s3://bucket/best.ckpt"), has_scheme("simplecache::https://host/a.pt"), has_scheme("runs/http://a")
        (True, True, False)
    """
    return _SCHEME.match(text) is not None


def redacted(text: str) -> str:
    """Hide the credentials in all addresses of a text: users and passwords, signatures and tokens.

    Example:
        >>> redacted("https://me:secret@host/a.pt?download=1&token=xyz"), redacted("hf://org/name@main/a.pt")
        ('https://***@host/a.pt?download=1&token=***', 'hf://org/name@main/a.pt')
    """
    if "://" in text:
        text = _QUERY.sub(_without_values, _USER.sub(f"{_HIDDEN}@", text))
    return _SIGNATURE.sub(rf"\1{_HIDDEN}", text) if "X-" in text or "x-" in text else text


def _without_values(found: re.Match[str]) -> str:
    path, query, fragment = found.groups(default="")
    shown = [_parameter(each) for each in query[1:].split("&")] if query else []
    behind = "#" + _HIDDEN if "=" in fragment else fragment
    return path + ("?" if query else "") + "&".join(shown) + behind


def _parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    if not equals:
        # A value without a name may be a token as well.
        return _HIDDEN if name and name.lower() not in _HARMLESS else name
    return text if name.lower() in _HARMLESS or not value else f"{name}={_HIDDEN}"
