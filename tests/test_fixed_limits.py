"""Limits without a setting, of docs/reference/limits.md, that no test of a feature reaches."""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path
from random import Random
from typing import Any

import purerpc
import pytest
import trio
import trio.testing
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshtrio.client.channel import open_channel
from meshtrio.client.descriptor_pool_builder import DescriptorPoolBuilder
from meshtrio.config import MeshConfig, MeshLimits, PluginConfig, async_loading
from meshtrio.discovery.endpoint import LOCAL_RECONNECT_BACKOFF, RECONNECT_BACKOFF, Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.gateway.downstream_stream import DownstreamStream
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frames import FrameType
from meshtrio.http2.limits import Limits
from meshtrio.rpc import connection_limiter, connection_output
from meshtrio.rpc.connection_limiter import ConnectionLimiter, ConnectionRejectedError
from meshtrio.services.channelz import _make_page
from meshtrio.services.registry import Registrations
from meshtrio.supervisor.process.proc.listening_sockets import AcceptQueue, read_accept_queue
from meshtrio.telemetry.metric_families import MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics import exposition_server
from meshtrio.telemetry.metrics.family_merger import DropReason, FamilyMerger
from meshtrio.transport.listener import unix_listener
from meshtrio.transport.peer import Peer
from meshtrio.util.concurrency import background_service
from meshtrio.util.errors import ConfigError
from meshtrio.util.protobuf_wire import MalformedProtobufError
from meshtrio.util.worker_threads import GilYielder
from tests.support.connection_pairs import CallbackServicer, connect_raw_peer, static_resolver
from tests.support.ports import find_free_port
from tests.support.raw_calls import request_headers_frame
from tests.support.tls import serve_on_tcp, server_context

OWN = Peer(pid=os.getpid(), uid=os.geteuid())

# -- connections -------------------------------------------------------------------------------


async def test_other_users_have_half_of_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    users = iter(range(100_000, 100_010))
    monkeypatch.setattr(connection_limiter, "peer_of", lambda _: Peer(pid=1, uid=next(users)))
    limiter = ConnectionLimiter(Limits(max_connections=4))
    with socket.socket(socket.AF_UNIX) as sock:
        limiter.admit(sock)
        limiter.admit(sock)
        reason = r"accepts 2 of other users \(half of max_connections\)"
        with pytest.raises(ConnectionRejectedError, match=reason):
            limiter.admit(sock)


def test_a_listener_has_a_backlog(short_dir: Path) -> None:
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with unix_listener(short_dir / "s"):
        assert read_accept_queue(f"unix:{short_dir / 's'}") == AcceptQueue(0, min(1024, most))


async def test_a_tls_handshake_has_a_timeout(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "meshtrio.rpc")
    monkeypatch.setattr(connection_output, "_TLS_HANDSHAKE_TIMEOUT", 0.05)
    async with serve_on_tcp(server_context()) as address:
        _, host, port = address.split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            with trio.fail_after(60):
                assert await stream.receive_some() == b""
    assert "the TLS handshake took over 0.05 s" in caplog.text


async def test_active_calls_of_a_peer_are_limited_by_its_memory() -> None:
    async def hang(_: object) -> Any:
        await trio.sleep_forever()

    limits = Limits(peer_memory=3 * 2 * 16 * 1024)
    async with connect_raw_peer(CallbackServicer(Echo=hang), limits=limits) as peer:
        await peer.send(b"".join(request_headers_frame(n) for n in (1, 3, 5, 7)))
        resets = [frame for frame in peer.read_frames() if frame[0] == FrameType.RST_STREAM]
    refused = int(ErrorCode.REFUSED_STREAM).to_bytes(4, "big")
    assert [(stream_id, code) for _, _, stream_id, code in resets] == [(7, refused)]


