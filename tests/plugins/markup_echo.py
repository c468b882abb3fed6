"""An echo plugin whose every text is markup: of its lines, its statuses and its last lines."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import purerpc

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from echo_plugin import EchoServicer

from meshtrio import plugin, stubs

MARKUP = os.environ["MARKUP"]


class MarkupEcho(EchoServicer):
    async def Echo(self, message):
        print(f"out {MARKUP}", flush=True)
        print(f"err {MARKUP}", file=sys.stderr, flush=True)
        line = {"message": f"json {MARKUP}", "level": "error", "logger": MARKUP, MARKUP: MARKUP}
        print(json.dumps(line), flush=True)
        raise purerpc.NotFoundError(f"status {MARKUP}")


class Evil(stubs.Servicer):
    """Has a method whose name is markup."""

    @property
    def service(self):
        service = stubs.Service("evil.v1.Evil")
        kinds = {"stream_in": False, "stream_out": False}
        name = os.environ["METHOD"].replace("/", ":")
        service.add_method(name, self.fail, stubs.signature(EchoRequest, EchoReply, **kinds))
        return service

    async def fail(self, message):
        raise purerpc.NotFoundError(f"status {MARKUP}")


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        sock.send(text.encode())


if __name__ == "__main__":
    match sys.argv[1]:
        case "serve":
            plugin.run(MarkupEcho(), Evil())
        case "die":
            sys.exit(f"last {MARKUP}")
        case "notify":
            notify(f"READY=1\nSTATUS=notified {MARKUP}")
            signal.pause()
