"""Plugins on meshtrio that have something which lasts: tasks, children, a wrapper around them.

The argument says which; `children` has a child in its group, and one outside of it, that ignore
SIGTERM.
"""

import os
import subprocess
import sys
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply

from meshtrio import plugin

STUBBORN = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('child', os.getpid(), 'of lasting', flush=True); time.sleep(3600)"
)


class SlowToStop(EchoServiceServicer):
    async def Slow(self, request):
        print("slow begins", flush=True)
        await trio.sleep(request.seconds)
        print("slow ends, into a pipe that nobody reads", flush=True)
        return EchoReply(message=request.message)


async def run_forever():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await plugin.serve(SlowToStop())
        # And does not cancel its other task.


async def orderly():
    await plugin.serve(SlowToStop())


async def execute_again():
    """Execute the program again once it has served, as programs do that reload their code."""
    async with trio.open_nursery() as nursery:
        await nursery.start(plugin.serve, SlowToStop())
        nursery.cancel_scope.cancel()
    os.execv(sys.executable, [sys.executable, __file__, "run"])


def start_children():
    for apart in (False, True):
        command = [sys.executable, "-I", "-S", "-c", STUBBORN]
        # As C programs do, and shells: all descriptors are inherited.
        subprocess.Popen(command, start_new_session=apart, close_fds=False)


if __name__ == "__main__":
    match sys.argv[1]:
        case "run":
            plugin.run(SlowToStop())
        case "serve":
            trio.run(orderly)
        case "goes-on":
            trio.run(run_forever)
        case "children":
            start_children()
            plugin.run(SlowToStop())
        case "wrapped":
            command = [sys.executable, __file__, "run"]
            sys.exit(subprocess.call(command, close_fds=False))
        case "executed-again":
            trio.run(execute_again)
        case "executed":
            os.execv(sys.executable, [sys.executable, __file__, "run"])
