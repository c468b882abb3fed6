"""Names in generated Python code: modules of proto files, classes of messages, methods."""

from __future__ import annotations

import keyword
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import attrs
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

_RESERVED = frozenset({"service"})
"""Attributes of servicers and stubs other than their methods."""


def generated_file_name(proto: str) -> str:
    """Return the name of the generated file of a proto file."""
    return _strip_extension(proto).replace(".", "/") + "_grpc.py"


def _strip_extension(proto: str) -> str:
    return proto.removesuffix(".protodevel").removesuffix(".proto").replace("-", "_")


def pb2_module_name(proto: str) -> str:
    """Return the module that protoc generates from a proto file: "echo.v1.echo_pb2"."""
    return _strip_extension(proto).replace("/", ".") + "_pb2"


def is_importable(module: str) -> bool:
    """Whether an import statement can name a module."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in module.split("."))


def python_method_names(methods: Sequence[str]) -> dict[str, str]:
    """Map the methods of one service to their names in Python.

    Keywords and reserved attributes get a trailing underscore. Names that start with two
    underscores, which Python mangles or uses in classes, get the prefix `rpc`.
    """
    taken = set(methods)
    python_names = {}
    for name in methods:
        python_name = f"rpc{name}" if name.startswith("__") else name
        if keyword.iskeyword(python_name) or python_name in _RESERVED:
            python_name += "_"
        if python_name != name:
            python_name = make_unique(python_name, taken)
        taken.add(python_name)
        python_names[name] = python_name
    return python_names


def module_alias(module: str) -> str:
    """Return the alias of a module in generated code: "echo_v1_echo__pb2".

    It never starts with underscores: Python mangles such names in the body of a class.
    """
    alias = re.sub(r"\W", "_", module.replace("_", "__"))
    return alias if alias[0].isalpha() else f"m{alias}"


def make_unique(name: str, taken: Container[str]) -> str:
    """Return a name with the trailing underscores needed to differ from others."""
    while name in taken:
        name += "_"
    return name


@attrs.frozen
class MessageClass:
    """The class of a message: its module, and the names of it and the classes it is nested in."""

    module: str
    names: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether attribute access with all of its names is valid code."""
        return is_importable(self.module) and not any(map(_needs_getattr, self.names))

    def expression(self, alias: str) -> str:
        """Return an expression for the class, given the module's alias."""
        code = alias
        for name in self.names:
            code = f'getattr({code}, "{name}")' if _needs_getattr(name) else f"{code}.{name}"
        return code


MessageClasses = Mapping[str, MessageClass]
"""Classes by the full names of messages, with a leading dot as in descriptors."""


def _needs_getattr(name: str) -> bool:
    """Whether `x.name` does not refer to the attribute in the body of a class."""
    return keyword.iskeyword(name) or name.startswith("__")


def find_message_classes(files: Iterable[FileDescriptorProto]) -> MessageClasses:
    """Return the classes of the messages of all files."""
    return {
        ".".join([f".{file.package}" if file.package else "", *names]): MessageClass(
            pb2_module_name(file.name), names
        )
        for file in files
        for names in _iter_nested_names(file.message_type, ())
    }


def _iter_nested_names(
    messages: Iterable[DescriptorProto], prefix: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    for message in messages:
        names = (*prefix, message.name)
        yield names
        yield from _iter_nested_names(message.nested_type, names)
