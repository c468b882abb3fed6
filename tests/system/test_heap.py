"""The heap of processes that only serve: short garbage collections, and freed memory goes back."""

from __future__ import annotations

from pathlib import Path

import trio

from meshtrio.cli.serve import trim_heap_periodically
from meshtrio.supervisor.process.proc.resource_usage import read_own_rss
from meshtrio.util.malloc_tuning import MALLOC_TUNING
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY, plugin_table, serve_mesh

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
    config = plugin_table("frozen", str(program), str(ECHO_PLUGIN_DIRECTORY))
    with serve_mesh(tmp_path, config, min_ready=1) as running:
        done = running.run_command("call", "plugin.frozen", "echo.v1.EchoService/Echo", "{}")
    assert done.returncode == 0, done.stderr
    frozen = int("".join(filter(str.isdigit, done.stdout)))
    assert frozen > 10_000


async def let_it_look() -> None:
    """Let a task that looks at each iteration of the event loop do so at least once."""
    for _ in range(2):  # In an iteration, tasks run in any order.
        await trio.lowlevel.checkpoint()


async def test_freed_memory_goes_back_although_pieces_are_still_used() -> None:
    MALLOC_TUNING.enable()
    await MALLOC_TUNING.trim()  # What earlier tests have freed would serve for the pieces.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trim_heap_periodically, 0.0)
        await let_it_look()
        pieces = [bytes(4000) for _ in range(32_000)]
        peak = read_own_rss()
        await let_it_look()  # At the peak, too.
        kept = pieces[::400]
        del pieces
        with trio.fail_after(30):
            while read_own_rss() > peak - 64 * MIB:  # noqa: ASYNC110 - the kernel tells nobody
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert len(kept) == 80
