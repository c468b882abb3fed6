"""A stub from a descriptor, where no code was generated for it."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from meshtrio.client.call_destination import CallDestination
from meshtrio.client.multicallable import make_multicallable
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor


class DynamicStub:
    """A stub for a service of which only the descriptor is known."""

    def __init__(self, channel: CallDestination, descriptor: ServiceDescriptor) -> None:
        # Methods may have any name, also one that cannot be set: `__class__`.
        vars(self).update(
            (each.name, make_multicallable(channel, method_from_descriptor(each)))
            for each in descriptor.methods
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name!r}")