async def test_an_attempt_to_connect_has_a_timeout(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def dial(*_: object, **__: object) -> Any:
        await trio.sleep_forever()

    caplog.set_level(logging.INFO, "meshtrio.rpc")
    async with open_channel("x", static_resolver(Endpoint("a", "unix:/nowhere")), dialer=dial):
        await trio.sleep(9.9)
        assert "no answer" not in caplog.text
        await trio.sleep(0.2)
        assert "connection failed: no answer within 10 s" in caplog.text


def test_delays_between_attempts_to_connect() -> None:
    rng = Random(1)
    assert 0.4 <= LOCAL_RECONNECT_BACKOFF.delay(100, rng) <= 0.6
    assert 4 <= RECONNECT_BACKOFF.delay(100, rng) <= 6


def test_the_gateway_buffers_a_bounded_part_of_a_request() -> None:
    stream = DownstreamStream.__new__(DownstreamStream)
    stream.replay_buffer, stream.replay_size = [], 0
    assert [stream.buffer_for_replay(bytes(64 * 1024)) for _ in range(5)] == [False] * 4 + [True]


# -- services ----------------------------------------------------------------------------------


def make_registrations() -> Registrations:
    config = MeshConfig(limits=MeshLimits(max_registrations_per_user=2))
    return Registrations(Registry(), lambda: config)


async def test_registrations_are_limited_in_size() -> None:
    registrations, endpoint = make_registrations(), Endpoint("x" * 300, "unix:/a")
    reason = "has registrations of 512 bytes, the maximum of .*max_registrations_per_user"
    with pytest.raises(purerpc.ResourceExhaustedError, match=reason):
        with registrations.hold("s" * 256, endpoint, OWN):
            pass


async def test_registrations_are_limited_in_rate(autojump_clock: trio.testing.MockClock) -> None:
    registrations, endpoint = make_registrations(), Endpoint("a", "unix:/a")
    for _ in range(4):
        with registrations.hold("s", endpoint, OWN):
            pass
    reason = "registers more than 10 endpoints a second"
    with pytest.raises(purerpc.ResourceExhaustedError, match=reason):
        with registrations.hold("s", endpoint, OWN):
            pass
    await trio.sleep(0.11)
    with registrations.hold("s", endpoint, OWN):
        pass


async def test_a_page_of_channelz_has_100_results() -> None:
    for max_results in (0, 1000):
        found, is_last = await _make_page(str, range(150), 0, max_results)
        assert (len(found), is_last) == (100, False)


def test_imports_of_described_files_are_limited() -> None:
    imports = [f"d{number}" for number in range(2000)]
    files = [
        FileDescriptorProto(name=f"f{number}", dependency=imports).SerializeToString()
        for number in range(11)
    ]
    with pytest.raises(MalformedProtobufError, match="files have more than 20,000 imports"):
        DescriptorPoolBuilder().add(files, GilYielder())


# -- metrics -----------------------------------------------------------------------------------


def test_a_scrape_is_limited_in_size() -> None:
    text = "x" * 4000
    points = [MetricPoint((("a", text), ("n", str(number))), 1.0) for number in range(2200)]
    family = MetricFamily("large", MetricKind.GAUGE, "", "", points)
    merger = FamilyMerger()
    lost = [
        merger.merge([family], (("plugin", str(number)),))[DropReason.SIZE] for number in range(5)
    ]
    # Four plugins have a little less than 8 MiB each, and the fifth what is left of 32 MiB.
    assert all(0 < each < 300 for each in lost[:4])
    assert lost[4] > 2190


async def test_connections_for_scrapes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition_server, "_IDLE_TIMEOUT", 50.0)

    async def collect(_: float | None) -> list[MetricFamily]:
        return []

    port = find_free_port()
    address = f"tcp:127.0.0.1:{port}"
    with trio.fail_after(60):
        async with background_service(exposition_server.serve_metrics, collect, address):
            streams = []
            for _ in range(17):
                streams.append(await trio.open_tcp_stream("127.0.0.1", port))
                await trio.testing.wait_all_tasks_blocked(0.01)
            # The one that has been idle for longest makes room.
            assert await streams[0].receive_some() == b""
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            for stream in streams:
                await stream.aclose()


# -- configs -----------------------------------------------------------------------------------


async def test_reading_a_config_has_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(async_loading, "load", lambda *_, **__: answers.wait())
    monkeypatch.setattr(async_loading, "_LOAD_TIMEOUT", 0.05)
    try:
        reason = r"was not read within 0\.05 s; does its file system answer\?"
        with pytest.raises(ConfigError, match=reason):
            await async_loading.load_in_thread("mesh.toml")
    finally:
        answers.set()


def test_names_of_plugins_have_64_characters() -> None:
    assert PluginConfig("x" * 64, ["true"]).name == "x" * 64
    with pytest.raises(ValueError, match="up to 64 letters"):
        PluginConfig("x" * 65, ["true"])
