"""Class 5: attacks within every limit of a stream or a connection."""

from __future__ import annotations

from tests.soak.fault_context import FaultContext
from tests.soak.faults import register_fault


async def _attack(world: FaultContext, name: str, *, seconds: float = 3.0) -> None:
    """On the gateway, or on an instance of the plugin that the gateway would pass it on to."""
    target = str(world.layout.mesh_socket)
    if world.rng.random() < 0.5:
        victim = await world.pick_instance("echo")
        target = target if victim is None else victim.socket
    await world.run_attack(name, target, seconds)


@register_fault(5)
async def unfinished_messages(world: FaultContext) -> None:
    await _attack(world, "unfinished_messages")


@register_fault(5)
async def gzip_bombs(world: FaultContext) -> None:
    await _attack(world, "gzip_bombs")


@register_fault(5)
async def large_replies(world: FaultContext) -> None:
    await _attack(world, "large_replies")


@register_fault(5)
async def one_byte_data(world: FaultContext) -> None:
    await _attack(world, "one_byte_data")


@register_fault(5)
async def rapid_resets(world: FaultContext) -> None:
    await _attack(world, "rapid_resets")


@register_fault(5)
async def watches(world: FaultContext) -> None:
    await world.run_attack("watches", world.layout.mesh_socket, 5)


@register_fault(5)
async def dead_endpoints(world: FaultContext) -> None:
    await world.run_attack("dead_endpoints", world.layout.mesh_socket, 4)
