"""Calls of the mesh's own services, by bytes: requests that an operator's client would not send."""

from __future__ import annotations

import trio

from tests.attacks import raw


async def ask(address: str, path: str, request: bytes, times: int = 1) -> int:
    """Call a method `times` times on one connection; returns how many answers came."""
    async with raw.connected(address) as connection:
        for number in range(times):
            await connection.send(raw.headers(2 * number + 1, raw.header_block(path)))
            await connection.send_data(2 * number + 1, raw.message(request), end=True)
        while connection.answers + len(connection.reset) < times:
            await connection.wait_for_change()
        return connection.answers


async def ask_again_and_again(address: str, path: str, request: bytes, seconds: float) -> int:
    """Call it, one call after the other, for `seconds`; returns how many answers came."""
    answers = 0
    with trio.move_on_after(seconds):
        while True:
            try:
                answers += await ask(address, path, request)
            except* OSError:
                await trio.sleep(0.1)
    return answers
