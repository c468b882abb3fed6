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
        await raw.each(CONNECTIONS, _one, address)


async def _one(address: str) -> None:
    block = raw.header_block("/meshtrio.v1.Registry/Watch")
    request = registry.ResolveRequest(service=raw.AUTHORITY).SerializeToString()
    async with raw.connected(address) as connection:
        for stream_id in range(1, 2 * STREAMS, 2):
            await connection.send(raw.headers(stream_id, block))
            await connection.send_data(stream_id, raw.message(request), end=True)
        await trio.sleep_forever()
