"""A host with a mesh and a client in one program: does what it is told on stdin, a word a line.

python remote_controlled_mesh.py CONFIG RUNTIME_DIR

`call` answers on stdout with who served a call, and after how many milliseconds; `stop` and `start`
are of the local plugin; `hang` makes a call that is not answered, and tells how it ends.
"""

import sys
import time
from pathlib import Path

import attrs
import purerpc
import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh
from meshtrio.config import load
from meshtrio.rpc.timeouts import Timeouts

QUICK = Timeouts(keepalive_time=0.5, keepalive_timeout=0.5)


async def call(stub):
    began = time.perf_counter()
    try:
        with trio.fail_after(20):
            reply = await stub.Echo(EchoRequest(message="who?"))
    except Exception as exc:
        return f"failed {exc}"
    return f"answered {reply.pid} {(time.perf_counter() - began) * 1e3:.0f}"


async def hang(stub):
    began = time.perf_counter()
    try:
        with trio.fail_after(20):
            await stub.Slow(SlowRequest(message="hang", seconds=3600))
    except (purerpc.RpcFailedError, trio.TooSlowError) as exc:
        return f"ended {time.perf_counter() - began:.2f} {exc!r}"


async def main():
    config = attrs.evolve(load(sys.argv[1]), runtime_dir=Path(sys.argv[2]))
    commands = trio.wrap_file(sys.stdin)
    async with trio.open_nursery() as nursery:
        running = await nursery.start(mesh.main, config)
        async with running.connect("plugin.echo", timeouts=QUICK) as channel:
            stub = channel.stub(EchoServiceStub)
            print("up", flush=True)
            async for line in commands:
                match line.strip():
                    case "call":
                        answer = await call(stub)
                    case "hang":
                        answer = await hang(stub)
                    case "stop":
                        await running.stop("echo")
                        answer = "stopped"
                    case "start":
                        await running.start("echo")
                        answer = "started"
                print(answer, flush=True)
        nursery.cancel_scope.cancel()


trio.run(main)
