"""A mesh inside a trio app: the app calls its plugin, and both end together.

python examples/embedded.py [RUNTIME_DIR]
"""

import signal
import sys
from pathlib import Path

import trio

from meshtrio import MeshConfig, PluginConfig, mesh

ECHO = Path(__file__).parent / "echo-plugin"
sys.path.insert(0, str(ECHO))  # for the generated code of the echo service
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

CONFIG = MeshConfig(
    plugins=[PluginConfig(name="echo", command=["{python}", "echo_plugin.py"], cwd=ECHO)],
    runtime_dir=sys.argv[1] if sys.argv[1:] else None,
)


async def app(m: mesh.Mesh) -> None:
    async with m.connect("plugin.echo") as channel:
        echo = channel.stub(EchoServiceStub)
        reply = await echo.Echo(EchoRequest(message="hello from the same program"))
        print(f"{reply.message}, answered by pid {reply.pid}; Ctrl-C ends it", flush=True)


async def main() -> None:
    # An app that needs nothing but the mesh is one line: trio.run(mesh.main, CONFIG)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            m = await nursery.start(mesh.main, CONFIG)
            nursery.start_soon(app, m)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
