"""An echo plugin with troubles: of calls that say "flaky" one in three succeeds, of others half."""

import itertools
import sys
from pathlib import Path

import purerpc

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo_plugin import EchoServicer, reply

from meshtrio import plugin

_flaky, _others = itertools.count(), itertools.count()


class FailingEcho(EchoServicer):
    async def Echo(self, request):
        if request.message == "flaky":
            if next(_flaky) % 3:
                raise purerpc.UnavailableError("not now")
        elif next(_others) % 2:
            raise RuntimeError("a bug")
        return reply(request.message)


if __name__ == "__main__":
    plugin.run(FailingEcho())
