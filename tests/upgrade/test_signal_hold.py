"""Signals that arrive while a program executes another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from meshtrio.upgrade.signal_hold import SignalHold
from tests import ROOT

NUMBERS = (signal.SIGUSR1, signal.SIGTERM)


def test_held_signals_are_delivered_once_it_is_undone() -> None:
    found: list[int] = []
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, lambda number, _: found.append(number))
    ready, sent = threading.Event(), threading.Event()
    # This thread does not block signals, as one of a library.
    other = threading.Thread(target=lambda: (ready.set(), sent.wait()))
    other.start()
    try:
        ready.wait()
        hold = SignalHold()
        hold.begin()
        for number in NUMBERS:
            os.kill(os.getpid(), number)
        assert not found
        hold.undo()
        assert set(found) == set(NUMBERS)
        found.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        assert found == [signal.SIGTERM]
    finally:
        sent.set()
        other.join()
        for number, handler in before.items():
            signal.signal(number, handler)


PROGRAM = """
import os, signal, sys, threading, time
from meshtrio.upgrade.signal_hold import SignalHold, take_signals
if len(sys.argv) > 1:
    caught = take_signals(int(sys.argv[1]))
    print(sorted(caught | {int(n) for n in signal.sigpending()}))
    sys.exit()
signal.signal(signal.SIGTERM, lambda *_: None)
if THREAD:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
hold = SignalHold()
hold.begin()
os.kill(os.getpid(), signal.SIGTERM)
os.set_inheritable(hold.pipe, True)
os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], str(hold.pipe)])
"""


def test_the_new_program_gets_them() -> None:
    """Whether this thread has blocked them, or another one has caught them in the last instant."""
    for thread in ("True", "False"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.replace("THREAD", thread)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout == f"[{int(signal.SIGTERM)}]\n"
