"""The mesh's own messages, in a descriptor pool of their own.

A user's process may import other packages that define `grpc.health.v1` or its like, and two files
that define the same names in one pool raise TypeError; so nothing here touches the default pool.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def _load() -> DescriptorPool:
    pool = DescriptorPool()
    data = files("meshtrio.messages").joinpath("descriptors.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _load()


def declare(namespace: dict[str, Any], file_name: str) -> None:
    """Put a proto file's message classes into a module's namespace, and its `DESCRIPTOR`."""
    descriptor = _pool.FindFileByName(file_name)
    namespace["DESCRIPTOR"] = descriptor
    for name, message in descriptor.message_types_by_name.items():
        namespace[name] = GetMessageClass(message)
