"""The files that a server is described by, before and after protobuf makes descriptors of them.

protobuf builds the descriptors of a file in one go, holding the interpreter, with the full name of
each declaration in it: 400 KB of messages inside of messages with long names take 8 s and 1.8 GB.
So files of servers are measured as bytes first (`meshtrio.wire.protobuf`), and bounded by what
protobuf would make of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from meshtrio.threads import Pace
from meshtrio.wire.protobuf import MalformedError, fields

MAX_FILES = 2000
"""Files that describe a server."""
_MAX_IMPORTS = 20_000
MAX_FILE_SIZE = 512 * 1024
MAX_SIZE = 8 * 1024 * 1024
"""Bytes of all these files."""
MAX_DECLARATIONS_OF_FILE = 10_000
MAX_DECLARATIONS = 40_000
"""Messages, fields, enums, their values, services, methods and what else these files declare. What
protobuf makes of so many takes 32 MB at the most."""
MAX_NAMES_OF_FILE = 1024 * 1024
"""Bytes of the full names of what a file declares."""
_MAX_FIELDS_OF_FILE = 100_000
_MAX_DEPTH = 32
_MAX_NAME = 1024


@attrs.frozen
class Description:
    """Types that a server has described."""

    pool: DescriptorPool
    declarations: int
    """How much there is in it, see `MAX_DECLARATIONS`."""


class DescribedFiles:
    """The files of one server, not parsed."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        """Names of files that others import."""
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        self._size = self._declarations = self._count = 0

    def add(self, files: Iterable[bytes], pace: Pace) -> None:
        """Add those that are new. Raises MalformedError for what is too much, or no file."""
        for data in files:
            if len(data) > MAX_FILE_SIZE:
                raise MalformedError(f"a file has over {MAX_FILE_SIZE // 1024} KiB")
            name, imports = _name_and_imports(data, pace)
            if name in self._files:
                continue
            self._size += len(data)
            self._count += len(imports)
            if len(self._files) >= MAX_FILES or self._size > MAX_SIZE:
                text = (
                    f"there are over {MAX_FILES:,} files, or {MAX_SIZE // 1024 // 1024} MiB of them"
                )
                raise MalformedError(text)
            if self._count > _MAX_IMPORTS:
                raise MalformedError(f"files have over {_MAX_IMPORTS:,} imports")
            self._declarations += _declarations(data, pace)
            if self._declarations > MAX_DECLARATIONS:
                raise MalformedError(f"files declare over {MAX_DECLARATIONS:,} things")
            self._files[name], self._imports[name] = data, imports
            self.missing.discard(name)
            self.missing.update(each for each in imports if each not in self._files)

    def built(self, pace: Pace) -> Description:
        """Put the files together. Raises MalformedError for those that do not fit."""
        pool: Any = DescriptorPool()
        for name in imports_first(self._imports):
            pace()
            try:
                pool.AddSerializedFile(self._files[name])
            except Exception as exc:
                raise MalformedError(str(exc)) from None
        return Description(pool, self._declarations)


_Schema = Mapping[int, Any]
"""Of a kind of message: by number of a field that has messages, the schema of those."""


def _schema(kind: Descriptor, known: dict[str, dict[int, Any]]) -> _Schema:
    """The fields of a kind of message that have messages; kinds may contain themselves."""
    if kind.full_name not in known:
        schema = known[kind.full_name] = {}
        for field in kind.fields:
            if field.message_type is not None:
                schema[field.number] = _schema(field.message_type, known)
    return known[kind.full_name]


_FILE = _schema(FileDescriptorProto.DESCRIPTOR, {})
_IMPORT = FileDescriptorProto.DEPENDENCY_FIELD_NUMBER
_NAME = FileDescriptorProto.NAME_FIELD_NUMBER
"""Of files, and of all that is declared in them."""
_PACKAGE = FileDescriptorProto.PACKAGE_FIELD_NUMBER


def _name_and_imports(data: bytes, pace: Pace) -> tuple[str, list[str]]:
    """Of a file. Raises MalformedError for what is none."""
    name, imports = "", []
    for number, _, value, end in fields(data):
        pace()
        if number == _NAME and value >= 0:
            name = decoded(data[value:end])
        elif number == _IMPORT and value >= 0:
            imports.append(decoded(data[value:end]))
            if len(imports) > MAX_FILES:
                raise MalformedError(f"a file imports over {MAX_FILES:,} others")
    return name, imports


def decoded(data: bytes) -> str:
    if len(data) > _MAX_NAME:
        raise MalformedError(f"a name has over {_MAX_NAME:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedError(f"a name is not UTF-8: {data[:100]!r}") from None


def _declarations(data: bytes, pace: Pace) -> int:
    """Count what a file declares. Raises MalformedError for more than is taken, or no file."""
    found = names = seen = 0
    pending = [(_FILE, 0, len(data), 0, 0)]
    while pending:
        kind, start, end, depth, prefix = pending.pop()
        name_field, name = _PACKAGE if kind is _FILE else _NAME, 0
        inner: list[tuple[_Schema, int, int]] = []
        for number, _, value, stop in fields(data, start, end):
            pace()
            seen += 1
            if seen > _MAX_FIELDS_OF_FILE:
                raise MalformedError(f"a file has over {_MAX_FIELDS_OF_FILE:,} fields")
            if value >= 0 and number == name_field:
                name = max(name, stop - value)
                if data.count(b".", value, stop) > _MAX_DEPTH and kind is _FILE:
                    raise MalformedError(f"a package has over {_MAX_DEPTH} parts")
            elif value >= 0 and number in kind:
                inner.append((kind[number], value, stop))
        found, names, prefix = found + len(inner), names + prefix + name, prefix + name + 1
        if found > MAX_DECLARATIONS_OF_FILE:
            raise MalformedError(f"a file declares over {MAX_DECLARATIONS_OF_FILE:,} things")
        if names > MAX_NAMES_OF_FILE:
            raise MalformedError(f"the names in a file have over {MAX_NAMES_OF_FILE:,} bytes")
        if inner and depth >= _MAX_DEPTH:
            raise MalformedError(f"declarations are nested deeper than {_MAX_DEPTH}")
        pending += [(of, begin, stop, depth + 1, prefix) for of, begin, stop in inner]
    return found


def build_pool(files: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    """Put files together, each by its name, into a pool of their own.

    Raises MalformedError for an import that is not among them, for imports in a circle, and
    TypeError for files that contradict each other.
    """
    pool = DescriptorPool()
    for name in imports_first({name: [*file.dependency] for name, file in files.items()}):
        pool.Add(files[name])
    return pool


def imports_first(imports: Mapping[str, Iterable[str]]) -> list[str]:
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
                raise MalformedError(f"{name!r} is imported, and is not there")
            if name in begun:
                ordered.setdefault(pending.pop())
                continue
            begun[name] = None
            for each in imports[name]:
                if each in begun and each not in ordered:
                    raise MalformedError(f"{each!r} imports itself, by way of others")
                if each not in ordered:
                    pending.append(each)
    return list(ordered)
