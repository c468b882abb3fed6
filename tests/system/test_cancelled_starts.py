"""Whatever starts can be cancelled at each checkpoint of its start, and then leaves nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from echo.v1.echo_grpc import EchoServiceServicer

from meshtrio import mesh, plugin
from meshtrio.config import MeshConfig, load
from meshtrio.discovery.registry import Registry
from meshtrio.errors import MeshFailedError
from meshtrio.gateway.mesh_server import MeshServer
from meshtrio.runtime_dir.claim import claim_runtime_dir
from meshtrio.services.event_log import EventLog
from meshtrio.services.log_level_controller import LogLevelController
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics.exposition_server import serve_metrics
from meshtrio.util.concurrency import background_service
from meshtrio.util.errors import UsageError
from tests.support.cancelled_starts import cancel_at_each_step
from tests.support.mesh_processes import MeshProcess, echo_plugin_table, serve_mesh
from tests.support.ports import find_free_port

SLEEPER = '[[plugin]]\nname = "sleeper"\ncommand = ["sleep", "1000"]\n'


REFUSING_COLLECTOR = """
import sys
from pathlib import Path
import trio
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
with unix_listener(Path(sys.argv[1])) as listener:
    print("listening", flush=True)
    trio.run(Server().serve, listener)
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    """The address of a process that refuses all spans at once: no run waits for it at its end."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        path = Path(name) / "collector.sock"
        command = [sys.executable, "-c", REFUSING_COLLECTOR, path]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"listening\n"
            yield f"unix:{path}"
        finally:
            process.kill()
            process.communicate()


def write_config(folder: Path, text: str = SLEEPER) -> MeshConfig:
    (folder / "mesh.toml").write_text(text)
    return load(folder / "mesh.toml", runtime_dir=folder / "run")


@pytest.fixture
def certificate(short_dir: Path) -> Path:
    path = short_dir / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return path


async def start_and_cancel(task: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Start a task in a nursery, as users do, and cancel it once it has started."""
    async with trio.open_nursery() as nursery:
        await nursery.start(task, *args)
        nursery.cancel_scope.cancel()


# -- a mesh ----------------------------------------------------------------------------------


def telemetry(collector: str) -> str:
    """All of a mesh that has a start of its own."""
    return (
        f'[mesh.gateway]\nlisten = "tcp:127.0.0.1:{find_free_port()}"\nsecurity = "plaintext"\n'
        f'[mesh.telemetry]\nmetrics = "127.0.0.1:{find_free_port()}"\n'
        f'traces = "{collector}"\nbinary_log = "*"\n'
    )


FAILING = '[[plugin]]\nname = "failing"\ncommand = ["false"]\nmax_restarts = 0\nescalate = "mesh"\n'


def test_a_mesh_can_be_cancelled_at_each_step_of_its_start(short_dir: Path) -> None:
    assert (
        cancel_at_each_step(
            partial(start_and_cancel, mesh.main, write_config(short_dir)), short_dir
        )
        > 10
    )


@pytest.mark.long
def test_so_can_one_that_fails_because_a_plugin_does(short_dir: Path) -> None:
    async def fail() -> None:
        with pytest.raises(MeshFailedError, match="failing/0 exited with status 1"):
            await mesh.main(write_config(short_dir, SLEEPER + FAILING))

    assert cancel_at_each_step(fail, short_dir) > 10


