"""An echo plugin that gives metadata back, and fails with long messages when it is told to."""

import sys
from pathlib import Path

import purerpc

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply

from meshtrio import plugin


class MetadataEcho(EchoServiceServicer):
    async def Echo(self, message, request):
        request.initial_metadata = request.custom_metadata
        request.trailing_metadata = request.custom_metadata
        if message.message.startswith("fail "):
            raise purerpc.NotFoundError(message.message.removeprefix("fail ") * 10_000)
        return EchoReply(message=message.message)


if __name__ == "__main__":
    plugin.run(MetadataEcho())
