"""The grpc.channelz.v1.Channelz servicer: channels, servers and sockets of this process.

Source: gRFC A14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

import purerpc
import trio

from meshtrio.messages import channelz
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.services import channelz_messages as messages

_SERVICE = channelz.DESCRIPTOR.services_by_name["Channelz"]
_MAX_RESULTS = 100
"""Maximum number of results in a response, and the default."""

T = TypeVar("T")
M = TypeVar("M")


class ChannelzServicer:
    """Serves the channelz data of the whole process on any of its servers."""

    def __init__(self) -> None:
        self.service = service_from_descriptor(_SERVICE, self)

    async def GetTopChannels(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raise InvalidArgumentError for a negative start or count, as all paged methods do."""
        start = request.start_channel_id
        found = channelz_registry.CHANNELS.iter_from(start)
        page, end = await _make_page(messages.make_channel, found, start, request.max_results)
        return channelz.GetTopChannelsResponse(channel=page, end=end)

    async def GetServers(self, request: Any) -> Any:  # noqa: N802
        start = request.start_server_id
        found = channelz_registry.SERVERS.iter_from(start)
        page, end = await _make_page(messages.make_server, found, start, request.max_results)
        return channelz.GetServersResponse(server=page, end=end)

    async def GetServerSockets(self, request: Any) -> Any:  # noqa: N802
        """Raise NotFoundError for an unknown id, as all methods with an id do."""
        server = _find(channelz_registry.SERVERS, "server", request.server_id)
        start = request.start_socket_id
        found = [each for each in server.connections if each.channelz_id >= start]
        found.sort(key=lambda each: each.channelz_id)
        page, end = await _make_page(messages.make_socket_ref, found, start, request.max_results)
        return channelz.GetServerSocketsResponse(socket_ref=page, end=end)

    async def GetServer(self, request: Any) -> Any:  # noqa: N802
        server = _find(channelz_registry.SERVERS, "server", request.server_id)
        return channelz.GetServerResponse(server=messages.make_server(server))

    async def GetChannel(self, request: Any) -> Any:  # noqa: N802
        channel = _find(channelz_registry.CHANNELS, "channel", request.channel_id)
        return channelz.GetChannelResponse(channel=messages.make_channel(channel))

    async def GetSubchannel(self, request: Any) -> Any:  # noqa: N802
        subchannel = _find(channelz_registry.SUBCHANNELS, "subchannel", request.subchannel_id)
        return channelz.GetSubchannelResponse(subchannel=messages.make_subchannel(subchannel))

    async def GetSocket(self, request: Any) -> Any:  # noqa: N802
        found = _find(channelz_registry.SOCKETS, "socket", request.socket_id)
        try:
            return channelz.GetSocketResponse(socket=messages.make_socket(found))
        except OSError:
            # It was closed, and is not removed from the table yet.
            raise _make_not_found_error("socket", request.socket_id) from None


def _find(table: channelz_registry.ChannelzTable, kind: str, number: int) -> Any:
    found = table.get(number)
    if found is None:
        raise _make_not_found_error(kind, number)
    return found


def _make_not_found_error(kind: str, number: int) -> purerpc.NotFoundError:
    return purerpc.NotFoundError(f"no {kind} {number}; it may be gone")


async def _make_page(
    make: Callable[[T], M], items: Iterable[T], start: int, max_results: int
) -> tuple[list[M], bool]:
    """Make the messages of one page, and return whether they are the last."""
    if start < 0 or max_results < 0:
        raise purerpc.InvalidArgumentError("start and max_results must not be negative")
    max_results = min(max_results or _MAX_RESULTS, _MAX_RESULTS)
    found = list(islice(items, max_results + 1))
    made = []
    for item in found[:max_results]:
        made.append(make(item))
        await trio.lowlevel.checkpoint()
    return made, len(found) <= max_results
