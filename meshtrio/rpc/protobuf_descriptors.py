"""Methods and services made from protobuf descriptors, without generated code."""

from __future__ import annotations

from typing import Any

import purerpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from meshtrio.rpc.method import Method
from meshtrio.rpc.purerpc_compat import Service


def method_from_descriptor(descriptor: MethodDescriptor) -> Method:
    """Make a method from its descriptor, with message classes of the descriptor's pool."""
    types = GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type)
    streams = descriptor.client_streaming, descriptor.server_streaming
    return Method(descriptor.containing_service.full_name, descriptor.name, *types, *streams)


def service_from_descriptor(descriptor: ServiceDescriptor, implementation: Any) -> purerpc.Service:
    """Make a purerpc service from its descriptor and an object with methods of the same names."""
    service = Service(descriptor.full_name)
    for method in descriptor.methods:
        cardinality = purerpc.Cardinality.get_cardinality_for(
            request_stream=method.client_streaming, response_stream=method.server_streaming
        )
        types = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        signature = purerpc.RPCSignature(cardinality, *types)
        service.add_method(method.name, getattr(implementation, method.name), signature)
    return service
