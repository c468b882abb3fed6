"""Eight connections that ask for replies without end, grant every window, and do not read."""

from __future__ import annotations

import trio
from echo.v1.echo_pb2 import RepeatRequest

from meshtrio.http2 import frames
from meshtrio.http2.frames import Setting
from tests.attacks import raw

CONNECTIONS = 8
STREAMS = 16
LENGTH = 50_000


async def run(address: str, seconds: float) -> None:
    """Ask, and leave the replies unread for `seconds`."""
    with trio.move_on_after(seconds):
        await raw.run_concurrently(CONNECTIONS, _one, address)


async def _one(address: str) -> None:
    block = raw.encode_request_headers(f"/{raw.SERVICE}/Repeat")
    request = RepeatRequest(message="x" * LENGTH, count=2**31)
    payload = raw.encode_message(request.SerializeToString())
    windows = {Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW_SIZE}
    async with raw.connect_raw(address, windows) as connection:
        await connection.send(
            frames.window_update(0, frames.MAX_WINDOW_SIZE - frames.DEFAULT_INITIAL_WINDOW_SIZE)
        )
        for stream_id in range(1, 2 * STREAMS, 2):
            await connection.send(raw.headers_frames(stream_id, block))
            await connection.send_data(stream_id, payload, end=True)
        connection.stop_reading()
        await trio.sleep_forever()
