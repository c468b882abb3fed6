"""What protoc's Python calls things: modules of proto files, classes of messages."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator

import attrs
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto


def generated_name(proto: str) -> str:
    """The file that the services of a proto file go to."""
    return _stem(proto) + "_grpc.py"


def _stem(proto: str) -> str:
    return proto.removesuffix(".proto").replace("-", "_")


def module_of(proto: str) -> str:
    """The module that protoc makes of a proto file: "echo.v1.echo_pb2"."""
    return _stem(proto).replace("/", ".") + "_pb2"


def python_name(name: str) -> str:
    """A name that can stand in Python's code."""
    return f"{name}_" if keyword.iskeyword(name) else name


@attrs.frozen
class MessageClass:
    """Where the class of a message is: a module, and the names that lead to it there."""

    module: str
    names: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether all of its names can be written as they are."""
        names = (*self.module.split("."), *self.names)
        return not any(keyword.iskeyword(name) for name in names)

    def expression(self, alias: str) -> str:
        """Code for the class, below the module's alias."""
        code = alias
        for name in self.names:
            code = f'getattr({code}, "{name}")' if keyword.iskeyword(name) else f"{code}.{name}"
        return code


class Types:
    """The messages of all files that protoc has read, whichever file imports or re-exports them."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._classes: dict[str, MessageClass] = {}
        for file in files:
            prefix = f".{file.package}" if file.package else ""
            for names in _nested(file.message_type, ()):
                full_name = ".".join([prefix, *names])
                self._classes[full_name] = MessageClass(module_of(file.name), names)

    def find(self, full_name: str) -> MessageClass:
        """By its full name with a dot in front, as descriptors have it."""
        return self._classes[full_name]


def _nested(
    messages: Iterable[DescriptorProto], above: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    for message in messages:
        names = (*above, message.name)
        yield names
        yield from _nested(message.nested_type, names)
