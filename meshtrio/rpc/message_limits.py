"""How long a gRPC message may be: the limits of one call, and the settings that they come from.

Connections are shared by all channels of a process, so that a limit of a channel or of a method is
one of its calls: each stream refers to the `MessageLimits` in force for it.
"""

from __future__ import annotations

import attrs
import purerpc

from meshtrio.errors import UsageError
from meshtrio.policies.service_config import MethodConfig
from meshtrio.wire.frames import UNLIMITED
from meshtrio.wire.grpc import DEFAULT_MAX_MESSAGE_SIZE
from meshtrio.wire.limits import Limits

_RECEIVE, _SEND = "max_receive_message_length", "max_send_message_length"
_OF_CONNECT, _OF_SERVER = "of connect", "of its [[plugin]] table or of plugin.run"
_IN_CONFIG = "in the service config"


@attrs.frozen
class MessageLimits:
    """The limits of one call on this side, in bytes of a message before compression."""

    receive: int
    send: int
    receive_setting: str
    """What raises the first limit, for the error message."""
    send_setting: str
    side: str = "client"
    """Whose limits they are: "client" or "server"."""

    def received(self, size: int, *, at_least: bool = False) -> purerpc.RpcFailedError:
        """Make the error for a received message over the limit.

        Args:
            size: Bytes of the message.
            at_least: The message was decompressed no further than that.
        """
        what = f"more than {size - 1}" if at_least else str(size)
        return purerpc.ResourceExhaustedError(
            f"received a message of {what} bytes, which is over the {self.side}'s limit of "
            f"{self.receive} bytes; raise it with {self.receive_setting}"
        )

    def check_send(self, size: int) -> None:
        """Raise ResourceExhaustedError if a message of `size` bytes may not be sent."""
        if size > self.send:
            raise purerpc.ResourceExhaustedError(
                f"a message of {size} bytes is over the {self.side}'s limit of {self.send} bytes "
                f"to send; raise it with {self.send_setting}"
            )


def connection_limits(limits: Limits, *, is_client: bool) -> MessageLimits:
    """Give the limits of calls that have none of their own."""
    where = _OF_CONNECT if is_client else _OF_SERVER
    return MessageLimits(
        limits.max_message_size,
        limits.max_send_message_size,
        f"{_RECEIVE} {where}",
        f"{_SEND} {where}",
        "client" if is_client else "server",
    )


@attrs.frozen
class MessageLengths:
    """What an application asks for, in bytes; None leaves it to the service config."""

    receive: int | None = None
    send: int | None = None
    receive_setting: str = f"{_RECEIVE} {_OF_CONNECT}"
    send_setting: str = f"{_SEND} {_OF_CONNECT}"

    @classmethod
    def of(cls, receive: int | None, send: int | None, limits: Limits | None) -> MessageLengths:
        """Read the options of a channel. Raises UsageError for a value that is no length.

        Args:
            receive: Bytes, -1 for no limit, None if unset.
            send: The same, for messages to send.
            limits: Those of the channel's connections: if they differ from the defaults, they are
                the application's where the options are unset.
        """
        receive, send = checked_length(_RECEIVE, receive), checked_length(_SEND, send)
        if limits is not None:
            if receive is None and limits.max_message_size != DEFAULT_MAX_MESSAGE_SIZE:
                receive = limits.max_message_size
            if send is None and limits.max_send_message_size != UNLIMITED:
                send = limits.max_send_message_size
        return cls(receive, send)

    def with_config(self, config: MethodConfig) -> MessageLimits | None:
        """Give the limits of a method's calls; None if those of the connection hold.

        In each direction that is the smaller of the application's and the service config's, the
        one that is set if only one is, and the default if neither is.

        Source: grpc/service_config/service_config.proto on max_request_message_bytes.
        """
        asked = (self.receive, self.send, config.max_response, config.max_request)
        if asked == (None, None, None, None):
            return None
        receive, receive_setting = _smaller(
            (self.receive, self.receive_setting),
            (config.max_response, f"maxResponseMessageBytes {_IN_CONFIG}"),
            DEFAULT_MAX_MESSAGE_SIZE,
        )
        send, send_setting = _smaller(
            (self.send, self.send_setting),
            (config.max_request, f"maxRequestMessageBytes {_IN_CONFIG}"),
            UNLIMITED,
        )
        return MessageLimits(receive, send, receive_setting, send_setting)


def _smaller(
    application: tuple[int | None, str], config: tuple[int | None, str], default: int
) -> tuple[int, str]:
    given = [(size, setting) for size, setting in (application, config) if size is not None]
    return min(given) if given else (default, application[1])


def checked_length(name: str, value: int | None) -> int | None:
    """Read an option that is a message's length in bytes, -1 for no limit, None if unset.

    Raises UsageError, naming the option.
    """
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < -1:
        raise UsageError(f"{name} is a number of bytes, or -1 for no limit, not {value!r}")
    return UNLIMITED if value == -1 else min(value, UNLIMITED)


def with_lengths(limits: Limits | None, receive: int | None, send: int | None) -> Limits | None:
    """Give a server's limits with these lengths, as `checked_length` reads them, where set."""
    receive, send = checked_length(_RECEIVE, receive), checked_length(_SEND, send)
    changes = {
        key: value
        for key, value in (("max_message_size", receive), ("max_send_message_size", send))
        if value is not None
    }
    return attrs.evolve(limits or Limits(), **changes) if changes else limits
