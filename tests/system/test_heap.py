"""The heap of processes that only serve: short garbage collections, and freed memory goes back."""

from __future__ import annotations

from pathlib import Path

import trio

from meshtrio.cli.serve import trim_heap_periodically
from meshtrio.supervise.processes.usage import own_resident
from tests.programs import ECHO, plugin, served

PROGRAM = """
import gc, sys
sys.path.insert(0, sys.argv[1])
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply
from meshtrio import plugin

class Frozen(EchoServiceServicer):
    async def Echo(self, message):
        return EchoReply(message=str(gc.get_freeze_count()))

plugin.run(Frozen())
"""
MIB = 1024 * 1024


def test_collections_leave_out_what_a_plugin_has_at_its_start(tmp_path: Path) -> None:
    program = tmp_path / "frozen.py"
    program.write_text(PROGRAM)
    with served(tmp_path, plugin("frozen", str(program), str(ECHO)), ready=1) as running:
        done = running.run("call", "plugin.frozen", "echo.v1.EchoService/Echo", "{}")
    assert done.returncode == 0, done.stderr
    frozen = int("".join(filter(str.isdigit, done.stdout)))
    assert frozen > 10_000


async def let_it_look() -> None:
    """Let a task that looks at each iteration of the event loop do so at least once."""
    for _ in range(2):  # In an iteration, tasks run in any order.
        await trio.lowlevel.checkpoint()


async def test_freed_memory_goes_back_although_pieces_are_still_used() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trim_heap_periodically, 0.0)
        await let_it_look()
        pieces = [bytes(4000) for _ in range(32_000)]
        peak = own_resident()
        await let_it_look()  # At the peak, too.
        kept = pieces[::400]
        del pieces
        with trio.fail_after(30):
            while own_resident() > peak - 64 * MIB:  # noqa: ASYNC110 - the kernel tells nobody
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert len(kept) == 80
