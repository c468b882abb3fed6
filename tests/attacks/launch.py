"""Run one attack in a process of its own: `python -m tests.attacks.launch NAME ADDRESS SECONDS`."""

from __future__ import annotations

import importlib
import resource
import sys

import trio


def main() -> None:
    name, address, seconds = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = importlib.import_module(f"tests.attacks.{name}")
    trio.run(_bounded, attack.run, address, float(seconds))


async def _bounded(run: object, address: str, seconds: float) -> None:
    assert callable(run)
    with trio.move_on_after(seconds + 5):
        await run(address, seconds)


if __name__ == "__main__":
    main()
