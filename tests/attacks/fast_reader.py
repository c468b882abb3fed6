"""Streams of replies without end, read as fast as they come, with every window granted."""

from __future__ import annotations

import trio
from echo.v1.echo_pb2 import RepeatRequest

from meshtrio.wire import frames
from meshtrio.wire.frames import Setting
from tests.attacks import raw

CONNECTIONS = 4


async def run(address: str, seconds: float) -> None:
    """Read for `seconds`."""
    with trio.move_on_after(seconds):
        await raw.each(CONNECTIONS, _one, address)


async def _one(address: str) -> None:
    block = raw.header_block(f"/{raw.SERVICE}/Repeat")
    request = RepeatRequest(message="x" * 100, count=2**31).SerializeToString()
    windows = {Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW}
    async with raw.connected(address, windows) as connection:
        await connection.send(frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW))
        await connection.send(raw.headers(1, block))
        await connection.send_data(1, raw.message(request), end=True)
        await trio.sleep_forever()
