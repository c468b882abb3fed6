"""A plugin that exits again and again, each time with as much binary stderr as is kept.

It begins once there is a file named by the environment's ATTACK_GO.
"""

from __future__ import annotations

from tests.attacks import output_flood


async def run(address: str, seconds: float) -> None:
    """Have it exit for `seconds`."""
    await output_flood.run(address, seconds)
