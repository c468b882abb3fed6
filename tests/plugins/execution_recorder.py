"""Echo and Slow, each noting in the file COUNTED that it was executed before it answers."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply

from meshtrio import plugin

# One write of a short line to a file opened like this is whole, whoever else writes.
COUNTED = os.open(os.environ["COUNTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class ExecutionRecorder(EchoServiceServicer):
    async def Echo(self, request):
        os.write(COUNTED, request.message.encode() + b"\n")
        return EchoReply(message=request.message)

    Slow = Echo


plugin.run(ExecutionRecorder())
