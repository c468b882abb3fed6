"""The mesh's own messages, in a descriptor pool of their own.

A user's process may import other packages that define `grpc.health.v1` or its like, and two files
that define the same names in one pool raise TypeError; so nothing here touches the default pool.
Each file's descriptor is loaded with its module, so that a plugin pays for what it uses.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_pool = DescriptorPool()


def declare(namespace: dict[str, Any], *needs: str) -> None:
    """Put what a proto file has into its module's namespace: message classes, the values of enums
    outside of them, and its `DESCRIPTOR`.

    `needs`: modules of the files that it imports, which have to be in the pool before it; those
    whose names end in _pb2 are protobuf's own.
    """
    package, _, module = namespace["__name__"].rpartition(".")
    for needed in needs:
        if needed.endswith("_pb2"):
            file = import_module(f"google.protobuf.{needed}").DESCRIPTOR
            _pool.AddSerializedFile(file.serialized_pb)
        else:
            import_module(f"{package}.{needed}")
    data = pkgutil.get_data(package, f"{module}.binpb")
    assert data is not None
    descriptor = _pool.AddSerializedFile(data)
    namespace["DESCRIPTOR"] = descriptor
    for name, message in descriptor.message_types_by_name.items():
        namespace[name] = GetMessageClass(message)
    for enum in descriptor.enum_types_by_name.values():
        namespace.update({value.name: value.number for value in enum.values})
