"""What faults act on: the processes of a mesh, its control service, and a log of what was done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.errors import NoMeshError
from meshtrio.messages import control
from tests import ROOT
from tests.soak.config import Layout
from tests.support.mesh_processes import child_pids, pids_with_environment

_CONTROL = control.DESCRIPTOR.services_by_name["Control"]
_CONTROL_TIMEOUT = 120.0
"""Seconds; what is asked for may be to start processes, while all else goes on."""
PYTHON_PLUGINS = ("echo", "stream", "tcp", "family", "flaky", "slow", "noisy")
"""Those that do on request what `programs/plugin.py` can."""


@attrs.define
class FaultContext:
    """A running mesh and how to get at its parts. `rng` is that of the fault that uses it."""

    layout: Layout
    rng: Random
    process: subprocess.Popen[bytes]
    begun: float
    seed: int
    violations: list[str]
    """What may not be, whatever the fault."""

    # -- looking ---------------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """Write a line of progress."""
        passed = time.monotonic() - self.begun
        print(f"[{passed:7.1f} s, seed {self.seed}] {text}", file=sys.stderr, flush=True)

    @property
    def mesh_pid(self) -> int:
        return self.process.pid

    def warden_pid(self) -> int | None:
        """The pid of the warden, if there is one just now."""
        with contextlib.suppress(OSError):
            for pid in child_pids(self.mesh_pid):
                if b"warden_main.py" in _read(f"/proc/{pid}/cmdline"):
                    return pid
        return None

    @asynccontextmanager
    async def control(self) -> AsyncIterator[Any]:
        """A stub of meshtrio.v1.Control, for the block."""
        with trio.fail_after(_CONTROL_TIMEOUT):
            async with AsyncExitStack() as stack:
                while True:
                    try:
                        connecting = connect_to_mesh(self.layout.mesh_socket)
                        channel = await stack.enter_async_context(connecting)
                        break
                    except NoMeshError:  # A fault removes the socket, and it is made again.
                        await trio.sleep(0.05)
                yield DynamicStub(channel, _CONTROL)

    async def instances(self, *names: str) -> list[Any]:
        """All instances, or those of the named plugins."""
        async with self.control() as stub:
            answer = await stub.ListInstances(control.ListInstancesRequest(names=names))
        return list(answer.instances)

    async def running_instances(self, *names: str) -> list[Any]:
        """Instances that have a process."""
        return [each for each in await self.instances(*names) if each.HasField("pid")]

    async def pick_instance(self, *names: str) -> Any | None:
        """An instance with a process, drawn from the named plugins or all."""
        found = await self.running_instances(*names)
        return self.rng.choice(found) if found else None

    # -- acting ----------------------------------------------------------------------------------

    async def call_control(self, method: str, request: Any) -> str:
        """Have an operation done; returns how it was refused, "" if it was not.

        What an operator asks for may be refused while its plugin is dying, but is answered.
        """
        try:
            async with self.control() as stub:
                await getattr(stub, method)(request)
        except purerpc.RpcFailedError as exc:
            return str(exc.status.status_code.name)
        except (NoMeshError, trio.TooSlowError) as exc:
            self.violations.append(f"{method} was not answered: {exc}")
            return "no answer"
        return ""

    async def request_misbehavior(self, plugin: str, misbehavior: str, seconds: float) -> None:
        """Have one of our plugins do what `programs/plugin.py` can; see `Misbehaviors` there."""
        target = [("x-mesh-target", f"plugin.{plugin}")]
        address = f"unix:{self.layout.mesh_socket}"
        with trio.move_on_after(10), contextlib.suppress(purerpc.RpcFailedError, OSError):
            async with connect_to(address, metadata=target) as channel:
                request = EchoRequest(message=f"!{misbehavior} {seconds}")
                await channel.stub(EchoServiceStub).Echo(request)

    def send_signal(self, pid: int | None, number: int) -> None:
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def run_attack(self, name: str, address: str | Path, seconds: float) -> None:
        """Run one of `tests.attacks` in a process of its own."""
        command = [sys.executable, "-m", "tests.attacks.launch", name, f"unix:{address}"]
        environment = {**os.environ, "ATTACK_METRICS": self.layout.metrics}
        with trio.move_on_after(seconds + 30):
            await trio.run_process(
                [*command, str(seconds)],
                cwd=ROOT,
                env=environment,
                check=False,
                stderr=subprocess.DEVNULL,
            )

    @contextmanager
    def set_response_mode(self, name: str, value: str) -> Iterator[None]:
        """Have plugins answer reflection or metrics in a certain way during the block."""
        path = self.layout.modes_directory / name
        path.write_text(value)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    async def wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait for a condition of the machine; returns whether it came true."""
        with trio.move_on_after(timeout_seconds):
            while not condition():  # noqa: ASYNC110 - of other processes
                await trio.sleep(0.05)
            return True
        return False

    def plugin_pids(self) -> list[int]:
        """All processes that carry the environment of a plugin of this mesh."""
        return pids_with_environment(f"PLUGIN_SOCKET={self.layout.run}/")

    def continue_all(self) -> None:
        """Continue plugins that a fault has stopped."""
        for pid in self.plugin_pids():
            self.send_signal(pid, signal.SIGCONT)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
