"""An echo plugin with a child in its group that takes as many MiB of memory as it is told."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo_plugin import EchoServicer

from meshtrio import plugin

if os.fork() == 0:
    taken = bytearray(int(sys.argv[1]) << 20)
    taken[::4096] = b"x" * len(taken[::4096])
    os.read(os.pipe()[0], 1)
plugin.run(EchoServicer())
