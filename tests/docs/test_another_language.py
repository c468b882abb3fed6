"""The plugins of docs/how-to/another-language.md, built as the page says, in real meshes.

What is built is kept below `tests.tools.TOOLS_DIRECTORY`, and built again when the page changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, SlowRequest

from meshtrio import contract
from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.multicallable import DynamicStub
from meshtrio.errors import PluginDiedError
from meshtrio.messages import health
from meshtrio.supervisor import events
from tests import ROOT
from tests.docs.blocks import Block, matches, parse_blocks
from tests.support.certificates import Certificates
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import serve_mesh, to_toml
from tests.support.ports import find_free_port
from tests.support.process_tracking import hold_pidfds, kill_with_warden, wait_until_ended
from tests.tools import TOOLS_DIRECTORY

PAGE = ROOT / "docs" / "how-to" / "another-language.md"
BUILDERS = {
    "node": ("node", "npm"),
    "java": ("java", "javac", "mvn"),
    "rust": ("cargo", "cc"),
    "go": ("go",),
}
"""The programs that build and run each plugin, by its directory on the page."""
OPTIONAL = frozenset({"rust"})
"""Languages whose tests CI skips as well if a program is missing: Debian's Rust is too old."""
EXCEEDED = {"rust": "OUT_OF_RANGE"}
"""The statuses of calls with too long messages, if they are not gRPC's RESOURCE_EXHAUSTED."""
_BUILD_TIMEOUT = 2400
_TIMEOUT = 600
"""Seconds for the start of a plugin and what a test does with it, on any machine."""


def languages(test: Any) -> Any:
    """Run a test for each language. The first one of a language builds its plugin."""
    test = pytest.mark.timeout(_BUILD_TIMEOUT + _TIMEOUT)(pytest.mark.long(test))
    return pytest.mark.parametrize("language", BUILDERS)(test)


@cache
def page_blocks() -> list[Block]:
    return list(parse_blocks(PAGE))


def shell_block(name: str) -> str:
    """The text of the page's block that is marked `sh test=NAME`."""
    (found,) = [block.text for block in page_blocks() if block.attributes == f"test={name}"]
    return found


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other test run uses `path`."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_page_shell(text: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a block in a folder, with this Python as `python` and meshtrio beside it."""
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-ec", text],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_BUILD_TIMEOUT,
        check=False,
    )


