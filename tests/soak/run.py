"""The order of a soak, and its verdict."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.errors import NoMeshError
from meshtrio.messages import control
from tests import ROOT
from tests.soak.census import read_census
from tests.soak.client_runner import ClientRunner
from tests.soak.config import Layout, prepare_files
from tests.soak.fault_context import FaultContext
from tests.soak.faults import Fault
from tests.soak.loop_monitor import StackSampler, read_standstills
from tests.soak.serve_monitored import RAISED
from tests.soak.usage import (
    MESH,
    Usage,
    find_growth,
    find_trend,
    measure_all_usage,
    measure_usage,
)

MAX_STANDSTILL = 0.25
"""Seconds for which the mesh's event loop may stand still."""
SETTLE_TIMEOUT = 180.0
"""Seconds within which everything is ready after the last fault; backoff and health checks are part
of it, and so is a machine that is busy with the clients."""
FAULTS_AT_ONCE = 3
FAULT_INTERVAL = (0.2, 1.5)
"""Seconds between two faults, at least and at most."""
QUIET_SECONDS = 6.0
"""Seconds of calls without faults before memory and descriptors are noted."""
RETURN_TIMEOUT = 60.0
"""Seconds within which memory and descriptors are as at the start again. The mesh returns memory to
the kernel every ten seconds."""
PROGRESS_INTERVAL = 5.0
MAX_MEMORY = 1500.0
"""MiB at which a process of the soak is killed: a finding, and the machine has other work."""
SWEEP_TIMEOUT = 15.0
START_TIMEOUT = 180.0


@attrs.define
class Findings:
    """The verdict, and the figures behind it."""

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = attrs.field(factory=Counter)
    calls: Counter[str] = attrs.field(factory=Counter)
    before: dict[str, Usage] = attrs.field(factory=dict)
    after: dict[str, Usage] = attrs.field(factory=dict)
    mesh_memory: list[float] = attrs.field(factory=list)
    """MiB of the mesh, every `PROGRESS_INTERVAL` seconds of faults."""
    census: list[dict[str, Any]] = attrs.field(factory=list)
    """Counts of the mesh's objects, every five minutes."""
    longest_standstill: float = 0.0
    standstills: list[dict[str, object]] = attrs.field(factory=list)
    """Those over MAX_STANDSTILL, the longest first."""
    lost: list[str] = attrs.field(factory=list)
    doubled: list[str] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)
    """What else may not be."""
    skipped: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.standstills)


