"""What protoc's Python calls things: modules of proto files, classes of messages."""

from __future__ import annotations

import keyword
import re
from collections.abc import Container, Iterable, Iterator, Sequence

import attrs
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

_RESERVED = frozenset({"service", "_client"})
"""Attributes that a servicer and a stub have in addition to their methods."""


def generated_file_name(proto: str) -> str:
    """The file that the services of a proto file go to."""
    return _strip_extension(proto).replace(".", "/") + "_grpc.py"


def _strip_extension(proto: str) -> str:
    return proto.removesuffix(".protodevel").removesuffix(".proto").replace("-", "_")


def pb2_module_name(proto: str) -> str:
    """The module that protoc makes of a proto file: "echo.v1.echo_pb2"."""
    return _strip_extension(proto).replace("/", ".") + "_pb2"


def is_importable(module: str) -> bool:
    """Whether an import statement can name a module."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in module.split("."))


def python_method_names(methods: Sequence[str]) -> dict[str, str]:
    """Map the methods of one service to their names in Python.

    Keywords, and names that every servicer or stub uses itself, get an underscore at the end. What
    begins with two underscores, which Python changes or uses in classes, gets `rpc` in front.
    """
    taken = set(methods)
    found = {}
    for name in methods:
        made = f"rpc{name}" if name.startswith("__") else name
        if keyword.iskeyword(made) or made in _RESERVED:
            made += "_"
        while made != name and made in taken:
            made += "_"
        taken.add(made)
        found[name] = made
    return found


def module_alias(module: str) -> str:
    """A name for a module in generated code: "echo_v1_echo__pb2".

    One that begins with two underscores would be changed in the body of a class.
    """
    alias = re.sub(r"\W", "_", module.replace("_", "__"))
    return alias if alias[0].isalpha() else f"m{alias}"


def make_unique(name: str, taken: Container[str]) -> str:
    """A name with as many underscores at the end as it takes to differ from others."""
    while name in taken:
        name += "_"
    return name


@attrs.frozen
class MessageClass:
    """Where the class of a message is: a module, and the names that lead to it there."""

    module: str
    names: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether all of its names can be written as they are."""
        return is_importable(self.module) and not any(map(_needs_getattr, self.names))

    def expression(self, alias: str) -> str:
        """Code for the class, below the module's alias."""
        code = alias
        for name in self.names:
            code = f'getattr({code}, "{name}")' if _needs_getattr(name) else f"{code}.{name}"
        return code


def _needs_getattr(name: str) -> bool:
    """Whether `x.name` does not give this attribute in the body of a class."""
    return keyword.iskeyword(name) or name.startswith("__")


class MessageTypes:
    """The messages of all files that protoc has read, whichever file imports or re-exports them."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._classes: dict[str, MessageClass] = {}
        for file in files:
            prefix = f".{file.package}" if file.package else ""
            for names in _iter_nested_names(file.message_type, ()):
                full_name = ".".join([prefix, *names])
                self._classes[full_name] = MessageClass(pb2_module_name(file.name), names)

    def find(self, full_name: str) -> MessageClass:
        """By its full name with a dot in front, as descriptors have it."""
        return self._classes[full_name]


def _iter_nested_names(
    messages: Iterable[DescriptorProto], prefix: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    for message in messages:
        names = (*prefix, message.name)
        yield names
        yield from _iter_nested_names(message.nested_type, names)
