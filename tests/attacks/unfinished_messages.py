"""900 messages of 4 MiB on one connection, each without its last byte."""

from __future__ import annotations

import trio

from tests.attacks import raw

STREAMS = 900
LENGTH = 4 * 1024 * 1024


async def run(address: str, seconds: float) -> None:
    """Send and hold them for `seconds`."""
    block = raw.encode_request_headers(f"/{raw.SERVICE}/Echo")
    payload = raw.encode_message(bytes(LENGTH))[:-1]

    async def send(connection: raw.RawConnection, stream_id: int) -> None:
        try:
            await connection.send_data(stream_id, payload)
        except OSError:
            return

    with trio.move_on_after(seconds):
        async with raw.connect_raw(address) as connection, trio.open_nursery() as nursery:
            for stream_id in range(1, 2 * STREAMS, 2):
                await connection.send(raw.headers_frames(stream_id, block))
                nursery.start_soon(send, connection, stream_id)
            await trio.sleep_forever()
