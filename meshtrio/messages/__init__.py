"""Protobuf messages of the services that meshtrio itself speaks, in a pool of their own.

`from meshtrio.messages import health` loads a descriptor and returns a module of all that its proto
file declares: message classes, the values of enums outside of them, and its `DESCRIPTOR`. Classes
are made when they are first used. A plugin thus pays for what it uses. protos/generate.py makes the
descriptors and the modules' types.

A user's process may import other packages that define `grpc.health.v1` or its like, and two files
that define the same names in one pool raise TypeError; so nothing here touches the default pool.
"""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from meshtrio.util.protobuf_wire import iter_fields

_DEPENDENCY_FIELD = 3
"""Number of FileDescriptorProto's field with the names of the files that it imports."""
_pool = DescriptorPool()


def __getattr__(name: str) -> ModuleType:
    descriptor = _load_file(name)
    module = ModuleType(f"{__name__}.{name}")
    vars(module).update(DESCRIPTOR=descriptor, __getattr__=partial(_make_class, module))
    for enum in descriptor.enum_types_by_name.values():
        vars(module).update({value.name: value.number for value in enum.values})
    # Only now that it is complete: other threads may need it, too, and there is no import lock.
    globals()[name] = module
    return module


def _load_file(name: str) -> FileDescriptor:
    """Add a descriptor to the pool, after those that it depends on. Raises AttributeError."""
    # As pkgutil.get_data does, whose import takes as long as that of this package.
    assert __spec__ is not None
    loader: Any = __spec__.loader
    try:
        data = loader.get_data(os.path.join(os.path.dirname(__file__), f"{name}.binpb"))
    except OSError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    for number, _, start, end in iter_fields(data):
        if number == _DEPENDENCY_FIELD:
            package, _, needed = data[start:end].decode().removesuffix(".proto").rpartition("/")
            if package == "google/protobuf":
                file = import_module(f"google.protobuf.{needed}_pb2").DESCRIPTOR
                _pool.AddSerializedFile(file.serialized_pb)
            else:
                _load_file(needed)
    return _pool.AddSerializedFile(data)  # The one that is there if this is not the first time.


def _make_class(module: ModuleType, name: str) -> type[Message]:
    """Make the class of a message, as the `__getattr__` of a module."""
    kind = module.DESCRIPTOR.message_types_by_name.get(name)
    if kind is None:
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
    made = GetMessageClass(kind)
    setattr(module, name, made)
    return made
