"""Plugins for alerts, of the standard library only: ready in a moment, each with one vice.

Some have it from the beginning, the others once there is a file named by GO.
"""

import itertools
import os
import signal
import sys
import threading
import time

import minimal


def crash():
    time.sleep(0.1)
    os._exit(3)


def flood():
    while True:
        os.write(1, b"and another line\n" * 100)
        time.sleep(0.1)


def exhaust_limits():
    """Nine tenths of the 60 descriptors and 80 MB it may have, and a little more."""
    while len(os.listdir("/proc/self/fd")) < 56:
        os.open("/dev/null", os.O_RDONLY)
    taken = []
    while resident() < 0.94 * 80e6:
        taken.append(bytearray(b"x" * 500_000))
    threading.Event().wait()


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def refuse():
    """Every other call, without looking at it."""
    turns, answer = itertools.cycle((False, True)), minimal.answer
    refused_stream = b"\0\0\0\x07"

    def answer_or_refuse(stream):
        if next(turns):
            return b"\0\0\x04\x03\0" + stream + refused_stream
        return answer(stream)

    minimal.answer = answer_or_refuse


IMMEDIATE = {"be-deaf": ignore_sigterm, "refuse": refuse, "none": lambda: None}
TRIGGERED = {"crash": crash, "flood": flood, "grasp": exhaust_limits}


def run_when_triggered(vice):
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.02)
    vice()


def main(name):
    if name in TRIGGERED:
        threading.Thread(target=run_when_triggered, args=(TRIGGERED[name],), daemon=True).start()
    else:
        IMMEDIATE[name]()
    minimal.main()


if __name__ == "__main__":
    main(sys.argv[1])
