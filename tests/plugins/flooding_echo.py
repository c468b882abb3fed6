"""An echo plugin that floods its output from a thread, in the way that its arguments name."""

import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo_plugin import EchoServicer

from meshtrio import plugin

KINDS = {
    "newlines": b"\n" * 65536,
    "lines": b"a line of a flood\n" * 4096,
    "endless": b"x" * 65536,
    "tiny": b"\n",
    "reports": b'{"meshtrio": "cut", "path": "/x"}\n' * 2048,
    "json": b'{"level": "error", "message": "a flood"}\n' * 2048,
}


def flood(descriptor: int, data: bytes) -> None:
    while True:
        os.write(descriptor, data)


def dies(*_: object) -> None:
    """Write a last line after all of a flood, and die."""
    os.write(2, b"\n" * 300_000 + b"the last line of stderr\n")
    os._exit(7)


if __name__ == "__main__":
    if sys.argv[1] == "dies":
        dies()
    signal.signal(signal.SIGUSR1, dies)
    for descriptor in (1, 2):
        threading.Thread(target=flood, args=(descriptor, KINDS[sys.argv[1]]), daemon=True).start()
    plugin.run(EchoServicer())
