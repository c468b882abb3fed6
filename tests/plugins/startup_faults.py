"""Plugins that do one thing wrong each; standard library only, so that they start at once."""

import os
import signal
import socket
import subprocess
import sys
import time


def exit_at_once():
    print("about to give up", file=sys.stderr)
    sys.exit(3)


def never_bind():
    time.sleep(3600)


def never_answer():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.environ["PLUGIN_SOCKET"])
        sock.listen()
        kept = []
        while True:
            kept.append(sock.accept())


def answer_garbage():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.environ["PLUGIN_SOCKET"])
        sock.listen()
        while True:
            connection, _ = sock.accept()
            with connection:
                connection.sendall(b"SSH-2.0-garbage\r\n" * 100)


def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ignoring", flush=True)
    time.sleep(3600)


def flood():
    """100 MB without a newline, then a word that shows it was read to the end."""
    chunk = b"x" * 1_000_000
    for _ in range(100):
        os.write(1, chunk)
    os.write(1, b"\nflood over\n")
    time.sleep(3600)


def chatter():
    """100,000 lines as fast as they are taken, a line of JSON, then ready for nothing."""
    lines = b"".join(b"line %d\n" % number for number in range(1000))
    for _ in range(100):
        os.write(1, lines)
    time.sleep(0.3)
    os.write(1, b'{"level": "error", "message": "chatter over", "n": 7}\n')
    time.sleep(3600)


def with_child():
    """A child in the group, and one that has left it for a session of its own."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
    subprocess.Popen(sleeper)
    subprocess.Popen(sleeper, start_new_session=True)
    print("children started", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")]()
