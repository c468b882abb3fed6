"""`one_byte_data` over 60 connections."""

from __future__ import annotations

from tests.attacks import one_byte_data


async def run(address: str, seconds: float) -> None:
    """Send for `seconds`."""
    await one_byte_data.run(address, seconds, 60)
