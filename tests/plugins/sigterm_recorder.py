"""Waits, and says in a file how it was ended: standard library only."""

import os
import signal
import sys
import time
from pathlib import Path


def end(number, frame):
    Path(sys.argv[1]).write_text(signal.Signals(number).name)
    # Long enough that a mesh which did not wait for it would be gone before.
    time.sleep(0.2)
    Path(sys.argv[1]).write_text("stopped in order")
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    Path(sys.argv[1]).write_text("waiting")
    while True:
        time.sleep(3600)
