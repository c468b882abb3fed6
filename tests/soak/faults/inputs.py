"""Class 1: what the machine and plugins tell."""

from __future__ import annotations

import urllib.request
from collections import Counter
from http.client import HTTPException

import trio
from prometheus_client.parser import text_string_to_metric_families

from meshtrio.messages import reflection_v1
from tests.attacks.control import call_method_repeatedly
from tests.soak.fault_context import PYTHON_PLUGINS, FaultContext
from tests.soak.faults import register_fault

_REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@register_fault(1)
async def odd_names(world: FaultContext) -> None:
    """A plugin has children whose names in /proc are not UTF-8."""
    await world.request_misbehavior(world.rng.choice(PYTHON_PLUGINS), "name_child", 3)
    await trio.sleep(3)


@register_fault(1, weight=2)
async def hostile_reflection(world: FaultContext) -> None:
    """A plugin answers reflection with what is cyclic, not UTF-8, huge, claimed, or an error."""
    kinds = ("cyclic", "not-utf8", "huge", "garbage", "many", "claiming", "error")
    with world.set_response_mode("reflection", world.rng.choice(kinds)):
        # Asked when there are new endpoints.
        await world.request_misbehavior("noisy", "exit", 0)
        await trio.sleep(1.5)
        request = reflection_v1.ServerReflectionRequest(list_services="").SerializeToString()
        await call_method_repeatedly(str(world.layout.mesh_socket), _REFLECTION, request, 2)
    await world.request_misbehavior("noisy", "exit", 0)


@register_fault(1)
async def hostile_metrics(world: FaultContext) -> None:
    """A plugin's metrics clash, have reserved labels, and are no numbers."""
    with world.set_response_mode("metrics", "hostile"):
        await _scrape(world)


@register_fault(1)
async def raising_subscriber(world: FaultContext) -> None:
    """A subscriber of lifecycle events raises for each."""
    path = world.layout.folder / "raise"
    path.touch()
    await world.request_misbehavior("stream", "exit", 0)
    await trio.sleep(2)
    path.unlink(missing_ok=True)


@register_fault(2)
async def many_families(world: FaultContext) -> None:
    """A plugin has 9,000 families of metrics when it is scraped."""
    with world.set_response_mode("metrics", "many"):
        for _ in range(2):
            await _scrape(world)


async def _scrape(world: FaultContext) -> None:
    """Scrape the mesh, which has to work whatever a plugin reports."""
    url = f"http://{world.layout.metrics}/metrics"
    try:
        problem = await trio.to_thread.run_sync(_problem_of_scrape, url)
    except (OSError, HTTPException, ValueError) as exc:
        problem = repr(exc)
    if problem:
        world.violations.append(f"a scrape failed: {problem}")


def _problem_of_scrape(url: str) -> str:
    """Scrape as Prometheus does, which refuses all of it for a series that is there twice."""
    with urllib.request.urlopen(url, timeout=120) as answer:
        text = answer.read().decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    series = Counter((s.name, *sorted(s.labels.items())) for s in samples)
    twice = [each for each, times in series.items() if times > 1]
    if twice:
        return f"{twice[0]} is there twice"
    return "" if ("mesh_uptime_seconds",) in series else "there is nothing of the mesh"
