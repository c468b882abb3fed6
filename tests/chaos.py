"""Everything at once: `python -m tests.chaos [--seconds 60] [--seed N]`.

Twenty plugins of mixed kinds, half of them forked, are killed, stopped, terminated, restarted,
scaled and reloaded at random, and templates are killed, while fifty clients call them. First come
faults, when calls may fail but may not hang, nor be answered by the wrong plugin; then only
operations, when no call may fail. At the end everything has to be ready, and after that gone.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import attrs
import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, RepeatRequest

from meshtrio import mesh
from meshtrio.config import Liveness, MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.util.backoff import Backoff
from meshtrio.util.errors import MeshtrioError
from tests import ROOT
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY, pids_with_environment
from tests.support.process_tracking import template_pids

PLUGINS, CLIENTS = 20, 50
DEADLINE = 15.0
MAX_DEADLINE_OVERRUN = 1.0
"""Seconds past its deadline that a call may end on a busy machine."""
CONCURRENT_ACTIONS = 6
"""Operations under way; two cores can start only so many processes."""
SETTLE_TIMEOUT = 60.0
QUICK = Liveness(interval=0.5, timeout=1.0, failure_threshold=2)
OPERATIONS = ("restart", "scale", "reload")
TEMPLATE_SHARE = 0.2
"""Fraction of the signals that are sent to a template instead."""
FAULTS = ("SIGKILL", "SIGKILL", "SIGSTOP", "SIGTERM", *OPERATIONS)


def plugins() -> list[PluginConfig]:
    kinds = [(["{python}", "echo_plugin.py"], ECHO_PLUGIN_DIRECTORY)] * 4
    kinds += [(["{python}", "grpcio_plugin.py"], ROOT / "examples" / "grpcio-plugin")]
    return [
        PluginConfig(
            name=f"p{number}",
            command=kinds[number % len(kinds)][0],
            cwd=kinds[number % len(kinds)][1],
            instances=1 + number % 2,
            backoff=Backoff(initial=0.05, maximum=0.5),
            liveness=QUICK,
            ready_timeout=60.0,
            start=StartMethod.FORK if number % 2 else StartMethod.EXEC,
        )
        for number in range(PLUGINS)
    ]


@attrs.define
class Score:
    """Counts of calls by result, and of faults by kind."""

    outcomes: Counter[str] = attrs.field(factory=Counter)
    actions: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)
    """What may never be."""


class Chaos:
    def __init__(self, running: mesh.Mesh, rng: Random) -> None:
        self.mesh = running
        self.score = Score()
        self._rng = rng
        self._faults = True
        configs = running.config.plugins
        self._on_grpcio = {p.name for p in configs if "grpcio_plugin.py" in p.command}
        self._names = [plugin.name for plugin in running.config.plugins]
        self._plugin_of: dict[int, set[str]] = {}
        """By pid, which plugins had it: numbers come round."""
        self._changed = trio.Event()
        running.subscribe(self._on_event)

    def _on_event(self, event: events.LifecycleEvent) -> None:
        self._changed.set()
        self._changed = trio.Event()
        if isinstance(event, events.Starting):
            self._plugin_of.setdefault(event.pid, set()).add(event.plugin)

    # -- callers -----------------------------------------------------------------------------

    async def client(self, number: int) -> None:
        """Calls one plugin after another, as a part of the mesh's program or by its socket."""
        rng = Random(number)
        names = rng.sample(self._names, 4)
        async with contextlib.AsyncExitStack() as stack:
            stubs = {}
            for name in names:
                channel = await stack.enter_async_context(self._connect(f"plugin.{name}", number))
                stubs[name] = channel.stub(EchoServiceStub)
            for turn in range(10**9):
                name = rng.choice(names)
                await self._check_call(name, self._call(stubs[name], name, f"{number}-{turn}", rng))
                await trio.sleep(rng.random() * 0.02)

    @contextlib.asynccontextmanager
    async def _connect(self, service: str, number: int) -> AsyncIterator[Any]:
        outside = mesh.connect(service, mesh_socket=self.mesh.socket)
        async with outside if number % 5 == 0 else self.mesh.connect(service) as channel:
            yield channel

    async def _call(self, stub: Any, name: str, token: str, rng: Random) -> None:
        if rng.random() < 0.8:
            self._check(name, token, await stub.Echo(EchoRequest(message=token)))
            return
        replies = 0
        async for reply in stub.Repeat(RepeatRequest(message=token, count=3)):
            self._check(name, token, reply)
            replies += 1
        if replies != 3:
            self.score.wrong.append(f"{token}: {replies} replies instead of 3, and no error")

    def _check(self, name: str, token: str, reply: Any) -> None:
        if reply.message != token:
            self.score.wrong.append(f"{token} was answered {reply.message!r}")
        if reply.pid and name not in self._plugin_of.get(reply.pid, ()):
            self.score.wrong.append(f"{token} to {name} was answered by pid {reply.pid}")

    async def _check_call(self, name: str, call: Awaitable[None]) -> None:
        faults, began = self._faults, trio.current_time()
        try:
            with trio.fail_after(DEADLINE):
                await call
            outcome = "answered"
        except purerpc.UnavailableError:
            outcome = "unavailable"
        except (trio.TooSlowError, purerpc.DeadlineExceededError):
            outcome = "deadline"
        except purerpc.RpcFailedError as exc:
            outcome = exc.status.status_code.name.lower()
            # grpcio cancels calls it has not begun when somebody, not the mesh, sends it SIGTERM.
            if not (faults and outcome == "cancelled" and name in self._on_grpcio):
                self.score.wrong.append(f"a call to {name} ended as {exc!r}")
        self.score.outcomes[outcome] += 1
        took = trio.current_time() - began
        if took > DEADLINE + MAX_DEADLINE_OVERRUN:
            self.score.wrong.append(f"a call to {name} took {took:.1f} s")
        if outcome != "answered" and not faults:
            self.score.wrong.append(f"a call to {name} was lost without a fault: {outcome}")

    # -- what is done to them ----------------------------------------------------------------

    async def inject_faults(self, nursery: trio.Nursery, choices: tuple[str, ...]) -> None:
        while True:
            action, name = self._rng.choice(choices), self._rng.choice(self._names)
            self.score.actions[action] += 1
            if action in OPERATIONS:
                if len(nursery.child_tasks) < CONCURRENT_ACTIONS:
                    nursery.start_soon(self._operate, action, name)
            else:
                self._signal(name, getattr(signal, action))
            await trio.sleep(self._rng.uniform(0.05, 0.4))

    def _signal(self, name: str, number: int) -> None:
        pids = [s.pid for s in self.mesh.instances() if s.name == name and s.pid is not None]
        if self._rng.random() < TEMPLATE_SHARE:
            pids = template_pids(os.getpid())
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rng.choice(pids), number)

    async def _operate(self, action: str, name: str) -> None:
        """An operation may fail while its plugin is being killed, and may not hang."""
        faults = self._faults
        operations: dict[str, Callable[[], Awaitable[Any]]] = {
            "restart": lambda: self.mesh.restart(name),
            "scale": lambda: self.mesh.scale(name, self._rng.randint(1, 3)),
            "reload": lambda: self.mesh.reload(self._with_change(name)),
        }
        try:
            await operations[action]()
        except MeshtrioError as exc:
            if not faults:
                self.score.wrong.append(f"{action} of {name}: {exc}")

    def _with_change(self, name: str) -> MeshConfig:
        config, value = self.mesh.config, str(self._rng.random())
        changed = [
            attrs.evolve(p, env={"CHAOS": value}) if p.name == name else p for p in config.plugins
        ]
        return attrs.evolve(config, plugins=changed)

    async def settle(self) -> None:
        """Wait until everything is ready and each plugin answers."""
        self._continue_all()
        with trio.move_on_after(SETTLE_TIMEOUT) as waiting:
            while any(s.state is not InstanceState.READY for s in self.mesh.instances()):
                await self._changed.wait()
        if waiting.cancelled_caught:
            late = [f"{s.name}/{s.instance} {s.state.value}" for s in self.mesh.instances()]
            self.score.wrong.append(f"not all got ready: {', '.join(late)}")

    def _continue_all(self) -> None:
        """Send SIGCONT to stopped processes, so that they need not wait for their health checks."""
        for status in self.mesh.instances():
            if status.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(status.pid, signal.SIGCONT)

    def clear_faults(self) -> None:
        self._faults = False


