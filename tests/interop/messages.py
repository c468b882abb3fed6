"""The service that the peers of `tests.interop.foreign_peers` serve; its messages are bytes."""

from __future__ import annotations

from typing import Any

import attrs
import purerpc

SERVICE = "peer.v1.Peer"


@attrs.frozen
class RawMessage:
    """A message that is not decoded, with what meshtrio uses of protobuf's messages."""

    data: bytes = b""

    def SerializeToString(self) -> bytes:
        return self.data

    def ByteSize(self) -> int:
        return len(self.data)

    @staticmethod
    def FromString(data: bytes) -> RawMessage:
        return RawMessage(bytes(data))


def _signature(cardinality: purerpc.Cardinality) -> purerpc.RPCSignature:
    return purerpc.RPCSignature(cardinality, RawMessage, RawMessage)


METHODS = {
    "Unary": _signature(purerpc.Cardinality.UNARY_UNARY),
    "ServerStream": _signature(purerpc.Cardinality.UNARY_STREAM),
    "ClientStream": _signature(purerpc.Cardinality.STREAM_UNARY),
    "Bidi": _signature(purerpc.Cardinality.STREAM_STREAM),
}
"""What each method gives back: its message; each byte of it as a message; all messages joined;
each message."""


class PeerStub:
    """A stub of the service, as protoc-gen-purerpc would make it."""

    def __init__(self, channel: Any) -> None:
        self._client = purerpc.Client(SERVICE, channel)
        for name, signature in METHODS.items():
            setattr(self, name, self._client.get_method_stub(name, signature))
