"""Scrapes of a mesh whose plugin has 9,000 families of metrics.

The address of the mesh's metrics is the environment's ATTACK_METRICS.
"""

from __future__ import annotations

import os
import urllib.request

import trio


async def run(address: str, seconds: float) -> None:
    """Scrape, one scrape after the other, for `seconds`."""
    url = f"http://{os.environ['ATTACK_METRICS']}/metrics"
    with trio.move_on_after(seconds):
        while True:
            await trio.to_thread.run_sync(_scrape, url)


def _scrape(url: str) -> None:
    with urllib.request.urlopen(url, timeout=30) as answer:
        answer.read()
