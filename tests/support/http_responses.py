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

from meshtrio.http2 import frames
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.hpack import encoder
from meshtrio.transport.listener import unix_listener
from meshtrio.util.concurrency import open_collapsing_nursery

_HEADERS, _DATA = 1, 0
_TEXT = (b"content-type", b"text/plain; charset=utf-8")


@attrs.frozen
class HttpResponse:
    """A response, and the gRPC status that http-grpc-status-mapping.md has for it."""

    status: int
    fields: Sequence[tuple[bytes, bytes]]
    body: Sequence[bytes]
    grpc_code: str
    trailers: Sequence[tuple[bytes, bytes]] = ()

    def encode(self, stream_id: int) -> bytes:
        block = encoder.encode([(b":status", b"%d" % self.status), *self.fields])
        parts = [(_HEADERS, frames.END_HEADERS, block)]
        parts += [(_DATA, 0, each) for each in self.body]
        if self.trailers:
            parts.append((_HEADERS, frames.END_HEADERS, encoder.encode(self.trailers)))
        kind, flags, payload = parts.pop()
        parts.append((kind, flags | frames.END_STREAM, payload))
        return b"".join(
            frames.encode_frame(kind, flags, stream_id, data) for kind, flags, data in parts
        )


_BODY = b"404 page not found\n"
_RESPONSES = {
    "net/http": HttpResponse(404, [_TEXT, (b"content-length", b"19")], [_BODY], "UNIMPLEMENTED"),
    "no content-length": HttpResponse(404, [_TEXT], [_BODY], "UNIMPLEMENTED"),
    "no content-type": HttpResponse(404, [], [_BODY], "UNIMPLEMENTED"),
    "several frames": HttpResponse(
        404, [_TEXT], [b"4", b"04 page", b"", b"not found"], "UNIMPLEMENTED"
    ),
    "huge page": HttpResponse(404, [_TEXT], [b"x" * 16000] * 4 + [b"y" * 1000], "UNIMPLEMENTED"),
    "a page that looks like a message": HttpResponse(404, [_TEXT], [bytes(5)], "UNIMPLEMENTED"),
    "no page": HttpResponse(404, [_TEXT], [], "UNIMPLEMENTED"),
    "empty page": HttpResponse(404, [_TEXT, (b"content-length", b"0")], [b""], "UNIMPLEMENTED"),
    "grpc content-type": HttpResponse(
        404, [(b"content-type", b"application/grpc")], [], "UNIMPLEMENTED"
    ),
    "with a trailer": HttpResponse(404, [_TEXT], [_BODY], "UNIMPLEMENTED", [(b"x-checksum", b"1")]),
    "a grpc-status": HttpResponse(404, [_TEXT, (b"grpc-status", b"5")], [], "NOT_FOUND"),
    "bad request": HttpResponse(400, [_TEXT], [b"bad request"], "INTERNAL"),
    "unauthorized": HttpResponse(401, [_TEXT], [b"who are you?"], "UNAUTHENTICATED"),
    "forbidden": HttpResponse(403, [_TEXT], [b"no"], "PERMISSION_DENIED"),
    "method not allowed": HttpResponse(
        405, [(b"allow", b"GET")], [b"method not allowed"], "UNKNOWN"
    ),
    "unsupported media type": HttpResponse(415, [_TEXT], [], "UNKNOWN"),
    "too many requests": HttpResponse(429, [_TEXT], [b"slower"], "UNAVAILABLE"),
    "internal server error": HttpResponse(500, [_TEXT], [b"oops"], "UNKNOWN"),
    "not implemented": HttpResponse(501, [_TEXT], [b"what?"], "UNKNOWN"),
    "bad gateway": HttpResponse(502, [_TEXT], [b"<html>"], "UNAVAILABLE"),
    "service unavailable": HttpResponse(503, [_TEXT], [b"<html>"], "UNAVAILABLE"),
    "gateway timeout": HttpResponse(504, [_TEXT], [b"<html>"], "UNAVAILABLE"),
    "redirect": HttpResponse(302, [(b"location", b"/login")], [], "UNKNOWN"),
    "html": HttpResponse(200, [(b"content-type", b"text/html")], [b"<html>", b"hello"], "UNKNOWN"),
    "html that ends at once": HttpResponse(200, [(b"content-type", b"text/html")], [], "UNKNOWN"),
}  # fmt: skip

for_each_http_response = pytest.mark.parametrize(
    "page", [pytest.param(page, id=name) for name, page in _RESPONSES.items()]
)


@asynccontextmanager
async def serve_http_response(path: Path, page: HttpResponse) -> AsyncIterator[None]:
    """Serve the page to every request on a Unix socket for the block."""
    with unix_listener(path) as listener:
        accepting = trio.socket.from_stdlib_socket(listener.dup())
        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(_accept, accepting, page, nursery)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                accepting.close()


async def _accept(
    listener: trio.socket.SocketType, page: HttpResponse, nursery: trio.Nursery
) -> None:
    while True:
        peer, _ = await listener.accept()
        nursery.start_soon(_serve, peer, page)


async def _serve(peer: trio.socket.SocketType, page: HttpResponse) -> None:
    reader = FrameReader(expect_preface=True, max_frame_size=2**24 - 1, max_block_size=2**20)
    with peer, contextlib.suppress(OSError):
        await trio.SocketStream(peer).send_all(frames.settings({}))
        while data := await peer.recv(65536):
            for kind, _, stream_id, _ in reader.feed(data):
                if kind == _HEADERS:
                    await trio.SocketStream(peer).send_all(page.encode(stream_id))
        peer.shutdown(socket.SHUT_WR)
