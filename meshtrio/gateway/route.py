"""Where a request is to go, and header blocks for the other side.

The engine returns the same object for a header block that it has decoded recently, so what is made
of parsed headers is kept with them (`derived`): the route of a request, and the rewritten blocks of
a response. The rewritten blocks of requests are kept by `Route`.
"""

from __future__ import annotations

from urllib.parse import quote

import attrs
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.channel_endpoint import DEFAULT_PICK_ARGS, PickArgs
from meshtrio.contract import FORWARDED_METADATA_KEY, TARGET_METADATA_KEY
from meshtrio.grpc import header_builder
from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders, Trailers
from meshtrio.grpc.metadata import encode_received_metadata
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.transport.peer import Peer

MAX_GATEWAYS = 8
"""Maximum number of gateways on the way of a call; more of them mean a loop."""
_MAX_CLIENTS = 64
"""Number of clients of one route whose encoded headers are kept."""
_UNQUOTED_CHARACTERS = " !#$&'()*+/:;<=>?@[]^_`{|}~-."
"""Characters that are not escaped in the description of a client: no comma, and only ASCII."""


@attrs.frozen(eq=False)
class Destination:
    """The channel that calls of a route go to, and what this was found out from."""

    channel: Channel
    """The open channel to the service."""
    # What the destination depends on, to be compared with the current values.
    registry_revision: int
    channel_changes: int
    index_changes: int
    configured_services: object


@attrs.frozen(eq=False)
class _EncodedHeaders:
    """Request headers for one channel's endpoints, and what they were encoded for."""

    client: Peer
    channel: Channel
    pseudo_headers: HeaderBlock
    block: HeaderBlock


@attrs.define(eq=False)
class Route:
    """The destination that request headers name; shared by calls with the same headers.

    Calls with a timeout share the route of their headers without it (`RequestHeaders.common`).
    """

    headers: RequestHeaders
    """The request headers."""
    grpc_service: str
    """The gRPC service in the path."""
    explicit_target: str | None
    """The service of the mesh named by the metadata; None if there is none."""
    forwarded_for: tuple[str, ...] = ()
    """The clients that earlier gateways have forwarded the call for."""
    has_loop: bool = False
    """Whether the call has passed through `MAX_GATEWAYS` gateways already."""
    owner: object = None
    """The router that the route is for."""
    destination: Destination | None = None
    """The last destination, which the router looks up again if it may have changed."""
    _encoded_headers: dict[int, _EncodedHeaders] = attrs.field(factory=dict)
    """By the identity of the client: clients may share a route."""

    @classmethod
    def from_headers(cls, headers: RequestHeaders, owner: object = None) -> Route:
        """Make the route for request headers, for a router."""
        pairs = headers.metadata
        target = next((str(value) for key, value in pairs if key == TARGET_METADATA_KEY), None)
        forwarded = tuple(str(value) for key, value in pairs if key == FORWARDED_METADATA_KEY)
        gateways = ", ".join(forwarded).count(",") + 1
        service = headers.path[1:].partition("/")[0]
        return cls(headers, service, target, forwarded, gateways >= MAX_GATEWAYS, owner)

    def make_pick_args(self, channel: Channel, request: RequestHeaders) -> PickArgs:
        """Return the requirements of the call, with the value of the channel's hash header."""
        key = channel.hash_header
        if key is None:
            return DEFAULT_PICK_ARGS
        values = [str(value) for name, value in request.metadata if name == key]
        return PickArgs(hash_key=",".join(values) if values else None)

    def encode_headers(
        self,
        channel: Channel,
        pseudo_headers: HeaderBlock,
        client: Peer,
        request: RequestHeaders,
        deadline: float,
    ) -> HeaderBlock:
        """Return the request headers for an endpoint of a channel.

        What calls have in common is encoded once for each client.

        Args:
            channel: The channel, whose name becomes the :authority.
            pseudo_headers: The fields with which the requests on the endpoint's connection begin.
            client: The client, which is named in the metadata.
            request: The headers of the call.
            deadline: The deadline of the call on trio's clock, which matters if it has a timeout.
        """
        found = self._encoded_headers.get(id(client))
        # The entry holds the client, so that no other object can have the same id.
        if (
            found is None
            or found.channel is not channel
            or found.pseudo_headers is not pseudo_headers
        ):
            if len(self._encoded_headers) >= _MAX_CLIENTS:
                self._encoded_headers.clear()
            block = pseudo_headers + self._encode_common_headers(channel, client)
            found = _EncodedHeaders(client, channel, pseudo_headers, block)
            self._encoded_headers[id(client)] = found
        if request.timeout is None:
            return found.block
        more = [header_builder.timeout_field(deadline - trio.current_time())]
        if request is not self.headers:
            own_metadata = request.metadata[len(self.headers.metadata) :]
            more = [*encode_received_metadata(own_metadata), *more] if own_metadata else more
        return found.block + HeaderBlock.encode(more)

    def _encode_common_headers(self, channel: Channel, client: Peer) -> HeaderBlock:
        headers = self.headers
        client_name = quote(str(client), safe=_UNQUOTED_CHARACTERS)
        forwarded = ", ".join((*self.forwarded_for, client_name)).encode()
        others = tuple(pair for pair in headers.metadata if pair[0] != FORWARDED_METADATA_KEY)
        return header_builder.build_request_headers(
            headers.path.encode("latin-1"),
            channel.authority.encode(),
            content_type=headers.content_type.encode("latin-1"),
            encoding=headers.encoding,
            accept_encoding=headers.accept_encoding,
            user_agent=headers.user_agent.encode("latin-1"),
            metadata=[
                (FORWARDED_METADATA_KEY.encode(), forwarded),
                *encode_received_metadata(others),
            ],
        )


def rewrite_response_headers(headers: ResponseHeaders) -> HeaderBlock:
    """Return the response headers for the client."""
    if not isinstance(headers.derived, HeaderBlock):
        headers.derived = _build_response_headers(headers)
    return headers.derived


def _build_response_headers(headers: ResponseHeaders) -> HeaderBlock:
    # A Trailers-Only response has its metadata in the trailers.
    metadata = headers.metadata if headers.trailers is None else ()
    return header_builder.build_response_headers(
        content_type=headers.content_type.encode("latin-1"),
        encoding=headers.encoding,
        metadata=encode_received_metadata(metadata),
    )


def rewrite_trailers(trailers: Trailers) -> HeaderBlock:
    """Return the trailers for the client, with the status message as the plugin encoded it."""
    if not isinstance(trailers.derived, HeaderBlock):
        trailers.derived = _build_trailers(trailers)
    return trailers.derived


def _build_trailers(trailers: Trailers) -> HeaderBlock:
    return header_builder.build_trailers(
        trailers.code,
        details=trailers.details,
        metadata=encode_received_metadata(trailers.metadata),
        encoded_message=trailers.encoded_message,
    )


def fit_trailers(trailers: Trailers, max_size: int) -> HeaderBlock:
    """Build the trailers for the client, with the status message truncated to fit `max_size`."""
    block = rewrite_trailers(trailers)
    if block.list_size <= max_size:
        return block
    metadata = encode_received_metadata(trailers.metadata)
    code, message, details = trailers.code, trailers.message, trailers.details
    return header_builder.build_trailers(code, message, details, metadata, max_size=max_size)
