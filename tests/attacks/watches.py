"""20,000 watches of one service in the mesh's registry, from one process."""

from __future__ import annotations

import trio

from meshtrio.messages import registry
from tests.attacks import raw

CONNECTIONS = 20
STREAMS = 1000


async def run(address: str, seconds: float) -> None:
    """Open the watches and read what they tell for `seconds`."""
    with trio.move_on_after(seconds):
        await raw.run_concurrently(CONNECTIONS, _one, address)


async def _one(address: str) -> None:
    block = raw.encode_request_headers("/meshtrio.v1.Registry/Watch")
    request = registry.ResolveRequest(service=raw.AUTHORITY).SerializeToString()
    async with raw.connect_raw(address) as connection:
        for stream_id in range(1, 2 * STREAMS, 2):
            await connection.send(raw.headers_frames(stream_id, block))
            await connection.send_data(stream_id, raw.encode_message(request), end=True)
        await trio.sleep_forever()
