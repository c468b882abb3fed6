"""Writes so many numbers, a few at a time, while it serves nothing but its health."""

import sys
import threading
import time

from meshtrio import plugin


def count() -> None:
    for number in range(int(sys.argv[1])):
        print(number, flush=True)
        time.sleep(0.001)


threading.Thread(target=count, daemon=True).start()
plugin.run()