async def phase(chaos: Chaos, choices: tuple[str, ...], seconds: float) -> None:
    """Clients call and plugins are tormented for a while; then every operation ends."""
    async with trio.open_nursery() as clients:
        for number in range(CLIENTS):
            clients.start_soon(chaos.client, number)
        async with trio.open_nursery() as operations:
            with trio.move_on_after(seconds):
                await chaos.inject_faults(operations, choices)
            await chaos.settle()
        await chaos.settle()
        clients.cancel_scope.cancel()


async def run(seconds: float, seed: int, folder: Path) -> Score:
    config = MeshConfig(plugins(), runtime_dir=folder / "run")
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        chaos = Chaos(await nursery.start(mesh.main, config), Random(seed))
        await chaos.settle()
        await phase(chaos, FAULTS, seconds * 0.7)
        chaos.clear_faults()
        await phase(chaos, OPERATIONS, seconds * 0.3)
        nursery.cancel_scope.cancel()
    score = chaos.score
    score.wrong += [
        f"process {pid} is left" for pid in pids_with_environment(f"PLUGIN_SOCKET={folder}/")
    ]
    score.wrong += [f"{path} is left" for path in (folder / "run").rglob("*.sock")]
    grown = len(os.listdir("/proc/self/fd")) - before
    if grown > 0:
        score.wrong.append(f"{grown} file descriptors are left")
    return score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=Random().randrange(10**6))
    parser.add_argument("--verbose", action="store_true", help="the mesh's log, too")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    level = logging.INFO if options.verbose else logging.CRITICAL
    logging.basicConfig(level=level, format="%(relativeCreated)d %(message)s")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        score = trio.run(run, options.seconds, options.seed, Path(folder))
    print("actions:", ", ".join(f"{n} {name}" for name, n in sorted(score.actions.items())))
    print("calls:", ", ".join(f"{n} {name}" for name, n in sorted(score.outcomes.items())))
    for wrong in score.wrong[:50]:
        print("WRONG:", wrong)
    print(f"{len(score.wrong)} wrong")
    return 1 if score.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
