"""An HTTP/2 server that knows no gRPC: it answers every request with an HTTP status and a page."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from meshtrio.rpc.listener import unix_listener
from meshtrio.structured import open_nursery_of_one
from meshtrio.wire import frames, hpack
from meshtrio.wire.framing import FrameReader

_HEADERS, _DATA = 1, 0
_TEXT = (b"content-type", b"text/plain; charset=utf-8")


@attrs.frozen
class Page:
    """A response, and the gRPC status that http-grpc-status-mapping.md has for it."""

    status: int
    fields: Sequence[tuple[bytes, bytes]]
    body: Sequence[bytes]
    code: str
    trailers: Sequence[tuple[bytes, bytes]] = ()

    def response(self, stream_id: int) -> bytes:
        block = hpack.encode([(b":status", b"%d" % self.status), *self.fields])
        parts = [(_HEADERS, frames.END_HEADERS, block)]
        parts += [(_DATA, 0, each) for each in self.body]
        if self.trailers:
            parts.append((_HEADERS, frames.END_HEADERS, hpack.encode(self.trailers)))
        kind, flags, payload = parts.pop()
        parts.append((kind, flags | frames.END_STREAM, payload))
        return b"".join(frames.frame(kind, flags, stream_id, data) for kind, flags, data in parts)


_PAGE = b"404 page not found\n"
_PAGES = {
    "net/http": Page(404, [_TEXT, (b"content-length", b"19")], [_PAGE], "UNIMPLEMENTED"),
    "no content-length": Page(404, [_TEXT], [_PAGE], "UNIMPLEMENTED"),
    "no content-type": Page(404, [], [_PAGE], "UNIMPLEMENTED"),
    "several frames": Page(404, [_TEXT], [b"4", b"04 page", b"", b"not found"], "UNIMPLEMENTED"),
    "huge page": Page(404, [_TEXT], [b"x" * 16000] * 4 + [b"y" * 1000], "UNIMPLEMENTED"),
    "a page that looks like a message": Page(404, [_TEXT], [bytes(5)], "UNIMPLEMENTED"),
    "no page": Page(404, [_TEXT], [], "UNIMPLEMENTED"),
    "empty page": Page(404, [_TEXT, (b"content-length", b"0")], [b""], "UNIMPLEMENTED"),
    "grpc content-type": Page(404, [(b"content-type", b"application/grpc")], [], "UNIMPLEMENTED"),
    "with a trailer": Page(404, [_TEXT], [_PAGE], "UNIMPLEMENTED", [(b"x-checksum", b"1")]),
    "a grpc-status": Page(404, [_TEXT, (b"grpc-status", b"5")], [], "NOT_FOUND"),
    "bad request": Page(400, [_TEXT], [b"bad request"], "INTERNAL"),
    "unauthorized": Page(401, [_TEXT], [b"who are you?"], "UNAUTHENTICATED"),
    "forbidden": Page(403, [_TEXT], [b"no"], "PERMISSION_DENIED"),
    "method not allowed": Page(405, [(b"allow", b"GET")], [b"method not allowed"], "UNKNOWN"),
    "unsupported media type": Page(415, [_TEXT], [], "UNKNOWN"),
    "too many requests": Page(429, [_TEXT], [b"slower"], "UNAVAILABLE"),
    "internal server error": Page(500, [_TEXT], [b"oops"], "UNKNOWN"),
    "not implemented": Page(501, [_TEXT], [b"what?"], "UNKNOWN"),
    "bad gateway": Page(502, [_TEXT], [b"<html>"], "UNAVAILABLE"),
    "service unavailable": Page(503, [_TEXT], [b"<html>"], "UNAVAILABLE"),
    "gateway timeout": Page(504, [_TEXT], [b"<html>"], "UNAVAILABLE"),
    "redirect": Page(302, [(b"location", b"/login")], [], "UNKNOWN"),
    "html": Page(200, [(b"content-type", b"text/html")], [b"<html>", b"hello"], "UNKNOWN"),
    "html that ends at once": Page(200, [(b"content-type", b"text/html")], [], "UNKNOWN"),
}  # fmt: skip

all_pages = pytest.mark.parametrize(
    "page", [pytest.param(page, id=name) for name, page in _PAGES.items()]
)


@asynccontextmanager
async def answering(path: Path, page: Page) -> AsyncIterator[None]:
    """Serve the page to every request on a Unix socket for the block."""
    with unix_listener(path) as listener:
        accepting = trio.socket.from_stdlib_socket(listener.dup())
        async with open_nursery_of_one() as nursery:
            nursery.start_soon(_accept, accepting, page, nursery)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                accepting.close()


async def _accept(listener: trio.socket.SocketType, page: Page, nursery: trio.Nursery) -> None:
    while True:
        peer, _ = await listener.accept()
        nursery.start_soon(_serve, peer, page)


async def _serve(peer: trio.socket.SocketType, page: Page) -> None:
    reader = FrameReader(expect_preface=True, max_frame_size=2**24 - 1, max_block_size=2**20)
    with peer, contextlib.suppress(OSError):
        await trio.SocketStream(peer).send_all(frames.settings({}))
        while data := await peer.recv(65536):
            for kind, _, stream_id, _ in reader.feed(data):
                if kind == _HEADERS:
                    await trio.SocketStream(peer).send_all(page.response(stream_id))
        peer.shutdown(socket.SHUT_WR)