class Soak:
    """One run in a folder."""

    def __init__(self, seconds: float, seed: int, folder: Path, faults: Sequence[Fault]) -> None:
        self._seconds = seconds
        self._seed = seed
        self._layout: Layout = prepare_files(folder)
        self._faults = [f for f in faults if not f.needs_root or os.geteuid() == 0]
        self._findings = Findings(seed, skipped=self._layout.skipped)
        self._callers = ClientRunner(self._layout, seed)
        self._running_faults: set[str] = set()
        self._log = folder / "log"
        self._standstills = folder / "standstills"
        self._census = folder / "census"
        self._begun = time.monotonic()

    async def run(self) -> Findings:
        """Run it all. Raises nothing for what is found: that is in the findings."""
        async with self._mesh() as world:
            async with self._callers.run_clients(), trio.open_nursery() as nursery:
                nursery.start_soon(self._progress, world)
                nursery.start_soon(self._guard_memory, world)
                nursery.start_soon(self._sample_stacks, world)
                await self._phases(world)
                nursery.cancel_scope.cancel()
            if world.process.poll() is None:
                await self._kill_mesh_and_warden(world)
            else:
                status = world.process.returncode
                self._findings.wrong.append(f"the mesh ended, with status {status}")
        if self._findings.after:
            await self._start_next_mesh()
        await self._check_leftovers(world)
        return self._evaluate()

    # -- the mesh ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _mesh(self) -> AsyncIterator[FaultContext]:
        """`serve` as a process for the block, once everything is ready."""
        arguments = ["serve", str(self._layout.config), "--runtime-dir", str(self._layout.run)]
        command = [sys.executable, "-m", "tests.soak.serve_monitored", str(self._layout.folder)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - waited for by pidfd or poll
                [*command, *arguments], stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )
        wrong = self._findings.wrong
        world = FaultContext(
            self._layout, Random(self._seed), process, self._begun, self._seed, wrong
        )
        try:
            if not await self._wait_until_ready(world, START_TIMEOUT):
                wrong.append("not everything got ready at the start")
            yield world
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    async def _wait_until_ready(self, world: FaultContext, timeout_seconds: float) -> bool:
        """Wait until every instance is ready; gives up if the mesh has ended."""
        late = ["no answer of the mesh"]
        with trio.move_on_after(timeout_seconds):
            while world.process.poll() is None:
                with contextlib.suppress(NoMeshError, purerpc.RpcFailedError, trio.TooSlowError):
                    found = await world.instances()
                    late = [f"{e.name}/{e.instance} {e.state}" for e in found if e.state != "ready"]
                    if found and not late:
                        return True
                await trio.sleep(0.2)
        world.log(f"not ready: {', '.join(late)}")
        return False

    # -- phases ----------------------------------------------------------------------------------

    async def _phases(self, world: FaultContext) -> None:
        await trio.sleep(QUIET_SECONDS)
        self._findings.before = await self._usage(world)
        world.log(f"faults for {self._seconds:.0f} s: {len(self._faults)} kinds")
        began = time.monotonic()
        await self._inject_faults(world, began + self._seconds)
        if world.process.poll() is not None:
            return
        world.log("no more faults; settling")
        world.continue_all()
        await world.call_control("Reload", control.ReloadRequest())
        if not await self._wait_until_ready(world, SETTLE_TIMEOUT):
            self._findings.wrong.append(f"not everything was ready within {SETTLE_TIMEOUT:g} s")
        self._findings.after = await self._usage_after_return(world)
        self._findings.seconds = time.monotonic() - began

    async def _usage_after_return(self, world: FaultContext) -> dict[str, Usage]:
        """Return what is used once it is as at the start, or at the end of `RETURN_TIMEOUT`."""
        deadline = trio.current_time() + RETURN_TIMEOUT
        while True:
            await trio.sleep(QUIET_SECONDS)
            after = await self._usage(world)
            grown = find_growth(self._findings.before, after)
            if not grown or trio.current_time() > deadline:
                return after

    async def _usage(self, world: FaultContext) -> dict[str, Usage]:
        try:
            return measure_all_usage(world.mesh_pid, await world.instances())
        except (NoMeshError, purerpc.RpcFailedError, trio.TooSlowError) as exc:
            self._findings.wrong.append(f"the mesh did not tell its instances: {exc}")
            return {}

    async def _inject_faults(self, world: FaultContext, end: float) -> None:
        """Draw faults until `end`; the n-th is the same for the same seed."""
        rng = Random(self._seed)
        drawing = _draw_faults(self._faults, rng)
        room = trio.CapacityLimiter(FAULTS_AT_ONCE)
        number = 0
        async with trio.open_nursery() as nursery:
            while time.monotonic() < end and world.process.poll() is None:
                drawn = next(drawing)
                pause = rng.uniform(*FAULT_INTERVAL)
                await room.acquire_on_behalf_of(number)
                mine = attrs.evolve(world, rng=Random(f"{self._seed}-{number}"))
                nursery.start_soon(self._run_fault, drawn, number, mine, room)
                number += 1
                await trio.sleep(pause)

    async def _run_fault(
        self, drawn: Fault, number: int, world: FaultContext, room: trio.CapacityLimiter
    ) -> None:
        label = f"#{number} class {drawn.issue_class}: {drawn.name}"
        self._findings.faults[drawn.name] += 1
        self._running_faults.add(label)
        world.log(label)
        try:
            with trio.fail_after(drawn.max_seconds):
                await drawn.run(world)
        except trio.TooSlowError:
            self._findings.wrong.append(f"{label} did not end within {drawn.max_seconds:g} s")
        except (NoMeshError, purerpc.RpcFailedError, OSError) as exc:
            self._findings.wrong.append(f"{label}: {exc}")
        finally:
            self._running_faults.discard(label)
            room.release_on_behalf_of(number)

    async def _guard_memory(self, world: FaultContext) -> None:
        while True:
            for pid in (world.mesh_pid, *world.plugin_pids()):
                used = measure_usage(pid)
                if used is not None and used.memory > MAX_MEMORY:
                    who = "the mesh" if pid == world.mesh_pid else f"plugin process {pid}"
                    labels = ", ".join(sorted(self._running_faults))
                    self._findings.wrong.append(f"{who} took {used.memory:.0f} MiB ({labels})")
                    world.send_signal(pid, signal.SIGKILL)
            await trio.sleep(0.5)

    async def _sample_stacks(self, world: FaultContext) -> None:
        sampler = StackSampler(self._standstills)
        while True:
            sampler.request_stack()
            await trio.sleep(0.03)

    async def _progress(self, world: FaultContext) -> None:
        while True:
            await trio.sleep(PROGRESS_INTERVAL)
            found = read_standstills(self._standstills)
            worst = found[0]["seconds"] if found else 0.0
            usage = measure_all_usage(world.mesh_pid, ()).get(MESH, Usage(0, 0))
            if self._running_faults:
                self._findings.mesh_memory.append(round(usage.memory))
            world.log(
                f"{self._callers.score.outcomes.total()} calls here, "
                f"{len(self._callers.score.lost)} lost; mesh {usage.memory:.0f} MiB, "
                f"{usage.descriptors} descriptors, longest standstill {worst:.2f} s; "
                f"under way: {', '.join(sorted(self._running_faults)) or 'nothing'}"
            )

    # -- the end ---------------------------------------------------------------------------------

    async def _kill_mesh_and_warden(self, world: FaultContext) -> None:
        """Neither can see to the plugins; those made with meshtrio see to themselves."""
        world.log("killing mesh and warden together")
        warden = world.warden_pid()
        for pid in (world.mesh_pid, warden):
            world.send_signal(pid, signal.SIGSTOP)
        for pid in (warden, world.mesh_pid):
            world.send_signal(pid, signal.SIGKILL)
        world.process.wait()

    async def _start_next_mesh(self) -> None:
        """A new mesh sweeps what an earlier one has left, and stops in good order."""
        async with self._mesh() as world:
            world.log("a new mesh has taken over; stopping it")
            world.process.send_signal(signal.SIGTERM)
            if not await world.wait_until(lambda: world.process.poll() is not None, 60):
                self._findings.wrong.append("the second mesh did not stop within 60 s")
        if world.process.returncode != 0:
            self._findings.wrong.append(f"the second mesh ended: {world.process.returncode}")

    async def _check_leftovers(self, world: FaultContext) -> None:
        """No process and no socket."""
        wrong = self._findings.wrong
        if not await world.wait_until(lambda: not world.plugin_pids(), SWEEP_TIMEOUT):
            for pid in world.plugin_pids():
                text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                wrong.append(f"process {pid} is left: {text.decode(errors='replace')[:100]}")
                world.send_signal(pid, signal.SIGKILL)
        if self._layout.run.exists():
            wrong += [f"{path} is left" for path in self._layout.run.rglob("*.sock")]

    def _evaluate(self) -> Findings:
        findings, score = self._findings, self._callers.score
        findings.calls = score.outcomes
        findings.lost += score.lost
        findings.wrong += [*score.wrong, *score.late, *self._callers.failed]
        if self._layout.executions_file.exists():
            executed = Counter(self._layout.executions_file.read_text().split())
            findings.doubled += [key for key, times in executed.items() if times > 1]
        found = read_standstills(self._standstills)
        findings.longest_standstill = float(str(found[0]["seconds"])) if found else 0.0
        findings.standstills = [e for e in found if float(str(e["seconds"])) > MAX_STANDSTILL]
        findings.census = read_census(self._census)
        if findings.after:
            findings.wrong += find_growth(findings.before, findings.after)
        findings.wrong += find_trend(findings.mesh_memory)
        findings.wrong += _tracebacks(self._log.read_text(errors="replace"))
        return findings


def _draw_faults(faults: Sequence[Fault], rng: Random) -> Iterator[Fault]:
    """Draw without end: each fault once, in any order, and by weight from there on."""
    yield from rng.sample(faults, len(faults))
    weights = [each.weight for each in faults]
    while True:
        yield from rng.choices(faults, weights)


_TRACEBACK = "Traceback (most recent call last)"
_OUR_FRAME = re.compile(r'File "[^"]*/meshtrio/(?!\.venv|tests|examples)')
_TRACEBACK_LINES = 40


def _tracebacks(log: str) -> list[str]:
    """Return tracebacks of meshtrio, in the mesh or in plugins, that no fault has asked for."""
    lines, found = log.splitlines(), []
    for number, line in enumerate(lines):
        if _TRACEBACK in line:
            text = "\n".join(lines[number : number + _TRACEBACK_LINES])
            if RAISED not in text and _OUR_FRAME.search(text):
                found.append(f"a traceback in the log: {text}")
    return found


def to_json(findings: Findings) -> dict[str, Any]:
    return {**attrs.asdict(findings), "good": findings.good}
