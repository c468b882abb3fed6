"""500 connections to a server that may have 1,024 descriptors, made and held by one process."""

from __future__ import annotations

import trio

from tests.attacks import raw

CONNECTIONS = 500


async def run(address: str, seconds: float) -> None:
    """Hold as many as the server accepts for `seconds`, and replace those that it closes."""
    with trio.move_on_after(seconds):
        await raw.run_concurrently(CONNECTIONS, _one, address)


async def _one(address: str) -> None:
    while True:
        try:
            async with raw.connect_raw(address) as connection:
                while True:
                    await connection.wait_for_change()
        except* OSError:
            await trio.sleep(0.2)
