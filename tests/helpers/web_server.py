"""A web server on this machine that gives a directory, in the ways in which servers do, and counts what it gives."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Web:
    """A running server.

    Attributes:
        url: The address of its directory.
        requests: What it was asked for: the path, with the range.
        sent: How many bytes of files it has sent.
        ranges: Whether it gives parts of files.
        lists: Whether it lists directories.
        refuses: Status codes that it answers, by the end of the path.
        breaks: Ends of paths in whose answers it closes the connection.
        hangs: Ends of paths for which it never answers.
        etags: Whether it says which state of a file it gives.
        gather: Where requests for shards wait for each other.
        late: Set at the end, for the requests that hang.
    """

    url: str = ""
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    ranges: bool = True
    lists: bool = True
    refuses: dict[str, int] = field(default_factory=dict)
    breaks: tuple[str, ...] = ()
    hangs: tuple[str, ...] = ()
    etags: bool = True
    gather: threading.Barrier | None = None
    late: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """Count from nothing."""
        self.requests.clear()
        self.sent = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, web: Web, folder: Path, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.web, self.folder, self.lock = web, folder, threading.Lock()

    def handle_error(self, *args: object) -> None:
        """Say nothing: connections are broken on purpose."""


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __init__(self, request: socket.socket, client: object, server: _Server) -> None:
        super().__init__(request, client, server, directory=str(server.folder))

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        web, path = self.server.web, urlsplit(self.path).path
        with self.server.lock:
            web.requests.append(f"{path} {self.headers.get('Range', 'all')}")
        if web.gather is not None and "-of-" in path:
            web.gather.wait(10)
        self._answer(web, path)

    def _answer(self, web: Web, path: str) -> None:
        file = self.server.folder / unquote(path).lstrip("/")
        status = next((code for end, code in web.refuses.items() if path.endswith(end)), None)
        if path.endswith(web.hangs):
            web.late.wait(30)
            self.close_connection = True
        elif status is not None:
            self.send_error(status)
        elif file.is_file():
            self._send(web, file)
        elif file.is_dir() and not web.lists:
            self.send_error(HTTPStatus.FORBIDDEN)
        else:
            super().do_GET()

    def _send(self, web: Web, file: Path) -> None:
        made = file.stat()
        asked = _RANGE.fullmatch(self.headers.get("Range", "")) if web.ranges else None
        start, stop = (int(asked[1]), min(int(asked[2]) + 1, made.st_size)) if asked else (0, made.st_size)
        is_outside = asked is not None and start >= made.st_size
        if is_outside:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{made.st_size}")
            start = stop = 0
        elif asked:
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{made.st_size}")
        else:
            self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", self.guess_type(str(file)))
        self.send_header("Content-Length", str(stop - start))
        if web.etags:
            self.send_header("ETag", f'"{made.st_mtime_ns:x}-{made.st_size:x}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        with file.open("rb") as opened, contextlib.suppress(ConnectionError):
            opened.seek(start)
            if urlsplit(self.path).path.endswith(web.breaks):
                self._break(opened.read((stop - start) // 2))
            else:
                self._write(opened, stop - start)

    def _write(self, opened: BinaryIO, left: int) -> None:
        while left > 0 and (data := opened.read(min(left, 1 << 20))):
            with self.server.lock:  # Before it is sent: who has all of it may look.
                self.server.web.sent += len(data)
            self.wfile.write(data)
            left -= len(data)

    def _break(self, data: bytes) -> None:
        """Send a part, and reset the connection, as a machine does that is gone."""
        self.wfile.write(data)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


@contextlib.contextmanager
def web_server(folder: Path, handler: type[Handler] | None = None) -> Iterator[Web]:
    """Give a directory over HTTP, on this machine alone."""
    web = Web()
    with _Server(web, folder, handler or Handler) as server:
        web.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield web
        finally:
            web.late.set()
            server.shutdown()
            thread.join()
