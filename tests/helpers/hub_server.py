"""A server on this machine that answers as the Hugging Face Hub does, for as much of it as `huggingface_hub` asks."""

from __future__ import annotations

import contextlib
import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tests.helpers.web_server import Handler, Web, web_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class _Hub(Handler):
    """Each directory `org/name` is a model, with one commit."""

    def do_HEAD(self) -> None:  # noqa: N802 - As `http.server` calls it.
        self.do_GET()

    def _answer(self, web: Web, path: str) -> None:
        parts = unquote(path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder = self.server.folder / parts[2] / parts[3]
            if not folder.is_dir():
                self._give(HTTPStatus.NOT_FOUND, {"error": "Repository not found"}, "RepoNotFound")
            elif parts[5:6] not in ([], ["main"], [COMMIT]):
                self._give(HTTPStatus.NOT_FOUND, {"error": "Revision not found"}, "RevisionNotFound")
            elif parts[4:5] == ["tree"] and not folder.joinpath(*parts[6:]).is_dir():
                self._give(HTTPStatus.NOT_FOUND, {"error": "Entry not found"}, "EntryNotFound")
            elif parts[4:5] == ["tree"]:
                self._give(HTTPStatus.OK, self._tree(folder, "/".join(parts[6:])))
            else:
                self._give(HTTPStatus.OK, {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [], "tags": []})
            return
        if parts[2:3] == ["resolve"]:
            file = self.server.folder.joinpath(*parts[:2], *parts[4:])
            if file.is_file():
                self._send(web, file)
            else:
                self._give(HTTPStatus.NOT_FOUND, {"error": "Entry not found"}, "EntryNotFound")
            return
        self.send_error(HTTPStatus.NOT_FOUND)

    def _tree(self, folder: Path, below: str) -> list[dict[str, object]]:
        return [
            {
                "type": "directory" if each.is_dir() else "file",
                "path": each.relative_to(folder).as_posix(),
                "size": each.stat().st_size if each.is_file() else 0,
                "oid": hashlib.sha1(each.name.encode()).hexdigest(),  # noqa: S324 - As git names it.
            }
            for each in sorted((folder / below).iterdir())
        ]

    def _give(self, status: HTTPStatus, content: object, error: str = "") -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()


@contextlib.contextmanager
def hub_server(folder: Path) -> Iterator[Web]:
    """Give the models in a directory, `org/name` each, as the Hub does."""
    with web_server(folder, _Hub) as web:
        yield web


def paths_of(web: Web) -> list[str]:
    """Return what was asked for, without the ranges."""
    return [urlsplit(each.partition(" ")[0]).path for each in web.requests]
