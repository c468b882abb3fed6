"""The page, its scripts and styles: files of the package, read once."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import attrs
import trio

from meshtrio.transport.http_server import HttpResponse

_DIRECTORY = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""Kinds of files that are served; others, such as licences, are not."""
_MIN_COMPRESSED_SIZE = 1024


@attrs.frozen
class _File:
    content_type: str
    etag: str
    plain: bytes
    compressed: bytes


class StaticFiles:
    """The files below `static`, by their names there."""

    def __init__(self, directory: Path = _DIRECTORY) -> None:
        self._directory = directory
        self._files: dict[str, _File] | None = None
        self._lock = trio.Lock()

    async def get(self, name: str, *, etag: str, use_gzip: bool) -> HttpResponse | None:
        """Return the response for a file; None if there is no such file.

        `etag`: what the client has, as in If-None-Match. Names are looked up in a table, so that
        none leads out of the directory.
        """
        async with self._lock:
            if self._files is None:
                self._files = await trio.to_thread.run_sync(_read_files, self._directory)
        found = self._files.get(name)
        if found is None:
            return None
        # Revalidated each time: an upgraded mesh has other files.
        headers = [("cache-control", "private, no-cache"), ("etag", found.etag)]
        if etag == found.etag:
            return HttpResponse(304, headers)
        headers.append(("content-type", found.content_type))
        headers.append(("vary", "accept-encoding"))
        if use_gzip and found.compressed:
            headers.append(("content-encoding", "gzip"))
            return HttpResponse(200, headers, found.compressed)
        return HttpResponse(200, headers, found.plain)


def _read_files(directory: Path) -> dict[str, _File]:
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            plain = path.read_bytes()
            etag = f'"{hashlib.sha256(plain).hexdigest()[:32]}"'
            packed = gzip.compress(plain, 6, mtime=0) if len(plain) > _MIN_COMPRESSED_SIZE else b""
            name = path.relative_to(directory).as_posix()
            found[name] = _File(_TYPES[path.suffix], etag, plain, packed)
    return found
