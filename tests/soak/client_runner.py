"""The twenty clients: some in this process, others in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import trio

from tests import ROOT
from tests.soak.clients import DEADLINE, Client
from tests.soak.config import Layout
from tests.soak.score import Score

LOCAL_CLIENTS = 8
"""Clients in the process of the soak itself, half of them through the gateway."""
CLIENTS_BY_PROGRAM = {"tests.soak.clients": (4, 4), "tests.soak.grpcio_clients": (4,)}
"""Programs, and how many clients each of their processes has."""


class ClientRunner:
    """Runs the clients, and adds up what became of their calls."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.score = Score()
        """Of the clients here; at the end of all."""
        self.failed: list[str] = []
        """Client processes that did not end in good order."""
        self._layout = layout
        self._seed = seed

    @asynccontextmanager
    async def run_clients(self) -> AsyncIterator[None]:
        """Have all clients call during the block. The score is complete after it."""
        names = list(self._layout.names)
        async with trio.open_nursery() as processes:
            over = trio.Event()
            number = 0
            for program, counts in CLIENTS_BY_PROGRAM.items():
                for count in counts:
                    number += 1
                    arguments = [f"{self._seed}.{number}", str(count), *names]
                    processes.start_soon(self._process, program, arguments, over)
            async with trio.open_nursery() as here:
                for number in range(LOCAL_CLIENTS):
                    name = f"c{self._seed}.{number}"
                    socket = str(self._layout.mesh_socket)
                    client = Client(name, socket, names, Random(name), self.score)
                    here.start_soon(client.run, number % 2 == 1)
                yield
                here.cancel_scope.cancel()
            over.set()

    async def _process(self, program: str, arguments: list[str], over: trio.Event) -> None:
        command = [sys.executable, "-m", program, str(self._layout.mesh_socket), *arguments]
        pipe = subprocess.PIPE
        process = await trio.lowlevel.open_process(command, stdin=pipe, stdout=pipe, cwd=ROOT)
        assert process.stdin is not None
        assert process.stdout is not None
        output = b""
        try:
            await over.wait()
            await process.stdin.aclose()
            with trio.move_on_after(DEADLINE + 30):
                while piece := await process.stdout.receive_some():
                    output += piece
            self.score.add(Score.from_json(json.loads(output)))
        except ValueError:
            self.failed.append(f"{program} gave no score: {output[-200:]!r}")
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()
