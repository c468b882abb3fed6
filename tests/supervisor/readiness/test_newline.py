"""The pipe on which a process reports that it is ready (s6's notification-fd)."""

from __future__ import annotations

import os

import pytest
import trio

from meshtrio.supervisor.probe import NotReadyError
from meshtrio.supervisor.readiness.newline import NewlinePipe


@pytest.mark.parametrize("data", [b"\n", b"ready\n", b"\nmore", b"x" * 60_000 + b"\n"])
async def test_a_newline_is_readiness(data: bytes) -> None:
    pipe = NewlinePipe(3)
    with pipe.opened():
        os.write(pipe.write_fd, data)
        await pipe.wait_ready(30)
        with pytest.raises(BrokenPipeError):
            os.write(pipe.write_fd, b"more")


@pytest.mark.parametrize(
    ("data", "closes", "text"),
    [
        (b"", False, "it has not written a newline to descriptor 3"),
        (b"x" * 60_000, False, "it has not written a newline to descriptor 3"),
        (b"ready", True, "it has closed descriptor 3 without a newline"),
    ],
)
async def test_anything_else_is_not(
    data: bytes, closes: bool, text: str, autojump_clock: trio.testing.MockClock
) -> None:
    pipe = NewlinePipe(3)
    with pipe.opened():
        os.write(pipe.write_fd, data)
        if closes:
            pipe.close_write_end()
        with pytest.raises(NotReadyError, match=f"was not ready within 10 s: {text}"):
            await pipe.wait_ready(10)
