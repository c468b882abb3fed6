"""A plugin whose health check is unimplemented, and which exits as soon as it was asked."""

import os
import socket

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2.connection import Role
from meshtrio.http2.events import RequestReceived
from meshtrio.http2.hpack import encoder

TRAILERS_ONLY = encoder.encode(
    [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"12")]
)

with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(os.environ["PLUGIN_SOCKET"])
    listener.listen()
    connection, _ = listener.accept()
    engine = GrpcConnection(Role.SERVER)
    while True:
        for event in engine.receive_data(connection.recv(65536)):
            if isinstance(event, RequestReceived):
                engine.send_headers(event.stream_id, TRAILERS_ONLY, end_stream=True)
                connection.sendall(engine.data_to_send())
                os._exit(1)
        connection.sendall(engine.data_to_send())
