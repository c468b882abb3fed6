"""Calls that run into their deadlines by the thousand: `python -m tests.deadline_storm`.

    python -m tests.deadline_storm [--seconds 20] [--rate 1000] [--timeout 0.15] [--json]

Straight to a plugin and through the gateway, calls are made that the plugin never answers in time,
over the same connections as calls and a stream that have to succeed. Meanwhile a client opens and
resets streams as fast as it can, whose connection has to be closed with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.util.concurrency import open_collapsing_nursery
from tests import ROOT
from tests.support.mesh_processes import PLUGINS_DIRECTORY

TICK = 0.01
"""Seconds between the starts of two lots of calls."""
BYSTANDER_PAUSE = 0.005
LONG_TIMEOUT = 3600.0
ATTACK_TIMEOUT = 30.0
"""Seconds after the storm within which the attack has to be over."""


@attrs.define
class Results:
    """Results of calls, by one route to the plugin."""

    timed_out: int = 0
    raised: list[str] = attrs.field(factory=list)
    """Calls under `move_on_after` that raised, or were answered."""
    bystanders: int = 0
    """Calls and messages that succeeded beside them."""
    failed: list[str] = attrs.field(factory=list)
    """Bystanders that did not."""
    attack_ended_by: str = "nothing"
    attack_streams: int = 0
    """Streams that the attack opened before its connection was closed."""

    @property
    def good(self) -> bool:
        return not self.raised and not self.failed and self.attack_ended_by == "ENHANCE_YOUR_CALM"


async def storm(
    stub: Any,
    results: Results,
    rate: float,
    seconds: float,
    timeout: float,  # noqa: ASYNC109 - of each call
) -> None:
    """Start `rate` calls a second that each give up after `timeout`."""

    async def give_up() -> None:
        try:
            with trio.move_on_after(timeout) as scope:
                await stub.Slow(SlowRequest(message="x", seconds=LONG_TIMEOUT))
            if scope.cancelled_caught:
                results.timed_out += 1
            else:
                results.raised.append("it was answered")
        except purerpc.RpcFailedError as exc:
            results.raised.append(str(exc))

    began = trio.current_time()
    started = 0
    async with trio.open_nursery() as nursery:
        while (passed := trio.current_time() - began) < seconds:
            while started < passed * rate:
                nursery.start_soon(give_up)
                started += 1
            await trio.sleep(TICK)


async def call_repeatedly(stub: Any, results: Results) -> None:
    number = 0
    while True:
        number += 1
        try:
            reply = await stub.Echo(EchoRequest(message=str(number)))
            if reply.message == str(number):
                results.bystanders += 1
            else:
                results.failed.append(f"call {number} was answered {reply.message!r}")
        except purerpc.RpcFailedError as exc:
            results.failed.append(str(exc))
        await trio.sleep(BYSTANDER_PAUSE)


async def hold_stream_open(stub: Any, results: Results) -> None:
    async def requests() -> AsyncIterator[EchoRequest]:
        while True:
            yield EchoRequest(message="x")
            await trio.sleep(BYSTANDER_PAUSE)

    try:
        async for _ in stub.Chat(requests()):
            results.bystanders += 1
        results.failed.append("the stream ended")
    except purerpc.RpcFailedError as exc:
        results.failed.append(f"the stream failed: {exc}")


# -- the attack ------------------------------------------------------------------------------


async def attack(path: Path, results: Results) -> None:
    """Run the attack in a process of its own: a plugin trusts that of its mesh."""
    command = [sys.executable, "-m", "tests.deadline_storm", "--attack", str(path)]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    results.attack_ended_by, results.attack_streams = json.loads(done.stdout)


async def run_rapid_reset_attack(path: Path) -> tuple[str, int]:
    """Open and reset streams until the server closes the connection.

    Returns:
        The error code of its GOAWAY, and the number of streams until then.
    """
    streams = [0]
    block = encoder.encode(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/echo.v1.EchoService/Slow"),
            (b":authority", b"plugin.sleeping"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
    )
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.connect(str(path))
        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(_reset_rapidly, sock, block, streams)
            reason = await _read_close_reason(sock)
            nursery.cancel_scope.cancel()
    return reason, streams[0]


async def _reset_rapidly(sock: trio.socket.SocketType, block: bytes, streams: list[int]) -> None:
    await _send(sock, frames.PREFACE + frames.settings({}))
    stream_id = 1
    while True:
        lot = b""
        for _ in range(100):
            lot += frames.encode_header_block(
                stream_id, block, end_stream=False, max_frame_size=16_384
            )
            lot += frames.rst_stream(stream_id, ErrorCode.CANCEL)
            stream_id += 2
        try:
            await _send(sock, lot)
        except OSError:
            return
        streams[0] += 100


async def _send(sock: trio.socket.SocketType, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await sock.send(view) :]


async def _read_close_reason(sock: trio.socket.SocketType) -> str:
    reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
    reason = "nothing"
    with contextlib.suppress(OSError):
        while data := await sock.recv(65536):
            for kind, _, _, payload in reader.feed(data):
                if kind == FrameType.GOAWAY:
                    reason = ErrorCode(int.from_bytes(payload[4:8], "big")).name
    return reason


# -- the whole -------------------------------------------------------------------------------


async def run(
    seconds: float,
    rate: float,
    timeout: float,  # noqa: ASYNC109 - of each call
) -> dict[str, Results]:
    """Run the storm by each way in turn, within a mesh of its own."""
    results: dict[str, Results] = {}
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        folder = Path(name)
        sleeping = PluginConfig(
            name="sleeping",
            command=["{python}", str(PLUGINS_DIRECTORY / "sleeping_echo.py")],
            cwd=PLUGINS_DIRECTORY,
        )
        config = MeshConfig(plugins=(sleeping,), runtime_dir=folder / "run")
        async with open_collapsing_nursery() as nursery:
            running = await nursery.start(mesh.main, config)
            ways = {
                "direct": (running.connect("plugin.sleeping"), folder / "run" / "sleeping-0.sock"),
                "gateway": (
                    connect_to(
                        f"unix:{running.socket}",
                        metadata=[("x-mesh-target", "plugin.sleeping")],
                    ),
                    running.socket,
                ),
            }
            for way, (channel, path) in ways.items():
                results[way] = Results()
                await _run_one(channel, path, results[way], rate, seconds, timeout)
            nursery.cancel_scope.cancel()
    return results


async def _run_one(
    opening: Any,
    path: Path,
    results: Results,
    rate: float,
    seconds: float,
    timeout: float,  # noqa: ASYNC109 - of each call
) -> None:
    async with opening as channel, trio.open_nursery() as nursery:
        stub = channel.stub(EchoServiceStub)
        await stub.Echo(EchoRequest(message="first"), wait_for_ready=True)
        nursery.start_soon(call_repeatedly, stub, results)
        nursery.start_soon(hold_stream_open, stub, results)
        with trio.move_on_after(seconds + ATTACK_TIMEOUT):
            # On a machine that is busy otherwise, the attack may begin late.
            async with trio.open_nursery() as storming:
                storming.start_soon(attack, path, results)
                storming.start_soon(storm, stub, results, rate, seconds, timeout)
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each way")
    parser.add_argument("--rate", type=float, default=1000.0, help="calls a second")
    parser.add_argument("--timeout", type=float, default=0.15, help="seconds of each call")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--attack", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack is not None:
        print(json.dumps(trio.run(run_rapid_reset_attack, options.attack)))
        return
    results = trio.run(run, options.seconds, options.rate, options.timeout)
    if options.json:
        print(json.dumps({way: attrs.asdict(found) for way, found in results.items()}))
    else:
        for way, found in results.items():
            print(
                f"{way}: {found.timed_out} calls timed out, {len(found.raised)} raised; "
                f"{found.bystanders} bystanders succeeded, {len(found.failed)} failed; the attack "
                f"was ended by {found.attack_ended_by} after {found.attack_streams} streams"
            )
            for text in (found.raised + found.failed)[:5]:
                print(f"  {text}")
    sys.exit(not all(found.good for found in results.values()))


if __name__ == "__main__":
    main()
