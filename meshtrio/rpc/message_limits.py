"""How long a gRPC message may be: the limits of one call, and the settings that they come from.

Connections are shared by all channels of a process, so that a limit of a channel or of a method is
one of its calls: each stream refers to the `MessageLimits` in force for it.
"""

from __future__ import annotations

import attrs
import purerpc

from meshtrio.errors import UsageError
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.http2.limits import DEFAULT_MAX_MESSAGE_SIZE, UNLIMITED, Limits

_RECEIVE_OPTION, _SEND_OPTION = "max_receive_message_length", "max_send_message_length"
_CLIENT_OPTION_PLACE, _SERVER_OPTION_PLACE = (
    "of connect",
    "of its [[plugin]] table or of plugin.run",
)
_SERVICE_CONFIG_PLACE = "in the service config"


@attrs.frozen
class MessageLimits:
    """The limits of one call on this side, in bytes of a message before compression."""

    max_receive_length: int
    max_send_length: int
    receive_setting: str
    """What raises the first limit, for the error message."""
    send_setting: str
    side: str = "client"
    """Whose limits they are: "client" or "server"."""

    def too_large_error(self, size: int, *, at_least: bool = False) -> purerpc.RpcFailedError:
        """Make the error for a received message over the limit.

        Args:
            size: Bytes of the message.
            at_least: The message was decompressed no further than that.
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
                f"{self.max_send_length} bytes "
                f"to send; raise it with {self.send_setting}"
            )


def default_message_limits(limits: Limits, *, is_client: bool) -> MessageLimits:
    """Give the limits of calls that have none of their own."""
    where = _CLIENT_OPTION_PLACE if is_client else _SERVER_OPTION_PLACE
    return MessageLimits(
        limits.max_message_size,
        limits.max_send_message_size,
        f"{_RECEIVE_OPTION} {where}",
        f"{_SEND_OPTION} {where}",
        "client" if is_client else "server",
    )


@attrs.frozen
class MessageLengths:
    """What an application asks for, in bytes; None leaves it to the service config."""

    max_receive_length: int | None = None
    max_send_length: int | None = None
    receive_setting: str = f"{_RECEIVE_OPTION} {_CLIENT_OPTION_PLACE}"
    send_setting: str = f"{_SEND_OPTION} {_CLIENT_OPTION_PLACE}"

    @classmethod
    def from_options(
        cls, max_receive_length: int | None, max_send_length: int | None, limits: Limits | None
    ) -> MessageLengths:
        """Read the options of a channel. Raises UsageError for a value that is no length.

        Args:
            receive: Bytes, -1 for no limit, None if unset.
            send: The same, for messages to send.
            limits: Those of the channel's connections: if they differ from the defaults, they are
                the application's where the options are unset.
        """
        max_receive_length, max_send_length = (
            parse_message_length(_RECEIVE_OPTION, max_receive_length),
            parse_message_length(_SEND_OPTION, max_send_length),
        )
        if limits is not None:
            if max_receive_length is None and limits.max_message_size != DEFAULT_MAX_MESSAGE_SIZE:
                max_receive_length = limits.max_message_size
            if max_send_length is None and limits.max_send_message_size != UNLIMITED:
                max_send_length = limits.max_send_message_size
        return cls(max_receive_length, max_send_length)

    def resolve_limits(self, method_config: MethodConfig) -> MessageLimits | None:
        """Give the limits of a method's calls; None if those of the connection hold.

        In each direction that is the smaller of the application's and the service config's, the
        one that is set if only one is, and the default if neither is.

        Source: grpc/service_config/service_config.proto on max_request_message_bytes.
        """
        asked = (
            self.max_receive_length,
            self.max_send_length,
            method_config.max_response_message_bytes,
            method_config.max_request_message_bytes,
        )
        if asked == (None, None, None, None):
            return None
        receive, receive_setting = _lower_limit(
            (self.max_receive_length, self.receive_setting),
            (
                method_config.max_response_message_bytes,
                f"maxResponseMessageBytes {_SERVICE_CONFIG_PLACE}",
            ),
            DEFAULT_MAX_MESSAGE_SIZE,
        )
        send, send_setting = _lower_limit(
            (self.max_send_length, self.send_setting),
            (
                method_config.max_request_message_bytes,
                f"maxRequestMessageBytes {_SERVICE_CONFIG_PLACE}",
            ),
            UNLIMITED,
        )
        return MessageLimits(receive, send, receive_setting, send_setting)


def _lower_limit(
    application: tuple[int | None, str], config: tuple[int | None, str], default: int
) -> tuple[int, str]:
    given = [(size, setting) for size, setting in (application, config) if size is not None]
    return min(given) if given else (default, application[1])


def parse_message_length(name: str, value: int | None) -> int | None:
    """Read an option that is a message's length in bytes, -1 for no limit, None if unset.

    Raises UsageError, naming the option.
    """
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < -1:
        raise UsageError(f"{name} is a number of bytes, or -1 for no limit, not {value!r}")
    return UNLIMITED if value == -1 else min(value, UNLIMITED)


def with_message_lengths(
    limits: Limits | None, max_receive_length: int | None, max_send_length: int | None
) -> Limits | None:
    """Give a server's limits with these lengths, as `parse_message_length` reads them, where
    set."""
    max_receive_length, max_send_length = (
        parse_message_length(_RECEIVE_OPTION, max_receive_length),
        parse_message_length(_SEND_OPTION, max_send_length),
    )
    changes = {
        key: value
        for key, value in (
            ("max_message_size", max_receive_length),
            ("max_send_message_size", max_send_length),
        )
        if value is not None
    }
    return attrs.evolve(limits or Limits(), **changes) if changes else limits
