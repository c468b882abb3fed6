"""Calls that are reset at once, on a new connection whenever the server has closed one."""

from __future__ import annotations

import trio

from meshtrio.wire import frames
from meshtrio.wire.errors import ErrorCode
from tests.attacks import raw

AT_ONCE = 4
LOT = 200
LOTS = 10
"""Of one connection: more than a server allows one."""


async def run(address: str, seconds: float) -> None:
    """Open and reset for `seconds`."""
    block = raw.header_block(f"/{raw.SERVICE}/Slow")
    lots = []
    for lot in range(LOTS):
        ids = range(1 + 2 * lot * LOT, 1 + 2 * (lot + 1) * LOT, 2)
        parts = [raw.headers(n, block) + frames.rst_stream(n, ErrorCode.CANCEL) for n in ids]
        lots.append(b"".join(parts))
    with trio.move_on_after(seconds):
        await raw.each(AT_ONCE, _again_and_again, address, lots)


async def _again_and_again(address: str, lots: list[bytes]) -> None:
    while True:
        try:
            async with raw.connected(address) as connection:
                for lot in lots:
                    await connection.send(lot)
        except* OSError:
            pass
        await trio.lowlevel.checkpoint()
