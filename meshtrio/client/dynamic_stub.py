"""A stub from a descriptor, where no code was generated for it."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from meshtrio.client.calls import stub_method
from meshtrio.client.picker import Picker
from meshtrio.rpc.dynamic import method_of


class DynamicStub:
    """A stub for a service of which only the descriptor is known."""

    def __init__(self, picker: Picker, descriptor: ServiceDescriptor) -> None:
        # Methods may have any name, also one that cannot be set: `__class__`.
        vars(self).update(
            (each.name, stub_method(picker, method_of(each))) for each in descriptor.methods
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name!r}")
