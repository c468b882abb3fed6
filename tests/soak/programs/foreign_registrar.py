"""Registers itself as an endpoint of plugin.echo, as another user: of the standard library alone.

    python -I -S foreign_registrar.py MESH_SOCKET OWN_SOCKET SECONDS

Prints how many calls came for the plugin.
"""

import os
import socket
import sys
import threading
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, DATA, SETTINGS = 1, 0, 4
calls = []


def frame(kind, flags, stream, payload=b""):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def field(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def text(number, value):
    """A string of a protobuf message; of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


def registration(own):
    weight = b"\x18" + b"\xff\xff\xff\x7f"
    message = text(1, b"plugin.echo") + text(2, b"unix:" + own.encode()) + weight
    block = (
        b"\x83\x86"
        + field(b":path", b"/meshtrio.v1.Registry/Register")
        + field(b":authority", b"localhost")
        + field(b"te", b"trailers")
        + field(b"content-type", b"application/grpc")
    )
    prefixed = b"\0" + len(message).to_bytes(4, "big") + message
    return frame(HEADERS, 4, 1, block) + frame(DATA, 1, 1, prefixed)


def hear(sock):
    """Count the header blocks that a caller sends; it is never answered."""
    with sock, sock.makefile("rb") as peer:
        sock.sendall(frame(SETTINGS, 0, 0))
        peer.read(len(PREFACE))
        while len(head := peer.read(9)) == 9:
            peer.read(int.from_bytes(head[:3], "big"))
            if head[3] == HEADERS:
                calls.append(1)


def accept(listener):
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=hear, args=(sock,), daemon=True).start()


def main(mesh_socket, own, seconds):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as mesh:
        listener.bind(own)
        os.chmod(own, 0o777)
        listener.listen()
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        mesh.connect(mesh_socket)
        mesh.sendall(PREFACE + frame(SETTINGS, 0, 0) + registration(own))
        time.sleep(float(seconds))
    os.unlink(own)
    print(len(calls))


if __name__ == "__main__":
    main(*sys.argv[1:])
