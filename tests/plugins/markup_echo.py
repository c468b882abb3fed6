"""An echo plugin whose every text is markup: of its lines, its statuses and its last lines."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import purerpc

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo_plugin import EchoServicer

from meshtrio import plugin

MARKUP = os.environ["MARKUP"]


class MarkupEcho(EchoServicer):
    async def Echo(self, message):
        print(f"out {MARKUP}", flush=True)
        print(f"err {MARKUP}", file=sys.stderr, flush=True)
        line = {"message": f"json {MARKUP}", "level": "error", "logger": MARKUP, MARKUP: MARKUP}
        print(json.dumps(line), flush=True)
        raise purerpc.NotFoundError(f"status {MARKUP}")


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        sock.send(text.encode())


if __name__ == "__main__":
    match sys.argv[1]:
        case "serve":
            plugin.run(MarkupEcho())
        case "die":
            sys.exit(f"last {MARKUP}")
        case "notify":
            notify(f"READY=1\nSTATUS=notified {MARKUP}")
            signal.pause()
