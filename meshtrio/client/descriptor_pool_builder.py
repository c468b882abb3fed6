"""The files that a server is described by, before and after protobuf makes descriptors of them.

protobuf builds the descriptors of a file in one go, holding the interpreter, with the full name of
each declaration in it: 400 KB of messages inside of messages with long names take 8 s and 1.8 GB.
So files of servers are measured as bytes first (`meshtrio.util.protobuf_wire`), and bounded by what
protobuf would make of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields
from meshtrio.util.worker_threads import GilYielder

MAX_FILES = 2000
"""Files that describe a server."""
_MAX_IMPORTS = 20_000
MAX_FILE_SIZE = 512 * 1024
MAX_TOTAL_SIZE = 8 * 1024 * 1024
"""Bytes of all these files."""
MAX_DECLARATIONS_PER_FILE = 10_000
MAX_DECLARATIONS = 40_000
"""Messages, fields, enums, their values, services, methods and what else these files declare. What
protobuf makes of so many takes 32 MB at the most."""
MAX_NAMES_SIZE_PER_FILE = 1024 * 1024
"""Bytes of the full names of what a file declares."""
_MAX_FIELDS_PER_FILE = 100_000
_MAX_DEPTH = 32
_MAX_NAME_LENGTH = 1024


@attrs.frozen
class ReflectedTypes:
    """Types that a server has described."""

    pool: DescriptorPool
    declaration_count: int
    """How much there is in it, see `MAX_DECLARATIONS`."""


class DescriptorPoolBuilder:
    """The files of one server, not parsed."""

    def __init__(self) -> None:
        self.missing_imports: set[str] = set()
        """Names of files that others import."""
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        self._total_size = self._declaration_count = self._import_count = 0

    def add(self, files: Iterable[bytes], pace: GilYielder) -> None:
        """Add those that are new. Raises MalformedError for what is too much, or no file."""
        for data in files:
            if len(data) > MAX_FILE_SIZE:
                raise MalformedProtobufError(f"a file has over {MAX_FILE_SIZE // 1024} KiB")
            name, imports = _read_name_and_imports(data, pace)
            if name in self._files:
                continue
            self._total_size += len(data)
            self._import_count += len(imports)
            if len(self._files) >= MAX_FILES or self._total_size > MAX_TOTAL_SIZE:
                text = (
                    f"there are over {MAX_FILES:,} files, or "
                    f"{MAX_TOTAL_SIZE // 1024 // 1024} MiB of them"
                )
                raise MalformedProtobufError(text)
            if self._import_count > _MAX_IMPORTS:
                raise MalformedProtobufError(f"files have over {_MAX_IMPORTS:,} imports")
            self._declaration_count += _count_declarations(data, pace)
            if self._declaration_count > MAX_DECLARATIONS:
                raise MalformedProtobufError(f"files declare over {MAX_DECLARATIONS:,} things")
            self._files[name], self._imports[name] = data, imports
            self.missing_imports.discard(name)
            self.missing_imports.update(each for each in imports if each not in self._files)

    def build(self, pace: GilYielder) -> ReflectedTypes:
        """Put the files together. Raises MalformedError for those that do not fit."""
        pool: Any = DescriptorPool()
        for name in sort_by_imports(self._imports):
            pace()
            try:
                pool.AddSerializedFile(self._files[name])
            except Exception as exc:
                raise MalformedProtobufError(str(exc)) from None
        return ReflectedTypes(pool, self._declaration_count)


_Schema = Mapping[int, Any]
"""Of a kind of message: by number of a field that has messages, the schema of those."""


def _build_schema(descriptor: Descriptor, cache: dict[str, dict[int, Any]]) -> _Schema:
    """The fields of a kind of message that have messages; kinds may contain themselves."""
    if descriptor.full_name not in cache:
        schema = cache[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                schema[field.number] = _build_schema(field.message_type, cache)
    return cache[descriptor.full_name]


_FILE_SCHEMA = _build_schema(FileDescriptorProto.DESCRIPTOR, {})
_DEPENDENCY_FIELD = FileDescriptorProto.DEPENDENCY_FIELD_NUMBER
_NAME_FIELD = FileDescriptorProto.NAME_FIELD_NUMBER
"""Of files, and of all that is declared in them."""
_PACKAGE_FIELD = FileDescriptorProto.PACKAGE_FIELD_NUMBER


def _read_name_and_imports(data: bytes, pace: GilYielder) -> tuple[str, list[str]]:
    """Of a file. Raises MalformedError for what is none."""
    name, imports = "", []
    for number, _, value, end in iter_fields(data):
        pace()
        if number == _NAME_FIELD and value >= 0:
            name = decode_name(data[value:end])
        elif number == _DEPENDENCY_FIELD and value >= 0:
            imports.append(decode_name(data[value:end]))
            if len(imports) > MAX_FILES:
                raise MalformedProtobufError(f"a file imports over {MAX_FILES:,} others")
    return name, imports


def decode_name(data: bytes) -> str:
    if len(data) > _MAX_NAME_LENGTH:
        raise MalformedProtobufError(f"a name has over {_MAX_NAME_LENGTH:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedProtobufError(f"a name is not UTF-8: {data[:100]!r}") from None


def _count_declarations(data: bytes, pace: GilYielder) -> int:
    """Count what a file declares. Raises MalformedError for more than is taken, or no file."""
    found = names = seen = 0
    pending = [(_FILE_SCHEMA, 0, len(data), 0, 0)]
    while pending:
        kind, start, end, depth, prefix = pending.pop()
        name_field, name = _PACKAGE_FIELD if kind is _FILE_SCHEMA else _NAME_FIELD, 0
        inner: list[tuple[_Schema, int, int]] = []
        for number, _, value, stop in iter_fields(data, start, end):
            pace()
            seen += 1
            if seen > _MAX_FIELDS_PER_FILE:
                raise MalformedProtobufError(f"a file has over {_MAX_FIELDS_PER_FILE:,} fields")
            if value >= 0 and number == name_field:
                name = max(name, stop - value)
                if data.count(b".", value, stop) > _MAX_DEPTH and kind is _FILE_SCHEMA:
                    raise MalformedProtobufError(f"a package has over {_MAX_DEPTH} parts")
            elif value >= 0 and number in kind:
                inner.append((kind[number], value, stop))
        found, names, prefix = found + len(inner), names + prefix + name, prefix + name + 1
        if found > MAX_DECLARATIONS_PER_FILE:
            raise MalformedProtobufError(
                f"a file declares over {MAX_DECLARATIONS_PER_FILE:,} things"
            )
        if names > MAX_NAMES_SIZE_PER_FILE:
            raise MalformedProtobufError(
                f"the names in a file have over {MAX_NAMES_SIZE_PER_FILE:,} bytes"
            )
        if inner and depth >= _MAX_DEPTH:
            raise MalformedProtobufError(f"declarations are nested deeper than {_MAX_DEPTH}")
        pending += [(of, begin, stop, depth + 1, prefix) for of, begin, stop in inner]
    return found


def build_pool(files: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    """Put files together, each by its name, into a pool of their own.

    Raises MalformedError for an import that is not among them, for imports in a circle, and
    TypeError for files that contradict each other.
    """
    pool = DescriptorPool()
    for name in sort_by_imports({name: [*file.dependency] for name, file in files.items()}):
        pool.Add(files[name])
    return pool


def sort_by_imports(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Order files so that each comes after those that it imports.

    Raises MalformedError for an import that is not among them, and for imports in a circle.
    """
    ordered: dict[str, None] = {}
    begun: dict[str, None] = {}
    for start in imports:
        pending = [start]
        while pending:
            name = pending[-1]
            if name not in imports:
                raise MalformedProtobufError(f"{name!r} is imported, and is not there")
            if name in begun:
                ordered.setdefault(pending.pop())
                continue
            begun[name] = None
            for each in imports[name]:
                if each in begun and each not in ordered:
                    raise MalformedProtobufError(f"{each!r} imports itself, by way of others")
                if each not in ordered:
                    pending.append(each)
    return list(ordered)
