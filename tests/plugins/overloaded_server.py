"""A server that answers one health check, is overloaded in the way that it is told, and recovers.

It recovers when the FIFO in RECOVERS has a writer.
"""

import contextlib
import os
import socket
import sys
import time

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import RequestReceived
from meshtrio.http2.hpack import encoder

HEAD = encoder.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encoder.encode([(b"grpc-status", b"0")])
EXHAUSTED = encoder.encode(
    [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"8")]
)
SERVING = frame_message(b"\x08\x01")


def fifo():
    """Open it without waiting; a read gives b"" while it has no writer."""
    return os.open(os.environ["RECOVERS"], os.O_RDONLY | os.O_NONBLOCK)


def answer(connection, trailers_only=b""):
    """Answer health checks on a connection until its peer closes it."""
    engine = GrpcConnection(Role.SERVER)
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            for event in engine.receive_data(data):
                if isinstance(event, RequestReceived):
                    stream = event.stream_id
                    if trailers_only:
                        engine.send_headers(stream, trailers_only, end_stream=True)
                        continue
                    engine.send_headers(stream, HEAD)
                    engine.send_data(stream, SERVING)
                    engine.send_headers(stream, TRAILERS, end_stream=True)
            connection.sendall(engine.data_to_send())


def reject(connection):
    why = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, b"too many connections")
    with connection, contextlib.suppress(OSError):
        connection.sendall(frames.settings({}) + why)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def recovered(reading):
    try:
        return os.read(reading, 1) != b""
    except BlockingIOError:
        return False


def until_recovered(listener, how):
    reading = fifo()
    if how == "computing":
        while not recovered(reading):
            sum(range(10_000))
    elif how == "backlog":
        clients = []
        with contextlib.suppress(BlockingIOError):
            while True:
                clients.append(socket.socket(socket.AF_UNIX))
                clients[-1].setblocking(False)
                clients[-1].connect(os.environ["PLUGIN_SOCKET"])
        print("its backlog is full", flush=True)
        open(os.environ["RECOVERS"]).read(1)  # noqa: SIM115 - sleeps
    elif how == "stuck":
        print("it is stuck", flush=True)
        time.sleep(3600)
    while how in ("rejecting", "exhausted", "closing") and not recovered(reading):
        connection = listener.accept()[0]
        if how == "rejecting":
            reject(connection)
        elif how == "exhausted":
            answer(connection, EXHAUSTED)
        else:
            connection.close()


with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(os.environ["PLUGIN_SOCKET"])
    listening.listen(2)
    answer(listening.accept()[0])
    until_recovered(listening, sys.argv[1])
    print("it has recovered", flush=True)
    while True:
        answer(listening.accept()[0])
