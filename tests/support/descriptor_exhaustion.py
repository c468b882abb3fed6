"""A server whose process has no file descriptors left when channelz is first called.

Prints the outcomes of the calls over one connection: during that, and afterwards.
"""

from __future__ import annotations

import resource
import socket

import purerpc
import trio
from google.protobuf.empty_pb2 import Empty

from meshtrio.client.multicallable import make_multicallable
from meshtrio.rpc.method import Method
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.transport.transport import Transport
from tests.support.direct_channels import channel_over_socket
from tests.support.servers import standard_server

_UNKNOWN = Method("x.Unknown", "Get", Empty, Empty, client_streams=False, server_streams=False)
_SERVERS = Method(
    "grpc.channelz.v1.Channelz",
    "GetServers",
    Empty,
    Empty,
    client_streams=False,
    server_streams=False,
)


async def main() -> None:
    ours, theirs = socket.socketpair()
    server, _ = standard_server()
    connection = ServerConnection(Transport(theirs), server)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        async with channel_over_socket(ours) as picker:

            async def report(method: Method) -> None:
                try:
                    await make_multicallable(picker, method)(Empty())
                except purerpc.RpcFailedError as exc:
                    print(exc.status.status_code.name, exc.status.status_message)
                else:
                    print("OK")

            await report(_UNKNOWN)  # What the calls themselves need is imported by then.
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            await report(_SERVERS)
            await report(_SERVERS)
            await report(_UNKNOWN)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await report(_SERVERS)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
