"""What a plugin that calls others tells of its channels, subchannels and their sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2 as pb

from meshtrio.discovery.endpoint import canonical_target
from tests.support.channelz_client import (
    ChannelzTarget,
    assert_not_found,
    call_counts,
    message_counts,
    run_without_mesh,
    stream_counts,
)
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY, wait_until

State = pb.ChannelConnectivityState
READY, FAILING = State.READY, State.TRANSIENT_FAILURE


def test_a_channel_its_subchannel_and_its_socket(caller: ChannelzTarget, target: str) -> None:
    assert caller.call(f"open a {target}") == "ok"
    for text in ("x", "y", "z"):
        assert caller.call(f"call a {text}") == "ok"
    assert [caller.call("call a not-found"), caller.call("call a fail")] == ["NOT_FOUND", "UNKNOWN"]
    channel = caller.top_channels()[canonical_target(target)]
    assert channel.data.state.state == READY
    assert call_counts(channel.data) == (5, 3, 2)
    request = pb.GetChannelRequest(channel_id=channel.ref.channel_id)
    assert caller.channelz.GetChannel(request).channel == channel
    assert "added" in channel.data.trace.events[0].description
    assert channel.data.trace.events[0].subchannel_ref.subchannel_id

    subchannel, socket = caller.get_subchannel_and_socket(channel)
    assert (subchannel.data.target, subchannel.data.state.state) == (target, READY)
    assert call_counts(subchannel.data) == (5, 3, 2)
    last = channel.data.last_call_started_timestamp
    assert 0 < subchannel.data.last_call_started_timestamp.ToNanoseconds() <= last.ToNanoseconds()
    # A status is an end like any other; the calls that failed have brought no reply.
    assert (stream_counts(socket), message_counts(socket)) == ((5, 5, 0), (5, 3))
    assert socket.remote.uds_address.filename == target.removeprefix("unix:")
    assert socket.data.last_local_stream_created_timestamp.seconds
    assert socket.data.local_flow_control_window.value > 0


def test_calls_that_stream_or_are_cut(caller: ChannelzTarget, short_dir: Path) -> None:
    with run_without_mesh(ECHO_PLUGIN_DIRECTORY / "echo_plugin.py", short_dir / "e"):
        address = f"unix:{short_dir}/e"
        assert caller.call(f"open a {address}") == "ok"
        assert caller.call("repeat a 4") == "ok"
        assert caller.call("chat a x y z") == "ok"
        assert caller.call("cut a") == "ok"
        assert caller.call("call a x") == "ok"
        channel = caller.top_channels()[canonical_target(address)]
        subchannel, socket = caller.get_subchannel_and_socket(channel)
        assert call_counts(channel.data) == call_counts(subchannel.data) == (4, 3, 1)
        assert stream_counts(socket) == (4, 3, 1)
        assert message_counts(socket) == (1 + 3 + 1 + 1, 4 + 3 + 0 + 1)


def test_channels_to_one_address_share_a_subchannel(caller: ChannelzTarget, target: str) -> None:
    for name in ("a", "b"):
        assert caller.call(f"open {name} {target}") == "ok"
    assert caller.call("call a x") == "ok"
    found = caller.channelz.GetTopChannels(pb.GetTopChannelsRequest()).channel
    assert len({channel.ref.channel_id for channel in found}) == 2
    assert [call_counts(channel.data) for channel in found] == [(1, 1, 0), (0, 0, 0)]
    assert [channel.data.last_call_started_timestamp.seconds > 0 for channel in found] == [
        True,
        False,
    ]
    (shared,) = {ref.subchannel_id for channel in found for ref in channel.subchannel_ref}
    assert call_counts(caller.get_subchannel(pb.SubchannelRef(subchannel_id=shared)).data) == (
        1,
        1,
        0,
    )


def test_states_when_a_server_is_killed_and_comes_back(
    caller: ChannelzTarget, short_dir: Path
) -> None:
    path = short_dir / "t"
    target = f"unix:{path}"

    def state() -> Any:
        return caller.top_channels()[canonical_target(target)].data.state.state

    with run_without_mesh(ECHO_PLUGIN_DIRECTORY / "echo_plugin.py", path) as process:
        assert caller.call(f"open a {target}") == "ok"
        assert caller.call("call a x") == "ok"
        before, socket = caller.get_subchannel_and_socket(
            caller.top_channels()[canonical_target(target)]
        )
        process.kill()
    wait_until(lambda: state() == FAILING)
    (ref,) = caller.top_channels()[canonical_target(target)].subchannel_ref
    subchannel = caller.get_subchannel(ref)
    assert subchannel.ref == before.ref
    assert (subchannel.data.state.state, list(subchannel.socket_ref)) == (FAILING, [])
    assert call_counts(subchannel.data) == (1, 1, 0)
    told = [event.description for event in subchannel.data.trace.events]
    assert [told[0], told[1].partition(":")[0]] == ["connected", "disconnected"]
    worst = subchannel.data.trace.events[-1]
    assert (worst.severity, "connection failed" in worst.description) == (worst.CT_WARNING, True)
    with pytest.raises(grpc.RpcError) as caught:
        caller.get_socket(socket.ref)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    path.unlink()
    with run_without_mesh(ECHO_PLUGIN_DIRECTORY / "echo_plugin.py", path):
        wait_until(lambda: state() == READY)
        _, after = caller.get_subchannel_and_socket(caller.top_channels()[canonical_target(target)])
        assert after.ref.socket_id > socket.ref.socket_id


def test_numbers_are_not_used_again_and_nothing_is_kept(
    caller: ChannelzTarget, target: str
) -> None:
    channels, subchannels, sockets = [], [], []
    for _ in range(4):
        assert caller.call(f"open a {target}") == "ok"
        assert caller.call("call a x") == "ok"
        channel = caller.top_channels()[canonical_target(target)]
        subchannel, socket = caller.get_subchannel_and_socket(channel)
        channels.append(channel.ref.channel_id)
        subchannels.append(subchannel.ref.subchannel_id)
        sockets.append(socket.ref.socket_id)
        assert caller.call("close a") == "ok"
        wait_until(lambda: not caller.top_channels())
    assert len({*channels, *subchannels, *sockets}) == 12
    assert channels == sorted(channels)
    stub = caller.channelz
    for number in (*channels, *subchannels, *sockets):
        assert_not_found(stub, number)