def write_if_changed(path: Path, text: str) -> None:
    """Write a file; one with this text keeps its time, by which compilers see what has changed."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@cache
def build(language: str) -> Path:
    """Build a plugin as the page says; returns the directory of its config."""
    missing = [name for name in BUILDERS[language] if shutil.which(name) is None]
    if missing:
        reason = f"{', '.join(missing)} is missing, which the plugin in {language} needs"
        if os.environ.get("CI") and language not in OPTIONAL:
            pytest.fail(reason)
        pytest.skip(reason)
    files = {
        block.attributes: block.text
        for block in page_blocks()
        if block.attributes.startswith(("proto/", f"{language}/"))
    }
    command = shell_block(f"build-{language}")
    digest = hashlib.sha256(repr((sorted(files.items()), command)).encode()).hexdigest()
    folder = TOOLS_DIRECTORY / "another-language" / language
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "built.sha256"
    with exclusive(folder / "lock"):
        if not stamp.exists() or stamp.read_text() != digest:
            for name, text in files.items():
                write_if_changed(folder / name, text)
            done = run_page_shell(command, folder)
            assert done.returncode == 0, done.stdout[-10_000:]
            stamp.write_text(digest)
    return folder / language


def plugin_config(language: str, **settings: Any) -> str:
    """The config of the page, for any folder, with more settings of the plugin."""
    folder = build(language)
    values = {"cwd": str(folder), "ready_timeout": _TIMEOUT, **settings}
    text = (folder / "mesh.toml").read_text()
    return text + "".join(f"{key} = {to_toml(value)}\n" for key, value in values.items())


def find_port_pair() -> int:
    """Return a free port whose next one, that of the successor, is free as well."""
    port = find_free_port()
    while (following := find_free_port()) != port + 1:
        port = following
    return port


def tls_settings(folder: Path) -> dict[str, Any]:
    """Settings of a plugin that serves on TCP with TLS, and requires certificates of clients."""
    certificates = Certificates.create(folder, "127.0.0.1")
    files = certificates.path
    # As Java requires it; the others read it as well.
    key = load_pem_private_key(Path(files("server.key")).read_bytes(), None)
    Path(files("server.key")).write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    server = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
    client = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
    return {
        "listen": f"tcp://127.0.0.1:{find_port_pair()}",
        "serve_tls": {key: files(name) for key, name in server.items()},
        "tls": {key: files(name) for key, name in client.items()},
    }


def answers_without_certificate(settings: dict[str, Any]) -> bool:
    """Return whether a server with `tls_settings` answers a client that has no certificate."""
    context = ssl.create_default_context(cafile=settings["tls"]["ca"])
    context.set_alpn_protocols(["h2"])
    port = int(settings["listen"].rpartition(":")[2])
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as tls,
        ):
            return tls.recv(1) != b""
    except TimeoutError:
        raise
    except OSError:
        return False


async def start_slow_call(
    nursery: trio.Nursery, channel: Channel, seconds: float, results: list[EchoReply | Exception]
) -> None:
    """Start a call that has reached the plugin when this returns."""
    echo = channel.stub(EchoServiceStub)

    async def call() -> None:
        try:
            results.append(await echo.Slow(SlowRequest(message="slow", seconds=seconds)))
        except purerpc.RpcFailedError as exc:
            results.append(exc)

    await echo.Echo(EchoRequest(message="connected"))
    nursery.start_soon(call)
    for _ in range(2):
        # On the same connection, and so answered after the other call was received.
        await echo.Echo(EchoRequest(message="received"))


async def check_health(channel: Channel) -> str:
    service = health.DESCRIPTOR.services_by_name["Health"]
    reply = await DynamicStub(channel, service).Check(health.HealthCheckRequest())
    return str(health.HealthCheckResponse.ServingStatus.Name(reply.status))


def stopped_events(watched: RecordedMesh) -> list[events.Stopped]:
    return [
        seen.event
        for seen in watched.find_events(events.Stopped)
        if isinstance(seen.event, events.Stopped)
    ]


@pytest.mark.parametrize("transport", ["unix", "tls"])
@languages
async def test_it_serves_and_is_restarted_without_losing_a_call(
    language: str, transport: str, short_dir: Path
) -> None:
    settings = tls_settings(short_dir) if transport == "tls" else {}
    config = plugin_config(language, stop_timeout=20, **settings)
    results: list[EchoReply | Exception] = []
    async with run_mesh(config, short_dir) as watched:
        with trio.fail_after(_TIMEOUT):
            async with watched.mesh.connect("plugin.echo") as channel:
                assert await check_health(channel) == "SERVING"
                if settings:
                    without_certificate = partial(answers_without_certificate, settings)
                    assert not await trio.to_thread.run_sync(without_certificate)
                async with trio.open_nursery() as nursery:
                    await start_slow_call(nursery, channel, 1.5, results)
                    await watched.mesh.restart("echo")
                await channel.stub(EchoServiceStub).Echo(EchoRequest(message="successor"))
            async with connect_to(f"unix:{watched.mesh.socket}") as gateway:
                metadata = [(contract.TARGET_METADATA_KEY, "plugin.echo")]
                echo = gateway.stub(EchoServiceStub)
                reply = await echo.Echo(EchoRequest(message="hi"), metadata=metadata)
                assert reply.message == "hi"
                # By the config's `services`.
                assert (await echo.Echo(EchoRequest(message="ho"))).message == "ho"
            await watched.mesh.stop("echo")
    assert [getattr(each, "message", each) for each in results] == ["slow"]
    ends = [
        (each.exit.status, each.was_killed, each.cut_calls_known)
        for each in stopped_events(watched)
    ]
    assert ends == [(0, False, True)] * 2


@languages
async def test_calls_that_do_not_end_are_cut_before_the_stop_timeout(
    language: str, short_dir: Path
) -> None:
    results: list[EchoReply | Exception] = []
    async with run_mesh(plugin_config(language, stop_timeout=10), short_dir) as watched:
        with trio.fail_after(_TIMEOUT):
            async with (
                watched.mesh.connect("plugin.echo") as channel,
                trio.open_nursery() as nursery,
            ):
                await start_slow_call(nursery, channel, 3600, results)
                await watched.mesh.stop("echo")
    (error,) = results
    assert isinstance(error, PluginDiedError | purerpc.UnavailableError | purerpc.CancelledError)
    (stopped,) = stopped_events(watched)
    assert (stopped.exit.status, stopped.was_killed, stopped.cut_calls_known) == (0, False, False)


@languages
async def test_message_lengths_of_the_config_apply(language: str, short_dir: Path) -> None:
    limits = {"max_receive_message_length": 1000, "max_send_message_length": 500}
    async with run_mesh(plugin_config(language, **limits), short_dir) as watched:
        with trio.fail_after(_TIMEOUT):
            async with watched.mesh.connect("plugin.echo") as channel:
                echo = channel.stub(EchoServiceStub)
                assert (await echo.Echo(EchoRequest(message="a" * 490))).message == "a" * 490
                for length in (800, 1200):
                    with pytest.raises(purerpc.RpcFailedError) as caught:
                        await echo.Echo(EchoRequest(message="a" * length))
                    expected = EXCEEDED.get(language, "RESOURCE_EXHAUSTED")
                    assert caught.value.status.status_code.name == expected


@languages
async def test_message_lengths_can_be_unlimited(language: str, short_dir: Path) -> None:
    limits = {"max_receive_message_length": -1, "max_send_message_length": -1}
    async with run_mesh(plugin_config(language, **limits), short_dir) as watched:
        with trio.fail_after(_TIMEOUT):
            async with watched.mesh.connect(
                "plugin.echo", max_receive_message_length=-1
            ) as channel:
                message = "a" * 5_000_000
                reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message=message))
                assert reply.message == message


@languages
def test_it_ends_with_a_mesh_that_is_killed_with_its_warden(language: str, short_dir: Path) -> None:
    config = plugin_config(language, stop_timeout=3600)
    with serve_mesh(short_dir, config, min_ready=1) as mesh:
        done = run_page_shell(
            shell_block("call"), build(language).parent, MESH_SOCKET=str(mesh.socket)
        )
        expected = page_blocks()[
            [block.attributes for block in page_blocks()].index("test=call") + 1
        ]
        assert matches(expected.text, done.stdout), done.stdout
        with hold_pidfds(mesh.plugin_pids()) as pidfds:
            assert pidfds
            kill_with_warden(mesh)
            wait_until_ended(pidfds)


def test_the_page_has_every_variable_of_the_contract() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted({*contract.MESH_VARIABLES, contract.GRPC_BINARY_LOG_FILTER})
