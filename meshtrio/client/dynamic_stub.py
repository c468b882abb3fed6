"""A stub made from a descriptor, without generated code."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from meshtrio.client.call_destination import CallDestination
from meshtrio.client.multicallable import make_multicallable
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor


class DynamicStub:
    """A stub with the methods of a service descriptor."""

    def __init__(self, channel: CallDestination, descriptor: ServiceDescriptor) -> None:
        # A method may have a name that `setattr` refuses, such as `__class__`.
        vars(self).update(
            (each.name, make_multicallable(channel, method_from_descriptor(each)))
            for each in descriptor.methods
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name!r}")
