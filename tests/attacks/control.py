"""Calls of the mesh's own services, by bytes: requests that an operator's client would not send."""

from __future__ import annotations

import trio

from tests.attacks import raw


async def call_method(address: str, path: str, request: bytes, count: int = 1) -> int:
    """Call a method `times` times on one connection; returns how many answers came."""
    async with raw.connect_raw(address) as connection:
        for number in range(count):
            await connection.send(
                raw.headers_frames(2 * number + 1, raw.encode_request_headers(path))
            )
            await connection.send_data(2 * number + 1, raw.encode_message(request), end=True)
        while connection.answers + len(connection.reset_streams) < count:
            await connection.wait_for_change()
        return connection.answers


async def call_method_repeatedly(address: str, path: str, request: bytes, seconds: float) -> int:
    """Call it, one call after the other, for `seconds`; returns how many answers came."""
    answers = 0
    with trio.move_on_after(seconds):
        while True:
            try:
                answers += await call_method(address, path, request)
            except* OSError:
                await trio.sleep(0.1)
    return answers
