"""An echo plugin that exits in the middle of its first call."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer

from meshtrio import plugin


class ExitingEcho(EchoServiceServicer):
    async def Echo(self, message):
        print("I die because I was told to", file=sys.stderr, flush=True)
        os._exit(7)


if __name__ == "__main__":
    plugin.run(ExitingEcho())
