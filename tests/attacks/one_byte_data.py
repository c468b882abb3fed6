"""Connections that send a message in DATA frames of one byte each, as fast as they are taken."""

from __future__ import annotations

import trio

from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType
from tests.attacks import raw

CONNECTIONS = 10
BATCH_SIZE = 1000
LENGTH = 4 * 1024 * 1024 - 64


async def run(address: str, seconds: float, connections: int = CONNECTIONS) -> None:
    """Send for `seconds`."""
    with trio.move_on_after(seconds):
        await raw.run_concurrently(connections, _one, address)


async def _one(address: str) -> None:
    block = raw.encode_request_headers(f"/{raw.SERVICE}/Join")
    lot = frames.encode_frame(FrameType.DATA, 0, 1, b"\0") * BATCH_SIZE
    async with raw.connect_raw(address) as connection:
        await connection.send(raw.headers_frames(1, block))
        while True:
            await connection.send_data(1, raw.encode_message(bytes(LENGTH))[:5])
            for _ in range(LENGTH // BATCH_SIZE):
                while connection.send_window(1) < BATCH_SIZE:
                    await connection.wait_for_change()
                connection.consume_window(1, BATCH_SIZE)
                await connection.send(lot)
            await connection.send_data(1, bytes(LENGTH % BATCH_SIZE))
