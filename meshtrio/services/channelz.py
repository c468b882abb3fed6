"""grpc.channelz.v1.Channelz: what this process has of channels, servers and sockets (gRFC A14)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import purerpc
import trio

from meshtrio.messages import channelz
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.services.channelz_messages import (
    make_channel,
    make_server,
    make_socket,
    make_socket_ref,
    make_subchannel,
)

_MAX_RESULTS = 100
"""Of one reply, and what it has where the caller leaves it to us."""

T = TypeVar("T")
M = TypeVar("M")


class ChannelzServicer:
    """Tells of the whole process, whichever of its servers is asked."""

    def __init__(self) -> None:
        self.service = service_from_descriptor(
            channelz.DESCRIPTOR.services_by_name["Channelz"], self
        )

    async def GetTopChannels(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raises InvalidArgumentError, as all that give a page do."""
        things = channelz_registry.CHANNELS.iter_from(request.start_channel_id)
        page, end = _take_page(things, request.start_channel_id, request.max_results)
        found = await _build_messages(make_channel, page)
        return channelz.GetTopChannelsResponse(channel=found, end=end)

    async def GetServers(self, request: Any) -> Any:  # noqa: N802
        things = channelz_registry.SERVERS.iter_from(request.start_server_id)
        page, end = _take_page(things, request.start_server_id, request.max_results)
        found = await _build_messages(make_server, page)
        return channelz.GetServersResponse(server=found, end=end)

    async def GetServerSockets(self, request: Any) -> Any:  # noqa: N802
        """Raises NotFoundError, as all do that ask for one thing."""
        server = _find(channelz_registry.SERVERS, "server", request.server_id)
        start = request.start_socket_id
        things = sorted(
            (each for each in server.connections if each.channelz_id >= start),
            key=lambda each: each.channelz_id,
        )
        page, end = _take_page(iter(things), start, request.max_results)
        found = await _build_messages(make_socket_ref, page)
        return channelz.GetServerSocketsResponse(socket_ref=found, end=end)

    async def GetServer(self, request: Any) -> Any:  # noqa: N802
        server = _find(channelz_registry.SERVERS, "server", request.server_id)
        return channelz.GetServerResponse(server=make_server(server))

    async def GetChannel(self, request: Any) -> Any:  # noqa: N802
        channel = _find(channelz_registry.CHANNELS, "channel", request.channel_id)
        return channelz.GetChannelResponse(channel=make_channel(channel))

    async def GetSubchannel(self, request: Any) -> Any:  # noqa: N802
        link = _find(channelz_registry.SUBCHANNELS, "subchannel", request.subchannel_id)
        return channelz.GetSubchannelResponse(subchannel=make_subchannel(link))

    async def GetSocket(self, request: Any) -> Any:  # noqa: N802
        found = _find(channelz_registry.SOCKETS, "socket", request.socket_id)
        try:
            return channelz.GetSocketResponse(socket=make_socket(found))
        except OSError:
            raise _make_not_found_error(
                "socket", request.socket_id
            ) from None  # gone, and not yet taken note of


def _find(table: channelz_registry.ChannelzTable, kind: str, number: int) -> Any:
    found = table.get(number)
    if found is None:
        raise _make_not_found_error(kind, number)
    return found


def _make_not_found_error(kind: str, number: int) -> purerpc.NotFoundError:
    return purerpc.NotFoundError(f"there is no {kind} {number}, or no more")


def _take_page(items: Iterator[T], start: int, max_results: int) -> tuple[list[T], bool]:
    """As many as are wanted and allowed, and whether that is all."""
    if start < 0 or max_results < 0:
        raise purerpc.InvalidArgumentError("neither start nor max_results can be negative")
    max_results = min(max_results or _MAX_RESULTS, _MAX_RESULTS)
    found = list(islice(items, max_results + 1))
    return found[:max_results], len(found) <= max_results


async def _build_messages(build: Callable[[T], M], items: Iterable[T]) -> list[M]:
    """What is told of each, without holding up others for long."""
    made = []
    for thing in items:
        made.append(build(thing))
        await trio.lowlevel.checkpoint()
    return made
