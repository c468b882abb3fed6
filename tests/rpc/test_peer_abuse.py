"""Abuse is counted per peer, so that a new connection does not reset it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshtrio.http2 import frames
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import FrameType
from meshtrio.http2.limits import Limits
from meshtrio.rpc.peer_accounts import BudgetSetting, BudgetSettings, PeerAccount, PeerAccounts
from meshtrio.rpc.server import Server
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.transport.peer import Peer
from meshtrio.util.token_bucket import TokenBucket
from tests import ROOT
from tests.support.connection_pairs import CallbackServicer
from tests.support.raw_calls import (
    attack_and_read_goaway,
    request_headers_frame,
    reset_requests,
)
from tests.support.servers import serve_on_socket

NOBODY = 65534
LIMITS = Limits(reset_burst=50, reset_rate=0, control_burst=20, control_rate=0)


async def hang(message: object) -> object:
    await trio.sleep_forever()
    return message


@asynccontextmanager
async def serve_with_abuse_limits(folder: Path) -> AsyncIterator[tuple[Server, Path]]:
    folder.chmod(0o755)
    path = folder / "s"
    async with serve_on_socket(path, Server(CallbackServicer(Echo=hang), limits=LIMITS)) as server:
        path.chmod(0o777)
        yield server, path


async def test_resets_on_new_connections_count_together(short_dir: Path) -> None:
    async with serve_with_abuse_limits(short_dir) as (_, path):
        assert await attack_and_read_goaway(path, reset_requests(30)) == ""
        assert (
            await attack_and_read_goaway(path, reset_requests(30))
            == "too many streams opened and reset"
        )


async def test_after_abuse_new_connections_are_refused_for_a_while(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_with_abuse_limits(short_dir) as (server, path):
        account = server.peer_accounts.for_peer(Peer(uid=os.getuid(), pid=os.getpid()))
        assert await attack_and_read_goaway(path, reset_requests(60))
        assert 0 < account.refusal_remaining <= 1
        account.initial_refusal, account.max_refusal = 5000.0, 10_000.0
        account.record_abuse()
        refused = await attack_and_read_goaway(path, b"")
        assert refused.startswith(f"new connections of process {os.getpid()} are refused for ")
        assert "ENHANCE_YOUR_CALM" in refused
        # What it does on its other connections is its own affair: they go on.
        monkeypatch.setattr(account, "_refused_until", 0.0)
        assert await attack_and_read_goaway(path, b"") == ""


async def test_each_abuse_doubles_the_refusal_until_a_peer_behaves(
    autojump_clock: MockClock,
) -> None:
    account = PeerAccount("process 1", LIMITS, BudgetSettings())
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        account.record_abuse()
        assert account.refusal_remaining == seconds
        await trio.sleep(seconds)
        assert account.refusal_remaining == 0
    await trio.sleep(1)
    account.record_abuse()
    assert account.refusal_remaining == 1


async def test_calls_that_are_left_behind_count_as_reset(short_dir: Path) -> None:
    """A client that closes its connection instead of resetting its calls."""
    async with serve_with_abuse_limits(short_dir) as (server, path):
        account = server.peer_accounts.for_peer(Peer(uid=os.getuid(), pid=os.getpid()))
        calls = b"".join(request_headers_frame(n) for n in range(1, 121, 2))
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(frames.PREFACE + frames.settings({}) + calls)
            (connection,) = server.connections or {await _connection(server)}
            while len(connection.streams) < 60:
                await trio.lowlevel.checkpoint()
            for each in connection._engine.streams.by_id.values():
                each.opened_at = trio.current_time() + 1  # however slow the machine is
        while server.connections:
            await trio.lowlevel.checkpoint()
        assert account.refusal_remaining


async def _connection(server: Server) -> ServerConnection:
    while not server.connections:
        await trio.lowlevel.checkpoint()
    (connection,) = server.connections
    return connection


async def test_connections_that_are_open_go_on(short_dir: Path) -> None:
    async with (
        serve_with_abuse_limits(short_dir) as (_, path),
        await trio.open_unix_socket(path) as honest,
    ):
        reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
        await honest.send_all(frames.PREFACE + frames.settings({}))
        assert await attack_and_read_goaway(path, reset_requests(60))
        await honest.send_all(frames.ping(b"8 bytes!", ack=False))
        with trio.fail_after(60):
            while True:
                found = list(reader.feed(await honest.receive_some(65536)))
                assert all(frame[0] != FrameType.GOAWAY for frame in found)
                if any(frame[0] == FrameType.PING for frame in found):
                    return


async def test_frames_without_content_count_together_in_the_end(short_dir: Path) -> None:
    """Ten connections may each use up their budget, and no more."""
    async with serve_with_abuse_limits(short_dir) as (_, path):
        pings = frames.ping(b"12345678", ack=False) * 17
        found = [await attack_and_read_goaway(path, pings) for _ in range(12)]
        assert found[:10] == [""] * 10
        assert "too_many_pings" in found[11] or "refused for" in found[11]


PROBE = """
import os, sys, trio
from pathlib import Path
from tests.support.raw_calls import attack_and_read_goaway, reset_requests
if int(sys.argv[3]):
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
requests = reset_requests(int(sys.argv[2]))
print(repr(trio.run(attack_and_read_goaway, Path(sys.argv[1]), requests)))
"""


async def connect_in_process(path: Path, count: int, uid: int) -> str:
    """The same by another process, and by another user."""
    process = await trio.run_process(
        [sys.executable, "-c", PROBE, str(path), str(count), str(uid)],
        capture_stdout=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ":".join([str(ROOT), *sys.path])},
    )
    return str(process.stdout.decode().strip())


async def test_another_process_of_the_same_user_is_not_locked_out(short_dir: Path) -> None:
    async with serve_with_abuse_limits(short_dir) as (server, path):
        assert await attack_and_read_goaway(path, reset_requests(60))
        server.peer_accounts.for_peer(Peer(uid=os.getuid(), pid=os.getpid()))._refused_until = 2**60
        assert await connect_in_process(path, 0, os.getuid()) == "''"


async def test_ever_new_processes_of_one_user_count_together(short_dir: Path) -> None:
    """Ten of them may use up their budget of resets."""
    async with serve_with_abuse_limits(short_dir) as (server, _):
        accounts = server.peer_accounts
        for pid in range(1000, 1010):
            budget = accounts.for_peer(Peer(uid=os.getuid(), pid=pid)).reset_bucket
            assert all(budget.try_acquire(1.0) for _ in range(50))
        eleventh = accounts.for_peer(Peer(uid=os.getuid(), pid=1010)).reset_bucket
        assert not eleventh.try_acquire(1.0)


@pytest.mark.skipif(os.getuid() != 0, reason="root is needed to have processes of other users")
async def test_processes_of_another_user_are_one_peer(short_dir: Path) -> None:
    async with serve_with_abuse_limits(short_dir) as (_, path):
        assert await connect_in_process(path, 30, NOBODY) == "''"
        assert "opened and reset" in await connect_in_process(path, 30, NOBODY)
        # Which is none of root's business.
        assert await attack_and_read_goaway(path, b"") == ""


def test_a_mesh_is_not_punished_for_its_clients() -> None:
    accounts = PeerAccounts(LIMITS)
    mesh = accounts.for_peer(Peer(uid=0, pid=7), trusted=True)
    assert accounts.for_peer(Peer(uid=0, pid=7)) is not mesh
    assert mesh.max_active_calls > 10**9
    held = 10**12
    assert mesh.exceeded_budget(held, held, held, fraction=0.5) == (
        "268435456 bytes for all peers (half of process_memory)"
    )


@pytest.mark.parametrize(
    ("held", "fraction", "text"),
    [
        ((99, 199, 299), 1.0, ""),
        ((101, 0, 0), 1.0, "100 bytes for one connection (half of max_peer)"),
        ((51, 0, 0), 0.5, "50 bytes for one connection (a quarter of max_peer)"),
        ((26, 0, 0), 0.25, "25 bytes for one connection (an eighth of max_peer)"),
        ((0, 201, 0), 1.0, "200 bytes for process 1 (max_peer)"),
        ((0, 101, 0), 0.5, "100 bytes for process 1 (half of max_peer)"),
        ((0, 80, 401), 1.0, "400 bytes for all peers (max_process)"),
        ((0, 51, 101), 0.25, "50 bytes for process 1 (a quarter of max_peer)"),
    ],
)
def test_an_exceeded_budget_is_described_by_its_setting(
    held: tuple[int, int, int], fraction: float, text: str
) -> None:
    limits = Limits(connection_memory=100, peer_memory=200, process_memory=400)
    settings = BudgetSettings(
        connection=BudgetSetting("max_peer", ratio=0.5),
        peer=BudgetSetting("max_peer"),
        process=BudgetSetting("max_process"),
    )
    account = PeerAccount("process 1", limits, settings)
    assert account.exceeded_budget(*held, fraction) == text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1:5", "10.0.0.1:6", True),
        ("10.0.0.1:5", "10.0.0.2:5", False),
        ("[2001:db8:1:2::1]:5", "[2001:db8:1:2:ffff::2]:5", True),
        ("[2001:db8:1:2::1]:5", "[2001:db8:1:3::1]:5", False),
        ("[::ffff:10.0.0.1]:5", "10.0.0.1:5", True),
        ("[::ffff:10.0.0.1]:5", "[::ffff:10.0.0.2]:5", False),
        ("[fe80::1%eth0]:5", "[fe80::2%eth0]:5", True),
    ],
)
def test_hosts(one: str, other: str, same: bool) -> None:
    accounts = PeerAccounts(LIMITS)
    assert (accounts.for_peer(Peer(address=one)) is accounts.for_peer(Peer(address=other))) is same


def test_a_certificate_is_one_peer_wherever_it_comes_from() -> None:
    accounts = PeerAccounts(LIMITS)
    subject = (("commonName", "ops"),)
    one = accounts.for_peer(Peer(address="10.0.0.1:5", subject=subject))
    assert accounts.for_peer(Peer(address="10.0.0.2:5", subject=subject)) is one
    assert accounts.for_peer(Peer(address="10.0.0.1:5")) is not one


async def test_accounts_are_bounded() -> None:
    accounts = PeerAccounts(LIMITS)
    for number in range(10_000):
        accounts.for_peer(Peer(address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:5"))
    assert len(accounts) <= 4096


def test_what_was_earned_costs_the_others_nothing() -> None:
    together = TokenBucket(10, 0)
    one = TokenBucket(5, 0, max_tokens=100)
    one.parent = together
    one.credits = 20
    for _ in range(20):
        assert one.try_acquire(0)
    assert all(one.try_acquire(0) for _ in range(5))
    assert not one.try_acquire(0)
    assert together.try_acquire(0, 5)
    assert not together.try_acquire(0)
