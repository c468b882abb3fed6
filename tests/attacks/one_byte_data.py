"""Connections that send a message in DATA frames of one byte each, as fast as they are taken."""

from __future__ import annotations

import trio

from meshtrio.wire import frames
from meshtrio.wire.frames import FrameType
from tests.attacks import raw

CONNECTIONS = 10
LOT = 1000
LENGTH = 4 * 1024 * 1024 - 64


async def run(address: str, seconds: float, connections: int = CONNECTIONS) -> None:
    """Send for `seconds`."""
    with trio.move_on_after(seconds):
        await raw.each(connections, _one, address)


async def _one(address: str) -> None:
    block = raw.header_block(f"/{raw.SERVICE}/Join")
    lot = frames.frame(FrameType.DATA, 0, 1, b"\0") * LOT
    async with raw.connected(address) as connection:
        await connection.send(raw.headers(1, block))
        while True:
            await connection.send_data(1, raw.message(bytes(LENGTH))[:5])
            for _ in range(LENGTH // LOT):
                while connection.room(1) < LOT:
                    await connection.wait_for_change()
                connection.spend(1, LOT)
                await connection.send(lot)
            await connection.send_data(1, bytes(LENGTH % LOT))
