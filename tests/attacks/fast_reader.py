"""Streams of replies without end, read as fast as they come, with every window granted."""

from __future__ import annotations

import trio
from echo.v1.echo_pb2 import RepeatRequest

from meshtrio.http2 import frames
from meshtrio.http2.frames import Setting
from tests.attacks import raw

CONNECTIONS = 4


async def run(address: str, seconds: float) -> None:
    """Read for `seconds`."""
    with trio.move_on_after(seconds):
        await raw.run_concurrently(CONNECTIONS, _one, address)


async def _one(address: str) -> None:
    block = raw.encode_request_headers(f"/{raw.SERVICE}/Repeat")
    request = RepeatRequest(message="x" * 100, count=2**31).SerializeToString()
    windows = {Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW_SIZE}
    async with raw.connect_raw(address, windows) as connection:
        await connection.send(
            frames.window_update(0, frames.MAX_WINDOW_SIZE - frames.DEFAULT_INITIAL_WINDOW_SIZE)
        )
        await connection.send(raw.headers_frames(1, block))
        await connection.send_data(1, raw.encode_message(request), end=True)
        await trio.sleep_forever()
