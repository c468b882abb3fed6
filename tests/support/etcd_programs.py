"""Clients of etcd in processes of their own: `python -m tests.support.etcd_programs NAME URL ...`.

`hold-lease URL TTL` prints a JSON line {"now", "lease"} every 20 ms, with the time on
CLOCK_BOOTTIME read before the lease. `follow URL PREFIX LAST_KEY` prints the seconds of CPU time
until the first snapshot; and then those of CPU and wall-clock time until there is the key LAST_KEY,
with the number of keys and changes.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

from meshtrio.etcd import LeaseKeeper, PrefixChange, open_client
from tests.support.etcd_views import apply_change


def write(**values: Any) -> None:
    print(json.dumps(values), flush=True)


async def hold_lease(url: str, ttl: str) -> None:
    async with open_client([url]) as client, trio.open_nursery() as nursery:
        keeper = LeaseKeeper(client, int(ttl))
        nursery.start_soon(keeper.run)
        while True:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            write(now=now, lease=keeper.lease_id)
            await trio.sleep(0.02)


async def follow(url: str, prefix: str, last_key: str) -> None:
    keys: dict[str, bytes] = {}
    started: list[float] = []
    count = 0
    async with open_client([url]) as client:
        begun = time.process_time()
        with trio.CancelScope() as scope:

            def on_change(change: PrefixChange) -> None:
                nonlocal count
                apply_change(keys, change)
                if change.is_snapshot:
                    write(listed=len(keys), cpu=time.process_time() - begun)
                    started[:] = time.process_time(), time.monotonic()
                else:
                    count += len(change.puts) + len(change.deletes)
                if last_key in keys:
                    scope.cancel()

            await client.watch_prefix(prefix, on_change)
    write(
        cpu=time.process_time() - started[0],
        seconds=time.monotonic() - started[1],
        keys=len(keys),
        changes=count,
    )


if __name__ == "__main__":
    program = {"hold-lease": hold_lease, "follow": follow}[sys.argv[1]]
    trio.run(program, *sys.argv[2:])
