"""Builds descriptors from the files of an untrusted server.

protobuf builds the descriptors of a file in one go, holding the GIL, with the full name of each
declaration: 400 KB of nested messages with long names take 8 s and 1.8 GB. Files are therefore
measured in serialized form first (`meshtrio.util.protobuf_wire`), and limited by what protobuf
would make of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import attrs
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields
from meshtrio.util.worker_threads import GilYielder

MAX_FILES = 2000
"""Files of one server."""
_MAX_IMPORTS = 20_000
"""Import statements in all files of a server."""
MAX_FILE_SIZE = 512 * 1024
"""Bytes of one serialized file."""
MAX_TOTAL_SIZE = 8 * 1024 * 1024
"""Bytes of all serialized files of a server."""
MAX_DECLARATIONS_PER_FILE = 10_000
"""Declarations in one file: messages, fields, enums, values, services, methods and others."""
MAX_DECLARATIONS = 40_000
"""Declarations in all files of a server. Their descriptors take at most 32 MB."""
MAX_NAMES_SIZE_PER_FILE = 1024 * 1024
"""Bytes of the full names of all declarations in a file."""
_MAX_FIELDS_PER_FILE = 100_000
"""Fields of one serialized file, nested ones included."""
_MAX_DEPTH = 32
"""Nesting of declarations, and parts of a package name."""
_MAX_NAME_LENGTH = 1024
"""Bytes of one name."""


@attrs.frozen
class ReflectedTypes:
    """The types of a server."""

    pool: DescriptorPool
    """Descriptors of all files."""
    declaration_count: int
    """Number of declarations in the pool; see `MAX_DECLARATIONS`."""


class DescriptorPoolBuilder:
    """Collects the serialized files of one server, and builds them."""

    def __init__(self) -> None:
        self.missing_imports: set[str] = set()
        """Names of files that are imported and have not been added."""
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        self._total_size = self._declaration_count = self._import_count = 0

    def add(self, files: Iterable[bytes], pace: GilYielder) -> None:
        """Add the files that are new.

        Raises:
            MalformedProtobufError: A file is malformed, or a limit is exceeded.
        """
        for data in files:
            text = f"a file has more than {MAX_FILE_SIZE // 1024} KiB"
            check_max(len(data), MAX_FILE_SIZE, text)
            name, imports = _read_name_and_imports(data, pace)
            if name in self._files:
                continue
            self._total_size += len(data)
            self._import_count += len(imports)
            text = f"the files exceed {MAX_FILES:,} files or {MAX_TOTAL_SIZE // 1024 // 1024} MiB"
            check_max(len(self._files) + 1, MAX_FILES, text)
            check_max(self._total_size, MAX_TOTAL_SIZE, text)
            check_max(self._import_count, _MAX_IMPORTS, "files have more than {:,} imports")
            self._declaration_count += _count_declarations(data, pace)
            check_max(
                self._declaration_count, MAX_DECLARATIONS, "files have more than {:,} declarations"
            )
            self._files[name], self._imports[name] = data, imports
            self.missing_imports.discard(name)
            self.missing_imports.update(each for each in imports if each not in self._files)

    def build(self, pace: GilYielder) -> ReflectedTypes:
        """Build the descriptors of all files.

        Raises:
            MalformedProtobufError: protobuf rejects a file.
        """
        pool: Any = DescriptorPool()
        for name in sort_by_imports(self._imports):
            pace()
            try:
                pool.AddSerializedFile(self._files[name])
            except Exception as exc:
                raise MalformedProtobufError(str(exc)) from None
        return ReflectedTypes(pool, self._declaration_count)


_Schema = Mapping[int, Any]
"""A message type: the schemas of its message fields, by field number."""


_schemas: dict[str, dict[int, Any]] = {}


def build_schema(descriptor: Any) -> _Schema:
    """Collect the message fields of a type, which may contain itself."""
    if descriptor.full_name not in _schemas:
        schema = _schemas[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                schema[field.number] = build_schema(field.message_type)
    return _schemas[descriptor.full_name]


_FILE_SCHEMA = build_schema(FileDescriptorProto.DESCRIPTOR)
_DEPENDENCY_FIELD = FileDescriptorProto.DEPENDENCY_FIELD_NUMBER
_NAME_FIELD = FileDescriptorProto.NAME_FIELD_NUMBER
"""Field number of the name in a file, and in every kind of declaration."""
_PACKAGE_FIELD = FileDescriptorProto.PACKAGE_FIELD_NUMBER


def check_max(count: int, limit: int, text: str) -> None:
    if count > limit:
        raise MalformedProtobufError(text.format(limit))


def _read_name_and_imports(data: bytes, pace: GilYielder) -> tuple[str, list[str]]:
    """Read the name and imports of a serialized file.

    Raises:
        MalformedProtobufError: It is malformed.
    """
    name, imports = "", []
    for number, _, value, end in iter_fields(data):
        pace()
        if number == _NAME_FIELD and value >= 0:
            name = decode_name(data[value:end])
        elif number == _DEPENDENCY_FIELD and value >= 0:
            imports.append(decode_name(data[value:end]))
            check_max(len(imports), MAX_FILES, "a file imports more than {:,} others")
    return name, imports


def decode_name(data: bytes) -> str:
    """Decode a name.

    Raises:
        MalformedProtobufError: It is too long, or not UTF-8.
    """
    check_max(len(data), _MAX_NAME_LENGTH, "a name has more than {:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedProtobufError(f"a name is not UTF-8: {data[:100]!r}") from None


def _count_declarations(data: bytes, pace: GilYielder) -> int:
    """Count the declarations of a serialized file.

    Raises:
        MalformedProtobufError: It is malformed, or exceeds a limit.
    """
    found = names = seen = 0
    pending = [(_FILE_SCHEMA, 0, len(data), 0, 0)]
    while pending:
        kind, start, end, depth, prefix = pending.pop()
        name_field, name = _PACKAGE_FIELD if kind is _FILE_SCHEMA else _NAME_FIELD, 0
        inner: list[tuple[_Schema, int, int]] = []
        for number, _, value, stop in iter_fields(data, start, end):
            pace()
            seen += 1
            check_max(seen, _MAX_FIELDS_PER_FILE, "a file has more than {:,} fields")
            if value >= 0 and number == name_field:
                name = max(name, stop - value)
                if data.count(b".", value, stop) > _MAX_DEPTH and kind is _FILE_SCHEMA:
                    raise MalformedProtobufError(f"a package has more than {_MAX_DEPTH} parts")
            elif value >= 0 and number in kind:
                inner.append((kind[number], value, stop))
        found, names, prefix = found + len(inner), names + prefix + name, prefix + name + 1
        check_max(found, MAX_DECLARATIONS_PER_FILE, "a file has more than {:,} declarations")
        check_max(names, MAX_NAMES_SIZE_PER_FILE, "the names in a file have more than {:,} bytes")
        if inner and depth >= _MAX_DEPTH:
            raise MalformedProtobufError(f"declarations are nested deeper than {_MAX_DEPTH}")
        pending += [(of, begin, stop, depth + 1, prefix) for of, begin, stop in inner]
    return found


def build_pool(files: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    """Build a pool of files, given by name.

    Raises:
        MalformedProtobufError: An import is missing or circular.
        TypeError: Files contradict each other.
    """
    pool = DescriptorPool()
    for name in sort_by_imports({name: [*file.dependency] for name, file in files.items()}):
        pool.Add(files[name])
    return pool


def sort_by_imports(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Order files so that each follows the files that it imports.

    Raises:
        MalformedProtobufError: An import is missing or circular.
    """
    for name in itertools.chain.from_iterable(imports.values()):
        if name not in imports:
            raise MalformedProtobufError(f"imported file {name!r} is missing")
    try:
        return list(TopologicalSorter(imports).static_order())
    except CycleError as exc:
        name = exc.args[1][0]
        raise MalformedProtobufError(f"import cycle through {name!r}") from None
