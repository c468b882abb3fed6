"""Reports by sd_notify(3) what its arguments say, one after the other.

Each argument is a notification, or one of the words below. The steps in the environment variable
ON_TERM follow SIGTERM, and then it exits. Standard library only.
"""

import array
import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any


def send(data: bytes, *descriptors: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        ancillary: Any = []
        if descriptors:
            rights = array.array("i", descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        sock.sendmsg([data], ancillary)


def flood(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        send(b"STATUS=" + b"\x1b" * 4000)


def pass_descriptors() -> None:
    """Pass descriptors in many ways, and wait until the other side has none of them."""
    for number in (1, 2, 50):
        reading, writing = os.pipe()
        send(b"FDSTORE=1\nFDNAME=x", *[writing] * number)
        send(b"BARRIER=1", writing)
        os.close(writing)
        assert os.read(reading, 1) == b""
        os.close(reading)


def ping(interval: float, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        send(b"WATCHDOG=1")
        time.sleep(interval)


def run_step(step: str) -> None:
    name, _, value = step.partition(":")
    match name:
        case "sleep":
            time.sleep(float(value))
        case "flood":
            flood(float(value))
        case "descriptors":
            pass_descriptors()
        case "ping":
            interval, _, seconds = value.partition(",")
            ping(float(interval), float(seconds))
        case "garbage":
            for data in (b"", b"\xff" * 3000, b"\0", b"READY", b"=", b"\n\n"):
                send(data)
            send(b"READY=1\nSTATUS=" + b"x" * 100_000)
        case "fork":
            if os.fork() == 0:
                os.setsid()  # A child that has left the session, and exits at once.
                send(value.encode())
                os._exit(0)
            os.wait()
        case "exit":
            sys.exit()
        case _:
            send(step.encode())


def main() -> None:
    def stop(_: int, __: FrameType | None) -> None:
        for step in os.environ.get("ON_TERM", "").split():
            run_step(step)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    for step in sys.argv[1:]:
        run_step(step)
    while True:
        signal.pause()


main()
