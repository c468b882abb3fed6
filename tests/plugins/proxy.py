"""A plugin that passes a call on to the services its message names: "plugin.b plugin.c rest".

At the end of the chain "die" has it die, "nobody" fails with NOT_FOUND, and "baggage key" gives
what the baggage of the call has under that key.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import purerpc

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "echo-plugin"))

from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from opentelemetry import baggage

from meshtrio import mesh, plugin


class Proxy(EchoServiceServicer):
    async def Echo(self, request: Any) -> EchoReply:
        first, _, rest = request.message.partition(" ")
        if first == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if first == "nobody":
            raise purerpc.NotFoundError("nobody is here")
        if first == "baggage":
            return EchoReply(message=str(baggage.get_baggage(rest)))
        if not first.startswith("plugin."):
            return EchoReply(message=request.message)
        async with mesh.connect(first) as channel:
            return await channel.stub(EchoServiceStub).Echo(EchoRequest(message=rest))


plugin.run(Proxy())
