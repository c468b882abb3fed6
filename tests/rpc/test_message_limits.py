"""The message size limit in force: the application's, the service config's, or the default."""

from __future__ import annotations

import purerpc
import pytest

from meshtrio.grpc.service_config import MethodConfig
from meshtrio.http2.limits import UNLIMITED, Limits
from meshtrio.rpc.message_limits import (
    MessageLengths,
    default_message_limits,
    parse_message_length,
    with_message_lengths,
)
from meshtrio.util.errors import UsageError

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("application", "config", "receive", "setting"),
    [
        (20 * MIB, None, 20 * MIB, "max_receive_message_length"),
        (None, 20 * MIB, 20 * MIB, "maxResponseMessageBytes"),
        (20 * MIB, 10 * MIB, 10 * MIB, "maxResponseMessageBytes"),
        (10 * MIB, 20 * MIB, 10 * MIB, "max_receive_message_length"),
        (-1, 10 * MIB, 10 * MIB, "maxResponseMessageBytes"),
        (-1, None, UNLIMITED, "max_receive_message_length"),
        (0, None, 0, "max_receive_message_length"),
        (None, 0, 0, "maxResponseMessageBytes"),
    ],
)
def test_the_smaller_of_application_and_config_is_in_force(
    application: int | None, config: int | None, receive: int, setting: str
) -> None:
    lengths = MessageLengths.from_options(application, None, None)
    found = lengths.resolve_limits(MethodConfig(max_response_message_bytes=config))
    assert found is not None
    assert (found.max_receive_length, found.max_send_length) == (receive, UNLIMITED)
    assert found.receive_setting.startswith(setting)


def test_what_neither_sets_is_the_default() -> None:
    assert MessageLengths().resolve_limits(MethodConfig()) is None
    found = MessageLengths().resolve_limits(MethodConfig(max_request_message_bytes=10))
    assert found is not None
    assert (found.max_receive_length, found.max_send_length) == (4 * MIB, 10)


def test_the_limits_of_connections_are_an_applications_too() -> None:
    limits = Limits(max_message_size=100, max_send_message_size=200)
    found = MessageLengths.from_options(50, None, limits).resolve_limits(
        MethodConfig(max_request_message_bytes=1000)
    )
    assert found is not None
    assert (found.max_receive_length, found.max_send_length) == (50, 200)
    # Limits of something else leave the lengths to the service config.
    found = MessageLengths.from_options(None, None, Limits(reset_rate=1)).resolve_limits(
        MethodConfig(max_response_message_bytes=20 * MIB)
    )
    assert found is not None
    assert (found.max_receive_length, found.max_send_length) == (20 * MIB, UNLIMITED)


@pytest.mark.parametrize("wrong", [-2, 1.5, "4M", True])
def test_what_is_no_length_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match="max_receive_message_length is a number of bytes, or -1"):
        MessageLengths.from_options(wrong, None, None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_send_message_length"):
        with_message_lengths(None, None, wrong)  # type: ignore[arg-type]


def test_a_length_beyond_what_a_prefix_holds_is_no_limit() -> None:
    assert parse_message_length("x", 10**12) == UNLIMITED


def test_an_error_says_whose_limit_it_was_and_what_raises_it() -> None:
    ours = default_message_limits(Limits(), is_client=True).too_large_error(5 * MIB)
    assert ours.status.status_message == (
        "received a message of 5242880 bytes, which is over the client's limit of 4194304 bytes; "
        "raise it with max_receive_message_length of connect"
    )
    server = default_message_limits(Limits(max_send_message_size=10), is_client=False)
    with pytest.raises(purerpc.ResourceExhaustedError, match=r"\[\[plugin\]\] table") as caught:
        server.check_send(11)
    assert "a message of 11 bytes is over the server's limit of 10 bytes" in str(caught.value)
