"""An echo plugin whose instance 1 fails each call, and whose other instances decline some."""

import itertools
import json
import sys
from pathlib import Path

import purerpc

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo_plugin import INSTANCE, EchoServicer, reply

from meshtrio import plugin

_calls = itertools.count(1)


class Payments(EchoServicer):
    async def Echo(self, message):
        number = next(_calls)
        if INSTANCE == 1:
            raise purerpc.UnavailableError("the card network is down")
        if number % 4 == 0:
            line = {"level": "warning", "message": f"payment {number} was declined"}
            print(json.dumps(line), flush=True)
            raise purerpc.FailedPreconditionError("the card was declined")
        return reply(message.message)


if __name__ == "__main__":
    plugin.run(Payments())
