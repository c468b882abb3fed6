"""A mesh that tells on stdout what happens to its plugins, and when: a process of the benchmark.

python -m tests.benchmarks.supervision.mesh_program FOLDER COUNT BACKOFF CWD START COMMAND...

START is `exec`, or `fork` with the modules to preload, separated by commas.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import trio

from meshtrio import mesh
from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from meshtrio.util.backoff import Backoff


def write_event(*words: object) -> None:
    # As it happens, whatever else there is to do.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def on_event(event: events.LifecycleEvent) -> None:
    if isinstance(event, (events.Starting, events.Ready, events.Exited)):
        write_event(type(event).__name__, event.pid, time.monotonic())


async def main() -> None:
    folder, count, backoff, cwd, start, *command = sys.argv[1:]
    method, *preload = start.split(",")
    plugins = [
        PluginConfig(
            name=f"p{number}",
            command=command,
            cwd=Path(cwd),
            backoff=Backoff(initial=float(backoff), jitter=0.0),
            ready_timeout=60.0,
            start=StartMethod(method),
            preload=preload,
        )
        for number in range(int(count))
    ]
    config = MeshConfig(plugins, runtime_dir=Path(folder))
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            write_event("Begin", os.getpid(), time.monotonic())
            running = await nursery.start(mesh.main, config)
            running.subscribe(on_event)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
