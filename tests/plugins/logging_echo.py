"""An echo plugin that logs what it is told: `warning some text`, or `die` with an exception.

Given the word `own` it sets up logging by itself before, with a form and a level of its own; given
the path of a pipe it waits for a line there, before it serves.
"""

import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply

from meshtrio import plugin

log = logging.getLogger("shop.orders")


class LoggingEcho(EchoServiceServicer):
    async def Echo(self, message):
        word, _, text = message.message.partition(" ")
        if word in ("fail", "die"):
            try:
                raise RuntimeError("no\nsuch table")
            except RuntimeError:
                log.exception("it failed: %s", text)
        if word == "quiet":
            logging.getLogger().setLevel(logging.ERROR)
        if word == "die":
            os._exit(3)
        if word == "long":
            log.info("x" * 20_000, extra={"more": "y" * 20_000})
        if word in ("debug", "info", "warning", "error"):
            log.log(logging.getLevelNamesMapping()[word.upper()], "%s", text, extra={"order": 17})
        return EchoReply(message=message.message, pid=os.getpid())


if __name__ == "__main__":
    if "own" in sys.argv:
        logging.basicConfig(level=logging.WARNING, format="own %(levelname)s %(message)s")
    for path in sys.argv[1:]:
        if "/" in path:
            Path(path).read_text()
    plugin.run(LoggingEcho())
