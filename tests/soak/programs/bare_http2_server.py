"""The echo service on the standard library alone, for another user: `python -I -S bare.py`.

Gives each call's messages back. A call without one is answered with UNIMPLEMENTED, which is what a
health check of a server without a health service gets.
"""

import os
import signal
import socket
import sys
import threading

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_ACK = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
TYPE = b"\x0f\x10\x10application/grpc"
RESPONSE = b"\x88" + TYPE
OK = b"\x00\x0bgrpc-status\x010"
UNIMPLEMENTED = b"\x88" + TYPE + b"\x00\x0bgrpc-status\x0212"
DATA, HEADERS, RST_STREAM, SETTINGS_FRAME, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream + payload


def answer(stream, received):
    if len(received) <= 5:
        return frame(HEADERS, 5, stream, UNIMPLEMENTED)
    return (
        frame(HEADERS, 4, stream, RESPONSE)
        + frame(DATA, 0, stream, received)
        + frame(HEADERS, 5, stream, OK)
    )


def serve(sock):
    streams = {}
    sock.sendall(SETTINGS + SETTINGS_ACK)
    with sock.makefile("rb") as peer:
        peer.read(24)
        while len(head := peer.read(9)) == 9:
            payload = peer.read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], head[5:9]
            if kind == PING and not flags & 1:
                sock.sendall(frame(PING, 1, stream, payload))
            elif kind == RST_STREAM:
                streams.pop(stream, None)
            elif kind == HEADERS:
                streams[stream] = b""
            elif kind == DATA and stream in streams:
                streams[stream] += payload
                if payload:
                    grown = len(payload).to_bytes(4, "big")
                    sock.sendall(frame(WINDOW_UPDATE, 0, bytes(4), grown))
            if kind in (HEADERS, DATA) and flags & 1 and stream in streams:
                sock.sendall(answer(stream, streams.pop(stream)))


def serve_one(sock):
    with sock:
        try:
            serve(sock)
        except OSError:
            return


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ["PLUGIN_SOCKET"])
        listener.listen(100)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve_one, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
