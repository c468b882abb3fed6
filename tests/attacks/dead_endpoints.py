"""2,000 endpoints of a service that no program serves, registered by one process."""

from __future__ import annotations

import os
import tempfile

import trio

from meshtrio.messages import registry
from tests.attacks import raw

CONNECTIONS = 4
STREAMS = 500
SERVICE = "dead.and.alive"
"""Programs of the measurement register one endpoint of it that is alive."""


async def run(address: str, seconds: float) -> None:
    """Register them, and keep them registered for `seconds`."""
    with tempfile.TemporaryDirectory(prefix="mt-") as folder, trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(CONNECTIONS):
                nursery.start_soon(
                    raw.run_concurrently, 1, _one, address, os.path.join(folder, str(number))
                )


async def _one(address: str, path: str) -> None:
    block = raw.encode_request_headers("/meshtrio.v1.Registry/Register")
    async with raw.connect_raw(address) as connection:
        for number in range(STREAMS):
            request = registry.RegisterRequest(service=SERVICE, address=f"unix:{path}-{number}")
            stream_id = 2 * number + 1
            await connection.send(raw.headers_frames(stream_id, block))
            payload = raw.encode_message(request.SerializeToString())
            await connection.send_data(stream_id, payload, end=True)
        await trio.sleep_forever()
