"""`scale echo 3000000`, which was to be 3."""

from __future__ import annotations

import trio

from meshtrio.messages import control
from tests.attacks.control import call_method


async def run(address: str, seconds: float) -> None:
    """Ask for it, wait `seconds` at most, and take it back."""
    path = "/meshtrio.v1.Control/Scale"
    for instances in (3_000_000, 1):
        request = control.ScaleRequest(name="echo", instances=instances)
        with trio.move_on_after(seconds):
            await call_method(address, path, request.SerializeToString())
