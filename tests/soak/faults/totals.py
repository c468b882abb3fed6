"""Class 5: attacks within every limit of a stream or a connection."""

from __future__ import annotations

from tests.soak.faults import fault
from tests.soak.world import World


async def _attack(world: World, name: str, *, seconds: float = 3.0) -> None:
    """On the gateway, or on an instance of the plugin that the gateway would pass it on to."""
    target = str(world.layout.mesh_socket)
    if world.rng.random() < 0.5:
        victim = await world.one("echo")
        target = target if victim is None else victim.socket
    await world.attack(name, target, seconds)


@fault(5)
async def unfinished_messages(world: World) -> None:
    await _attack(world, "unfinished_messages")


@fault(5)
async def gzip_bombs(world: World) -> None:
    await _attack(world, "gzip_bombs")


@fault(5)
async def large_replies(world: World) -> None:
    await _attack(world, "large_replies")


@fault(5)
async def one_byte_data(world: World) -> None:
    await _attack(world, "one_byte_data")


@fault(5)
async def rapid_resets(world: World) -> None:
    await _attack(world, "rapid_resets")


@fault(5)
async def watches(world: World) -> None:
    await world.attack("watches", world.layout.mesh_socket, 5)


@fault(5)
async def dead_endpoints(world: World) -> None:
    await world.attack("dead_endpoints", world.layout.mesh_socket, 4)