@pytest.mark.parametrize("part", ["gateway", "telemetry"])
def test_a_mesh_with_a_port_that_is_taken_can_be_cancelled_at_each_step(
    part: str, short_dir: Path
) -> None:
    """An error in the middle of a start, after what has been started already."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        keys = {
            "gateway": f'security = "plaintext"\nlisten = "tcp:{where}"\n',
            "telemetry": f'metrics = "{where}"\n',
        }
        config = write_config(short_dir, f"[mesh.{part}]\n{keys[part]}{SLEEPER}")

        async def fail() -> None:
            with pytest.raises(UsageError, match="in use"):
                await mesh.main(config)

        assert cancel_at_each_step(fail, short_dir) > 1


@pytest.mark.long
def test_so_can_one_with_a_gateway_metrics_traces_and_a_binary_log(
    short_dir: Path, collector: str
) -> None:
    config = write_config(short_dir, telemetry(collector) + SLEEPER)
    assert cancel_at_each_step(partial(start_and_cancel, mesh.main, config), short_dir) > 10


def test_a_mesh_whose_time_is_over_before_it_starts_ends(short_dir: Path) -> None:
    async def main() -> None:
        with trio.move_on_after(0) as scope:
            await mesh.main(write_config(short_dir))
        assert scope.cancelled_caught

    trio.run(main)


def test_the_error_of_a_task_beside_a_mesh_that_starts_is_raised(short_dir: Path) -> None:
    async def main(delay: float) -> None:
        async def fail() -> None:
            await trio.sleep(delay)
            raise ValueError("the app failed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await nursery.start(mesh.main, write_config(short_dir))
            await trio.sleep_forever()

    for delay in (0, 0.001, 0.005, 0.01, 0.02, 0.04):
        with pytest.raises(ExceptionGroup) as caught:
            trio.run(main, delay)
        assert caught.group_contains(ValueError, match="the app failed", depth=1)


def test_a_door_can_be_cancelled_at_each_step(short_dir: Path) -> None:
    async def open_door() -> None:
        folder = short_dir / "run"
        with claim_runtime_dir(folder) as claimed:
            registry, chronicle = Registry(), EventLog()
            tree = Supervisor(write_config(short_dir, ""), registry, folder)
            operations = Operations(tree)
            levels = LogLevelController(tree, registry, operations)
            async with MeshServer(tree, registry, operations, chronicle, levels).running(claimed):
                pass

    assert cancel_at_each_step(open_door, short_dir) > 5


def test_a_tree_can_be_cancelled_at_each_step(short_dir: Path) -> None:
    async def run_tree() -> None:
        folder = short_dir / "run"
        with claim_runtime_dir(folder):
            await start_and_cancel(Supervisor(write_config(short_dir), Registry(), folder).run)

    assert cancel_at_each_step(run_tree, short_dir) > 5


# -- a plugin --------------------------------------------------------------------------------


@pytest.fixture
def plugin_socket(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLUGIN_SOCKET", str(short_dir / "plugin.sock"))
    return short_dir / "plugin.sock"


def variables(kind: str, folder: Path, certificate: Path, collector: str) -> dict[str, str]:
    return {
        "alone": {},
        "metrics": {"PLUGIN_METRICS": f"127.0.0.1:{find_free_port()}"},
        "tls": {"PLUGIN_TLS_CERTIFICATE": str(certificate), "PLUGIN_TLS_KEY": str(certificate)},
        "tcp": {"PLUGIN_LISTEN": f"tcp:127.0.0.1:{find_free_port()}"},
        "traces": {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        },
        "binary log": {
            "GRPC_BINARY_LOG_FILTER": "*",
            "PLUGIN_BINARY_LOG_FOLDER": str(folder / "logs"),
        },
    }[kind]


@pytest.mark.parametrize("kind", ["alone", "metrics", "tls", "tcp", "traces", "binary log"])
def test_a_plugin_can_be_cancelled_at_each_step(
    kind: str,
    short_dir: Path,
    plugin_socket: Path,
    certificate: Path,
    collector: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables(kind, short_dir, certificate, collector).items():
        monkeypatch.setenv(name, value)
    serve = partial(start_and_cancel, plugin.serve, EchoServiceServicer())
    assert cancel_at_each_step(serve, short_dir) > 2


def test_a_plugin_whose_start_fails_says_why(
    plugin_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of its start, after what it has started already."""
    monkeypatch.setenv("PLUGIN_METRICS", f"127.0.0.1:{find_free_port()}")
    plugin_socket.write_text("not a socket")
    with pytest.raises(UsageError, match="is not a socket"):
        trio.run(plugin.serve, EchoServiceServicer())


# -- parts and clients -----------------------------------------------------------------------


async def collect_nothing(within: float | None) -> Sequence[MetricFamily]:
    return []


def test_exposing_metrics_can_be_cancelled_at_each_step(short_dir: Path) -> None:
    where = f"tcp:127.0.0.1:{find_free_port()}"
    assert (
        cancel_at_each_step(
            partial(start_and_cancel, serve_metrics, collect_nothing, where), short_dir
        )
        > 1
    )


@pytest.fixture(scope="module")
def other_mesh() -> Iterator[MeshProcess]:
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        with serve_mesh(Path(name), echo_plugin_table(), min_ready=1) as found:
            yield found


def test_connecting_to_a_mesh_can_be_cancelled_at_each_step(
    other_mesh: MeshProcess, short_dir: Path
) -> None:
    async def connect() -> None:
        async with mesh.connect("plugin.echo", mesh_socket=other_mesh.socket):
            pass

    assert cancel_at_each_step(connect, short_dir) > 5


def test_registering_with_a_mesh_can_be_cancelled_at_each_step(
    other_mesh: MeshProcess, short_dir: Path
) -> None:
    async def register() -> None:
        where = str(short_dir / "outside.sock")
        async with mesh.register("outside", where, mesh_socket=other_mesh.socket):
            pass

    assert cancel_at_each_step(register, short_dir) > 5


# -- what all of them are made with ------------------------------------------------------------


async def test_a_service_that_fails_to_start_raises_its_own_error() -> None:
    async def failing(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("it cannot start")

    with pytest.raises(ValueError, match="it cannot start"):
        async with background_service(failing):
            pytest.fail("it never started")


async def test_a_service_that_never_reports_a_start_is_an_error() -> None:
    async def silent(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(RuntimeError, match="silent"):
        async with background_service(silent):
            pytest.fail("it never started")


async def test_a_service_is_there_until_the_block_is_over_whatever_is_cancelled() -> None:
    log = []

    async def service(*, task_status: trio.TaskStatus[str]) -> None:
        task_status.started("value")
        try:
            await trio.sleep_forever()
        finally:
            log.append("service ends")

    with trio.CancelScope() as scope:
        async with background_service(service) as value:
            assert value == "value"
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                log.append("block ends")
    assert log == ["block ends", "service ends"]


async def test_a_start_that_waits_for_ever_can_be_cancelled() -> None:
    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0.01) as scope:
        async with background_service(slow):
            pytest.fail("it never started")
    assert scope.cancelled_caught
