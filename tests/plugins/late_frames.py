"""A plugin in bare HTTP/2 that sends frames on streams after it has ended or reset them.

It answers every call, and the metadata of a call says how:

- `x-late: trailers`: RST_STREAM with CANCEL, then trailers, as grpc-java does at a deadline;
- `x-late: reply`: RST_STREAM with CANCEL, then a whole reply and a WINDOW_UPDATE;
- `x-late: reset`: a whole reply before the request has ended, then RST_STREAM with NO_ERROR, as
  RFC 9113 8.1 has it for servers that need no more of the request;
- otherwise with a reply a second later; "holding" is written to stderr meanwhile.
"""

import os
import signal
import socket
import struct
import sys
import threading

from hpack import Decoder

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
ACK = END_STREAM = 1
END_HEADERS = 4
NO_ERROR, CANCEL = 0, 8
HELD = 1.0


def frame(kind, flags, stream, body=b""):
    size = len(body)
    return struct.pack(">BHBBL", size >> 16, size & 0xFFFF, kind, flags, stream) + body


def field(name, value):
    """A header field that is no entry of any table."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


HEAD = b"\x88" + field(b"content-type", b"application/grpc")


def reset(stream, code):
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def trailers(stream, head=b""):
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, head + field(b"grpc-status", b"0"))


def reply(stream, between=b""):
    head = frame(HEADERS, END_HEADERS, stream, HEAD)
    return head + frame(DATA, 0, stream, bytes(5)) + between + trailers(stream)


class Connection:
    def __init__(self, sock):
        self._sock = sock
        self._decoder = Decoder()
        self._lock = threading.Lock()

    def serve(self):
        self._send(frame(SETTINGS, 0, 0))
        with self._sock.makefile("rb") as peer:
            peer.read(24)
            while len(head := peer.read(9)) == 9:
                body = peer.read(int.from_bytes(head[:3], "big"))
                self._take(head[3], head[4], int.from_bytes(head[5:9], "big"), body)

    def _send(self, data):
        with self._lock:
            self._sock.sendall(data)

    def _take(self, kind, flags, stream, body):
        if kind in (SETTINGS, PING) and not flags & ACK:
            self._send(frame(kind, ACK, 0, body if kind == PING else b""))
        elif kind == HEADERS:
            self._answer(stream, dict(self._decoder.decode(body)))

    def _answer(self, stream, headers):
        update = frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", 1000))
        answers = {
            "trailers": reset(stream, CANCEL) + trailers(stream, HEAD),
            "reply": reset(stream, CANCEL) + reply(stream, between=update),
            "reset": reply(stream) + reset(stream, NO_ERROR),
        }
        kind = headers.get("x-late")
        if kind is not None:
            self._send(answers[kind])
        elif headers[":path"].startswith("/grpc.health"):
            self._send(
                frame(
                    HEADERS, END_HEADERS | END_STREAM, stream, HEAD + field(b"grpc-status", b"12")
                )
            )
        else:
            print("holding", file=sys.stderr, flush=True)
            threading.Timer(HELD, self._send, [reply(stream)]).start()


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ["PLUGIN_SOCKET"])
        listener.listen()
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=Connection(sock).serve, daemon=True).start()


if __name__ == "__main__":
    main()
