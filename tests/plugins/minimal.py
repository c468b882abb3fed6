"""The smallest plugin there is: ready, since it answers every call with UNIMPLEMENTED.

Starts in some ten milliseconds with `python -I -S`, so that hundreds can be started.
"""

import os
import signal
import socket
import sys

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_ACK = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
UNIMPLEMENTED = b"\x88\x5f\x10application/grpc\x40\x0bgrpc-status\x0212"


def serve(sock):
    sock.sendall(SETTINGS + SETTINGS_ACK)
    with sock.makefile("rb") as peer:
        peer.read(24)
        while len(head := peer.read(9)) == 9:
            peer.read(int.from_bytes(head[:3], "big"))
            if head[3] == 1:
                sock.sendall(answer(head[5:9]))


def answer(stream):
    """The frame that ends a call."""
    return len(UNIMPLEMENTED).to_bytes(3, "big") + b"\x01\x05" + stream + UNIMPLEMENTED


def main():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ["PLUGIN_SOCKET"])
        listener.listen()
        if "--daemon" in sys.argv:
            daemonize()
        while True:
            sock, _ = listener.accept()
            with sock:
                serve(sock)


def forget_everything():
    """Become a program without a single variable in its environment."""
    sleeper = "import os, time; print('daemon', os.getpid(), flush=True); time.sleep(3600)"
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", sleeper], {})


def daemonize():
    """Daemonize: fork a child that leads a session and whose child goes on."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if "--without-environment" in sys.argv:
                forget_everything()
            print("daemon", os.getpid(), flush=True)
            while True:
                signal.pause()
        os._exit(0)


if __name__ == "__main__":
    main()
