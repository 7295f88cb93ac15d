"""HTTP: a request for a part of a file also tells its size and state, and whether there is one.

The session is fsspec's, with whatever it is configured with. What fsspec makes of the answer is not enough here: it
takes 403 for 404, and reads the whole file where the server gives no parts.
"""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

import aiohttp
from fsspec.asyn import sync

from pytest_lora_ckpt.checkpoint.errors import changed
from pytest_lora_ckpt.checkpoint.limits import MAX_ENTRIES
from pytest_lora_ckpt.checkpoint.remote import errors
from pytest_lora_ckpt.checkpoint.remote.server import Found

if TYPE_CHECKING:
    from fsspec.implementations.http import HTTPFileSystem

_WHOLE = 1 << 23  # Bytes of a file that is taken whole where the server gives no parts.
_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")
_STATE = ("ETag", "Last-Modified", "Content-MD5", "Digest")


class _Answer(NamedTuple):
    """What a server answers.

    Attributes:
        status: As in HTTP.
        data: What it gives, from `start` on.
        size: How many bytes the file has; None where it does not say.
        state: What tells one state of the file from another.
        is_page: Whether it is a page for people.
        url: Where it came from in the end.
    """

    status: int
    reason: str
    data: bytes
    start: int
    size: int | None
    state: dict[str, str]
    is_page: bool
    url: str


class HttpServer:
    """Any web server.

    Args:
        fs: fsspec's filesystem, for its session.
        seconds: How long a request may take.
    """

    def __init__(self, fs: HTTPFileSystem, seconds: float) -> None:
        self._fs, self._seconds = fs, seconds

    def find(self, address: str, head: int) -> Found | None:
        """See `Server`: a page under an address that ends in a slash, also after a redirect, is a directory."""
        answer = self._ask(address, 0, head)
        if answer.status in {404, 410}:
            return None
        self._refuse(address, answer)
        if answer.is_page and (urlsplit(answer.url).path or "/").endswith("/"):
            names = _links(answer)
            return None if names is None else Found(is_folder=True, names=names)
        if answer.size is None:
            raise errors.no_ranges(address, None)
        return Found(is_folder=False, size=answer.size, state=answer.state, is_page=answer.is_page, head=answer.data)

    def names(self, folder: str) -> dict[str, Found] | None:
        """See `Server`: as far as the server writes a page with links to what lies in the directory."""
        answer = self._ask(folder.rstrip("/") + "/", 0, _WHOLE)
        return _links(answer) if answer.status in {200, 206} and answer.is_page else None

    def read(self, address: str, found: Found, start: int, stop: int) -> bytes:
        """See `Server`."""
        answer = self._ask(address, start, stop)
        self._refuse(address, answer)
        if not found.is_like(Found(is_folder=False, size=answer.size or 0, state=answer.state)):
            raise changed(address, "the file as it was when it was opened", "another size or another version of it")
        data = answer.data[start - answer.start : stop - answer.start]
        if len(data) != min(stop, found.size) - start:
            raise errors.cut_off(address, f"{len(data)} bytes of {stop - start}")
        return data

    def join(self, folder: str, name: str) -> str:
        """See `Server`: no name in a file leads to another server or directory."""
        return f"{folder.rstrip('/')}/{quote(name, safe='')}"

    @staticmethod
    def _refuse(address: str, answer: _Answer) -> None:
        what = f"HTTP {answer.status} {answer.reason}".rstrip()
        if answer.status in {401, 403, 407}:
            raise errors.forbidden(address, f"the server refuses it: {what}")
        if answer.status in {404, 410}:
            raise errors.missing(address, what)
        if answer.status not in {200, 206, 416}:
            raise errors.refused(address, f"the server answers {what}")

    def _ask(self, address: str, start: int, stop: int) -> _Answer:
        """Make one request.

        Raises:
            CheckpointError: There is no answer, or not all of it.
        """
        try:
            answer: _Answer = sync(self._fs.loop, self._within_time, address, start, stop)
        except (TimeoutError, asyncio.TimeoutError):
            raise errors.timed_out(address, self._seconds) from None
        except aiohttp.ClientConnectorError as error:
            raise errors.unreachable(address, error.os_error.strerror or error.os_error) from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError) as error:
            raise errors.cut_off(address, error) from None
        except (ValueError, aiohttp.TooManyRedirects) as error:  # An `InvalidURL` is a ValueError as well.
            raise errors.no_address(address, error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise errors.refused(address, f"{type(error).__name__}: {error}") from None
        return answer

    async def _within_time(self, address: str, start: int, stop: int) -> _Answer:
        return await asyncio.wait_for(self._request(address, start, stop), self._seconds)

    async def _request(self, address: str, start: int, stop: int) -> _Answer:
        session = await self._fs.set_session()
        options = dict(self._fs.kwargs)
        ranges = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        headers = dict(options.pop("headers", None) or {}) | ranges
        async with session.get(self._fs.encode_url(address), headers=headers, **options) as response:
            fields = response.headers
            begin, total, data = start, None, b""
            is_page = fields.get("Content-Type", "").startswith("text/html")
            place = _RANGE.fullmatch(fields.get("Content-Range", ""))
            if response.status in {206, 416} and place is not None:
                begin, total = int(place[1] or start), int(place[2])
            if response.status == 206:  # noqa: PLR2004 - Partial content.
                data = await _take(response, stop - begin)
            elif response.status == 200:  # noqa: PLR2004 - The server ignores that only a part was asked for.
                begin = 0
                if (response.content_length or 0) > _WHOLE:
                    raise errors.no_ranges(address, response.content_length)
                data = await _take(response, _WHOLE + 1)
                if len(data) > _WHOLE:
                    raise errors.no_ranges(address, response.content_length)
                total = len(data)
            state = {name: fields[name] for name in _STATE if name in fields}
            url = str(response.url)
            return _Answer(response.status, response.reason or "", data, begin, total, state, is_page, url)


async def _take(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read an answer, and no more of it than was asked for."""
    chunks: list[bytes] = []
    while most > 0 and (chunk := await response.content.read(min(most, _CHUNK))):
        chunks.append(chunk)
        most -= len(chunk)
    return b"".join(chunks)


class _Anchors(HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one link."""
        if tag == "a" and len(self.links) < MAX_ENTRIES:
            self.links += [value for name, value in attrs if name == "href" and value]


def _links(answer: _Answer) -> dict[str, Found] | None:
    """Return what a page lists that lies in its own directory; None for a page that lists nothing of the kind."""
    page = _Anchors()
    page.feed(answer.data.decode("utf-8", "replace"))
    folder = answer.url.partition("?")[0].partition("#")[0].rstrip("/") + "/"
    here = urlsplit(folder)
    names: dict[str, Found] = {}
    for link in page.links:
        target = urlsplit(urljoin(folder, link))
        if target.query or target.netloc != here.netloc or not unquote(target.path).startswith(unquote(here.path)):
            continue
        name, slash, rest = unquote(target.path)[len(unquote(here.path)) :].partition("/")
        if name and name not in {".", ".."} and not rest:
            names[name] = Found(is_folder=bool(slash), size=-1)
    return names or None
