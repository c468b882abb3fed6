"""An echo plugin whose every text would control a terminal, or pass for another's."""

import json
import sys
from pathlib import Path

import purerpc
from google.protobuf import any_pb2

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio import plugin

TERMINAL_ESCAPES = (
    "\x1b[31mEVIL\x1b]0;title\x07\x1b]52;c;cm0gLXI=\x07\x1b[2J\x1b[1;1H \x9b2J \x9d52;c;eA==\x9c "
    "\u202egnp\u2066\u200f [bold]x[/bold] \x08\x7f|\rroot/0  ready|\u2028\x85|\x0b\x0c"
)
"""Title, clipboard (OSC 52), clear screen and cursor, in 7 and in 8 bits (C1), overrides of
direction, and what ends lines or goes back to their beginning, in some programs; `|` is where one
would begin."""
LINES = f"{TERMINAL_ESCAPES}\nmeshtrio: not ours"


def details():
    """Return a google.rpc.Status with two details: one with escapes in a text, one in a type."""
    known, unknown = (
        any_pb2.Any(),
        any_pb2.Any(type_url=f"example.com/{TERMINAL_ESCAPES}", value=b"123"),
    )
    known.Pack(EchoRequest(message=TERMINAL_ESCAPES))
    parts = [each.SerializeToString() for each in (known, unknown)]
    return b"\x08\x05" + b"".join(
        b"\x1a" + bytes([len(part) & 0x7F | 0x80, len(part) >> 7]) + part for part in parts
    )


class EscapingEcho(EchoServiceServicer):
    async def Echo(self, message, request):
        print(TERMINAL_ESCAPES, flush=True)
        print(f"err {TERMINAL_ESCAPES}", file=sys.stderr, flush=True)
        line = {
            "message": LINES,
            "level": "error",
            TERMINAL_ESCAPES: TERMINAL_ESCAPES,
            "logger": TERMINAL_ESCAPES,
            "exception": LINES,
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)
        if message.message == "reply":
            return EchoReply(message=TERMINAL_ESCAPES)
        request.status_details = details()
        raise purerpc.NotFoundError(LINES)


if __name__ == "__main__":
    if sys.argv[1:] == ["die"]:
        print(TERMINAL_ESCAPES, file=sys.stderr, flush=True)
        sys.exit(3)
    plugin.run(EscapingEcho())
