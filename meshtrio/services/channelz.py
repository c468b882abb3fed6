"""grpc.channelz.v1.Channelz: what this process has of channels, servers and sockets (gRFC A14)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import purerpc
import trio

from meshtrio.messages import channelz
from meshtrio.rpc import census
from meshtrio.rpc.dynamic import service_of
from meshtrio.services.channelz_messages import (
    channel_message,
    server_message,
    socket_message,
    socket_ref,
    subchannel_message,
)

_MOST_RESULTS = 100
"""Of one reply, and what it has where the caller leaves it to us."""

T = TypeVar("T")
M = TypeVar("M")


class ChannelzServicer:
    """Tells of the whole process, whichever of its servers is asked."""

    def __init__(self) -> None:
        self.service = service_of(channelz.DESCRIPTOR.services_by_name["Channelz"], self)

    async def GetTopChannels(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raises InvalidArgumentError, as all that give a page do."""
        things = census.CHANNELS.since(request.start_channel_id)
        page, end = _page(things, request.start_channel_id, request.max_results)
        found = await _messages(channel_message, page)
        return channelz.GetTopChannelsResponse(channel=found, end=end)

    async def GetServers(self, request: Any) -> Any:  # noqa: N802
        things = census.SERVERS.since(request.start_server_id)
        page, end = _page(things, request.start_server_id, request.max_results)
        found = await _messages(server_message, page)
        return channelz.GetServersResponse(server=found, end=end)

    async def GetServerSockets(self, request: Any) -> Any:  # noqa: N802
        """Raises NotFoundError, as all do that ask for one thing."""
        server = _find(census.SERVERS, "server", request.server_id)
        start = request.start_socket_id
        things = sorted(
            (each for each in server.connections if each.number >= start),
            key=lambda each: each.number,
        )
        page, end = _page(iter(things), start, request.max_results)
        found = await _messages(socket_ref, page)
        return channelz.GetServerSocketsResponse(socket_ref=found, end=end)

    async def GetServer(self, request: Any) -> Any:  # noqa: N802
        server = _find(census.SERVERS, "server", request.server_id)
        return channelz.GetServerResponse(server=server_message(server))

    async def GetChannel(self, request: Any) -> Any:  # noqa: N802
        channel = _find(census.CHANNELS, "channel", request.channel_id)
        return channelz.GetChannelResponse(channel=channel_message(channel))

    async def GetSubchannel(self, request: Any) -> Any:  # noqa: N802
        link = _find(census.SUBCHANNELS, "subchannel", request.subchannel_id)
        return channelz.GetSubchannelResponse(subchannel=subchannel_message(link))

    async def GetSocket(self, request: Any) -> Any:  # noqa: N802
        found = _find(census.SOCKETS, "socket", request.socket_id)
        try:
            return channelz.GetSocketResponse(socket=socket_message(found))
        except OSError:
            raise _missing("socket", request.socket_id) from None  # gone, and not yet taken note of


def _find(roll: census.Roll, kind: str, number: int) -> Any:
    found = roll.find(number)
    if found is None:
        raise _missing(kind, number)
    return found


def _missing(kind: str, number: int) -> purerpc.NotFoundError:
    return purerpc.NotFoundError(f"there is no {kind} {number}, or no more")


def _page(things: Iterator[T], start: int, most: int) -> tuple[list[T], bool]:
    """As many as are wanted and allowed, and whether that is all."""
    if start < 0 or most < 0:
        raise purerpc.InvalidArgumentError("neither start nor max_results can be negative")
    most = min(most or _MOST_RESULTS, _MOST_RESULTS)
    found = list(islice(things, most + 1))
    return found[:most], len(found) <= most


async def _messages(make: Callable[[T], M], things: Iterable[T]) -> list[M]:
    """What is told of each, without holding up others for long."""
    made = []
    for thing in things:
        made.append(make(thing))
        await trio.lowlevel.checkpoint()
    return made
