"""An echo plugin whose Echo says on which connection it was called, and for which client."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_pb2 import EchoReply
from echo_plugin import EchoServicer

from meshtrio import plugin
from meshtrio.contract import FORWARDED_METADATA_KEY


class ConnectionEcho(EchoServicer):
    async def Echo(self, message):
        call = plugin.current_call()
        client = dict(call.custom_metadata).get(FORWARDED_METADATA_KEY, "")
        connection = call._stream._connection.channelz_id
        return EchoReply(message=f"{os.getpid()}/{connection}|{client}")


if __name__ == "__main__":
    plugin.run(ConnectionEcho())
