"""What it costs to follow many keys that change often."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import trio

from meshtrio.etcd import EtcdClient, open_client
from tests.support.etcd_server import in_thread, run_etcd

KEYS = 10_000
RATE, SECONDS = 200, 5
MAX_CPU = 0.25
"""Of a core, for all changes: six times what it takes."""
MAX_LIST_CPU = 0.25
"""Seconds for the first snapshot: ten times what it takes."""


async def put_range(client: EtcdClient, start: int, step: int) -> None:
    for number in range(start, KEYS, step):
        await client.put(f"load/{number:05}", b'{"Op":0,"Addr":"10.0.0.2:7443"}')


def start_program(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_following_many_keys_takes_little_cpu_time() -> None:
    with run_etcd() as etcd:
        (url,) = etcd.endpoints
        async with open_client([url]) as client:
            async with trio.open_nursery() as nursery:
                for start in range(20):
                    nursery.start_soon(put_range, client, start, 20)
            command = [sys.executable, "-m", "tests.support.etcd_programs", "follow"]
            arguments = [url, "load/", "load/last"]
            program = await in_thread(start_program, [*command, *arguments])
            read = partial(in_thread, program.stdout.readline)
            try:
                listed = json.loads(await read())
                started = trio.current_time()
                for number in range(RATE * SECONDS):
                    await client.put(f"load/{number:05}", b"changed")
                    await trio.sleep_until(started + number / RATE)
                await client.put("load/last", b"")
                followed = json.loads(await read())
            finally:
                program.kill()
                await in_thread(program.communicate)
    print(listed, followed)
    assert listed["listed"] == KEYS
    assert followed["keys"] == KEYS + 1
    assert followed["changes"] == RATE * SECONDS + 1
    assert listed["cpu"] < MAX_LIST_CPU
    assert followed["cpu"] < MAX_CPU * followed["seconds"]
