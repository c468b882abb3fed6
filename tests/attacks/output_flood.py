"""Ten plugins that write empty lines as fast as they are read.

They begin once there is a file named by the environment's ATTACK_GO, and end when it is gone.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio


async def run(address: str, seconds: float) -> None:
    """Have them write for `seconds`."""
    go = Path(os.environ["ATTACK_GO"])
    go.touch()
    try:
        await trio.sleep(seconds)
    finally:
        go.unlink()
