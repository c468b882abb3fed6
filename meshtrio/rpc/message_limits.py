"""Limits on the size of messages, and the settings that they come from.

Channels of a process share connections, so the limits of a channel or method belong to its calls:
each stream has the `MessageLimits` that apply to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import purerpc

from meshtrio.http2.limits import DEFAULT_MAX_MESSAGE_SIZE, UNLIMITED, Limits
from meshtrio.util.errors import UsageError
from meshtrio.util.record import Record

if TYPE_CHECKING:  # Servers, and so plugins, start without the parser of service configs.
    from meshtrio.grpc.service_config import MethodConfig

_RECEIVE_OPTION, _SEND_OPTION = "max_receive_message_length", "max_send_message_length"
_CLIENT_OPTION_PLACE = "of connect"
_CLIENT_SEND_SETTING = f"{_SEND_OPTION} {_CLIENT_OPTION_PLACE}"
_SERVER_OPTION_PLACE = "of its [[plugin]] table or of plugin.run"
_REQUEST_SETTING = "maxRequestMessageBytes in the service config"
_RESPONSE_SETTING = "maxResponseMessageBytes in the service config"


class MessageLimits(Record):
    """Limits of the messages of one call on this side, in bytes before compression."""

    __slots__ = ("max_receive_length", "max_send_length", "receive_setting", "send_setting", "side")

    def __init__(
        self,
        max_receive_length: int,
        max_send_length: int,
        receive_setting: str,
        send_setting: str,
        side: str = "client",
    ) -> None:
        self.max_receive_length = max_receive_length
        """Maximum size of a received message."""
        self.max_send_length = max_send_length
        """Maximum size of a sent message."""
        self.receive_setting = receive_setting
        """Setting that raises the limit of received messages, for the status message."""
        self.send_setting = send_setting
        """Setting that raises the limit of sent messages, for the status message."""
        self.side = side
        """Side that the limits belong to, for the status message: "client" or "server"."""

    def too_large_error(self, size: int, *, at_least: bool = False) -> purerpc.RpcFailedError:
        """Return the error for a received message over the limit.

        `at_least` is whether decompression stopped at `size`, so that the message is longer.
        """
        what = f"more than {size - 1}" if at_least else str(size)
        return purerpc.ResourceExhaustedError(
            f"received a message of {what} bytes, which is over the {self.side}'s limit of "
            f"{self.max_receive_length} bytes; raise it with {self.receive_setting}"
        )

    def check_send(self, size: int) -> None:
        """Raise ResourceExhaustedError if a message of `size` bytes may not be sent."""
        if size > self.max_send_length:
            raise purerpc.ResourceExhaustedError(
                f"a message of {size} bytes is over the {self.side}'s limit of "
                f"{self.max_send_length} bytes to send; raise it with {self.send_setting}"
            )


def default_message_limits(limits: Limits, *, is_client: bool) -> MessageLimits:
    """Return the limits of calls without limits of their own."""
    place = _CLIENT_OPTION_PLACE if is_client else _SERVER_OPTION_PLACE
    return MessageLimits(
        limits.max_message_size,
        limits.max_send_message_size,
        f"{_RECEIVE_OPTION} {place}",
        f"{_SEND_OPTION} {place}",
        "client" if is_client else "server",
    )


class MessageLengths(Record):
    """Limits that an application has set for a channel, in bytes.

    None leaves a limit to the service config.
    """

    __slots__ = ("max_receive_length", "max_send_length", "receive_setting")

    def __init__(
        self,
        max_receive_length: int | None = None,
        max_send_length: int | None = None,
        receive_setting: str = f"{_RECEIVE_OPTION} {_CLIENT_OPTION_PLACE}",
    ) -> None:
        self.max_receive_length = max_receive_length
        """Maximum size of a received message, after decompression."""
        self.max_send_length = max_send_length
        """Maximum size of a sent message, before compression."""
        self.receive_setting = receive_setting
        """Setting that raises the limit of received messages, for the status message."""

    @classmethod
    def from_options(
        cls, max_receive_length: int | None, max_send_length: int | None, limits: Limits | None
    ) -> MessageLengths:
        """Read the options of a channel: bytes, -1 for no limit, None if unset. Raises UsageError.

        Limits of the channel's connections that differ from the defaults replace unset options.
        """
        receive = parse_message_length(_RECEIVE_OPTION, max_receive_length)
        send = parse_message_length(_SEND_OPTION, max_send_length)
        if limits is not None:
            if receive is None and limits.max_message_size != DEFAULT_MAX_MESSAGE_SIZE:
                receive = limits.max_message_size
            if send is None and limits.max_send_message_size != UNLIMITED:
                send = limits.max_send_message_size
        return cls(receive, send)

    def resolve_limits(self, method_config: MethodConfig) -> MessageLimits | None:
        """Return the limits of a method's calls; None if those of the connection apply.

        In each direction the lower limit of application and service config applies, or the default
        if neither sets one.

        Source: grpc/service_config/service_config.proto on max_request_message_bytes.
        """
        max_response = method_config.max_response_message_bytes
        max_request = method_config.max_request_message_bytes
        if self.max_receive_length is max_response is self.max_send_length is max_request is None:
            return None
        receive = _lower_limit(
            (self.max_receive_length, self.receive_setting), (max_response, _RESPONSE_SETTING)
        )
        send = _lower_limit(
            (self.max_send_length, _CLIENT_SEND_SETTING), (max_request, _REQUEST_SETTING)
        )
        max_receive, receive_setting = receive or (DEFAULT_MAX_MESSAGE_SIZE, self.receive_setting)
        max_send, send_setting = send or (UNLIMITED, _CLIENT_SEND_SETTING)
        return MessageLimits(max_receive, max_send, receive_setting, send_setting)


def _lower_limit(*limits: tuple[int | None, str]) -> tuple[int, str] | None:
    return min(((size, name) for size, name in limits if size is not None), default=None)


def parse_message_length(name: str, value: int | None) -> int | None:
    """Parse an option that is a length in bytes, -1 for no limit, None if unset.

    Raises UsageError.
    """
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < -1:
        raise UsageError(f"{name} is a number of bytes, or -1 for no limit, not {value!r}")
    return UNLIMITED if value == -1 else min(value, UNLIMITED)


def with_message_lengths(
    limits: Limits | None, max_receive_length: int | None, max_send_length: int | None
) -> Limits | None:
    """Return a server's limits with the lengths that are set.

    Lengths are in bytes, -1 for no limit, None if unset. Raises UsageError.
    """
    receive = parse_message_length(_RECEIVE_OPTION, max_receive_length)
    send = parse_message_length(_SEND_OPTION, max_send_length)
    lengths = {"max_message_size": receive, "max_send_message_size": send}
    changes = {name: length for name, length in lengths.items() if length is not None}
    return (limits or Limits()).replace(**changes) if changes else limits
