"""The files of the page, which are a part of the package."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import attrs

from meshtrio.dashboard.requests import HTML, HttpError, Request, Response

_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": HTML,
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
"""By the ends of names; other files are not served."""


@attrs.frozen
class StaticFile:
    """A file in memory."""

    body: bytes
    content_type: str
    etag: str


def get_file(name: str, request: Request) -> Response:
    """Return a file of the page.

    Args:
        name: Its path below `static`, as "views/tree.js".
        request: The request, which may have the file's ETag.

    Raises:
        HttpError: There is no such file.
    """
    found = _load_files().get(name)
    if found is None:
        raise HttpError(404, "NOT_FOUND", f"the dashboard has no file {name[:100]!r}")
    # Checked each time: after an upgrade of the mesh they may be others.
    headers = (("cache-control", "no-cache"), ("etag", found.etag))
    if request.headers.get("if-none-match") == found.etag:
        return Response(304, found.content_type, headers=headers)
    return Response(200, found.content_type, found.body, headers)


@cache
def _load_files() -> dict[str, StaticFile]:
    """Read all files, about 200 KB, so that none is missing if the package is upgraded."""
    found: dict[str, StaticFile] = {}
    _add_files(found, files(__package__) / "static", "")
    return found


def _add_files(found: dict[str, StaticFile], folder: Traversable, prefix: str) -> None:
    for each in folder.iterdir():
        if each.is_dir():
            _add_files(found, each, f"{prefix}{each.name}/")
            continue
        content_type = _CONTENT_TYPES.get(each.name.rpartition(".")[2])
        if content_type is not None:
            body = each.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[f"{prefix}{each.name}"] = StaticFile(body, content_type, etag)
