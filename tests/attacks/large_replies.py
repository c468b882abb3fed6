"""Eight connections that ask for replies without end, grant every window, and do not read."""

from __future__ import annotations

import trio
from echo.v1.echo_pb2 import RepeatRequest

from meshtrio.wire import frames
from meshtrio.wire.frames import Setting
from tests.attacks import raw

CONNECTIONS = 8
STREAMS = 16
LENGTH = 50_000


async def run(address: str, seconds: float) -> None:
    """Ask, and leave the replies unread for `seconds`."""
    with trio.move_on_after(seconds):
        await raw.each(CONNECTIONS, _one, address)


async def _one(address: str) -> None:
    block = raw.header_block(f"/{raw.SERVICE}/Repeat")
    request = RepeatRequest(message="x" * LENGTH, count=2**31)
    payload = raw.message(request.SerializeToString())
    windows = {Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW}
    async with raw.connected(address, windows) as connection:
        await connection.send(frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW))
        for stream_id in range(1, 2 * STREAMS, 2):
            await connection.send(raw.headers(stream_id, block))
            await connection.send_data(stream_id, payload, end=True)
        connection.pause()
        await trio.sleep_forever()
