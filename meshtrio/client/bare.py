"""What a stub of purerpc needs of a channel when it was made without `channel.stub`."""

from __future__ import annotations

from typing import Any

import purerpc

from meshtrio.client.picker import CallOptions, Picker
from meshtrio.client.streaming import Call
from meshtrio.rpc.seam import Method
from meshtrio.wire.compression import IDENTITY


class BareStubSupport:
    """Stands where purerpc's own client keeps its socket, for stubs made without `stub()`."""

    def __init__(self, channel: Picker) -> None:
        self._channel = channel

    async def start_request(
        self,
        scheme: str,
        service_name: str,
        method_name: str,
        message_type: str | None = None,
        authority: str | None = None,
        custom_metadata: Any = (),
    ) -> _BareStream:
        method = Method(service_name, method_name, None, None, True, True)
        return _BareStream(self._channel, method, tuple(custom_metadata or ()))


class _BareStream:
    """The part of purerpc's stream that its own wrapper of a unary call uses."""

    end_stream_event = None

    def __init__(self, channel: Picker, method: Method, metadata: Any) -> None:
        self._channel = channel
        self._method = method
        self._metadata = metadata
        self._call: Call | None = None

    def expect_message_type(self, message_type: Any) -> None:
        method = self._method
        typed = Method(method.service, method.name, None, message_type, True, True)
        self._call = Call(self._channel, typed, CallOptions.of(self._metadata, IDENTITY))

    def _started(self) -> Call:
        if self._call is None:
            raise purerpc.ProtocolError("expect_message_type comes first")
        return self._call

    async def send_message(self, message: Any) -> None:
        await self._started().send_message(message)

    async def close(self) -> None:
        await self._started().close()

    async def receive_message(self) -> Any:
        return await self._started().receive_message()
