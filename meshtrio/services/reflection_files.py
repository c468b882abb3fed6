"""Merges the files of several descriptor pools into those of one reflection server.

Two plugins may each have a different `common.proto`. Clients of reflection keep files by name, so
each must have a name of its own: the first keeps it, and others are prefixed with their service
("plugin.b/common.proto"), also where they are imported. Files with equal declarations count as one,
whatever language their descriptors come from.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import methodcaller
from typing import Any

import attrs
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

_WELL_KNOWN_PREFIX = "google/protobuf/"
"""Files that all pools share, perhaps from different releases of protobuf."""
_LANGUAGE_OPTIONS = re.compile("(cc|csharp|go|java|objc|php|py|ruby|swift)_|optimize_for")
"""File options that affect generated code only, not the wire format."""


@attrs.frozen(eq=False)
class ReflectionSource:
    """The services and types of one server."""

    label: str
    """The service of the mesh, which is the prefix of conflicting file names."""
    services: frozenset[str]
    pool: DescriptorPool | None = None
    """The pool of their types; None if the server does not describe them."""


class ReflectionFiles:
    """Finds files by name or declaration, in the order of the sources."""

    def __init__(self, sources: Sequence[ReflectionSource]) -> None:
        self._sources = [each for each in sources if each.pool is not None]
        self._digests: dict[tuple[DescriptorPool, str], bytes] = {}
        self._names: dict[tuple[DescriptorPool, str], str] = {}

    # -- queries: each raises KeyError if nothing is found ------------------------------------

    def find_by_name(self, name: str) -> list[bytes]:
        """Return the file with a name, after renaming, and its imports."""
        found = list(_find_in(self._sources, methodcaller("FindFileByName", name)))
        for each in self._sources:
            inner = name.removeprefix(f"{each.label}/")
            found += _find_in([each], methodcaller("FindFileByName", inner))
        named = [file for file in found if self._get_name(file) == name]
        return self._serialize_with_imports(_get_first(named, name))

    def find_containing_symbol(self, symbol: str) -> list[bytes]:
        """Return the file that declares a symbol, and its imports.

        A service is searched first in sources that serve it: others may have an older file.
        """
        names = {symbol, symbol.rpartition(".")[0]}
        serving = [each for each in self._sources if names & each.services]
        others = [each for each in self._sources if not names & each.services]
        found = _find_in(serving + others, partial(_find_file_by_symbol, symbol=symbol))
        return self._serialize_with_imports(_get_first(found, symbol))

    def find_containing_extension(self, message: str, number: int) -> list[bytes]:
        """Return the file that declares an extension of a message, and its imports."""
        found = _find_in(
            self._sources,
            lambda pool: pool.FindExtensionByNumber(pool.FindMessageTypeByName(message), number),
        )
        extension = _get_first(found, f"extension {number} of {message}")
        return self._serialize_with_imports(extension.file)

    def find_extension_numbers(self, message: str) -> list[int]:
        """Return the numbers of all extensions of a message in any source."""
        found = _find_in(
            self._sources, lambda pool: pool.FindAllExtensions(pool.FindMessageTypeByName(message))
        )
        first = _get_first(found, message)
        return sorted({each.number for each in itertools.chain(first, *found)})

    # -- names -------------------------------------------------------------------------------

    def _serialize_with_imports(self, file: FileDescriptor) -> list[bytes]:
        """Serialize a file with its imports, which saves the client requests for them."""
        return [self._serialize_renamed(each) for each in reversed(_sort_by_imports(file))]

    def _serialize_renamed(self, file: FileDescriptor) -> bytes:
        names = {each.name: self._get_name(each) for each in (file, *file.dependencies)}
        data: bytes = file.serialized_pb
        if all(before == after for before, after in names.items()):
            return data
        proto = descriptor_pb2.FileDescriptorProto.FromString(data)
        proto.name = names[file.name]
        proto.dependency[:] = [names.get(each, each) for each in proto.dependency]
        return proto.SerializeToString()

    def _get_name(self, file: FileDescriptor) -> str:
        """Return the name of a file: its own, unless an earlier source has a different file of that
        name."""
        name: str = file.name
        if name.startswith(_WELL_KNOWN_PREFIX):
            return name
        known = self._names.get((file.pool, name))
        if known is None:
            known = self._names[file.pool, name] = self._choose_name(file)
        return known

    def _choose_name(self, file: FileDescriptor) -> str:
        digest, taken = self._get_digest(file), False
        for each in self._sources:
            if each.pool is file.pool:
                return f"{each.label}/{file.name}" if taken else str(file.name)
            for other in _find_in([each], methodcaller("FindFileByName", file.name)):
                if self._get_digest(other) == digest:
                    return self._get_name(other)
                taken = True
        return str(file.name)

    def _get_digest(self, file: FileDescriptor) -> bytes:
        """Return a digest of the declarations of a file and of its imports."""
        for each in _sort_by_imports(file, lambda file: (file.pool, file.name) in self._digests):
            found = hashlib.sha256(_normalize(each))
            for imported in each.dependencies:
                found.update(self._digests[imported.pool, imported.name])
            self._digests[each.pool, each.name] = found.digest()
        return self._digests[file.pool, file.name]


def _find_in(sources: Iterable[ReflectionSource], find: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield what `find` returns for the pool of each source, unless it raises KeyError."""
    for each in sources:
        with suppress(KeyError):
            yield find(each.pool)


def _get_first(found: Iterable[Any], name: str) -> Any:
    for each in found:
        return each
    raise KeyError(name)


def _find_file_by_symbol(pool: DescriptorPool, symbol: str) -> FileDescriptor:
    """Return the file that declares a symbol. Raises KeyError.

    Methods and fields are searched in their parent: the pool does not know them by name.
    """
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        owner, _, member = symbol.rpartition(".")
    try:
        pool.FindServiceByName(owner).methods_by_name[member]
    except KeyError:
        pool.FindMessageTypeByName(owner).fields_by_name[member]
    return pool.FindFileContainingSymbol(owner)


def _sort_by_imports(
    file: FileDescriptor, is_known: Callable[[FileDescriptor], bool] = lambda _: False
) -> list[FileDescriptor]:
    """Return a file and its imports in topological order, without recursion.

    Files for which `is_known` is true are left out, with their imports.
    """
    ordered: dict[str, FileDescriptor] = {}
    pending = [file]
    while pending:
        each = pending[-1]
        missing = [
            imported
            for imported in (() if each.name in ordered or is_known(each) else each.dependencies)
            if imported.name not in ordered and not is_known(imported)
        ]
        if missing:
            pending += missing
            continue
        pending.pop()
        if not is_known(each):
            ordered.setdefault(each.name, each)
    return list(ordered.values())


def _normalize(file: FileDescriptor) -> bytes:
    """Serialize the declarations of a file, without what differs between languages."""
    if file.name.startswith(_WELL_KNOWN_PREFIX):
        return b""
    proto = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
    proto.ClearField("source_code_info")
    options: Any = proto.options
    for option, _ in options.ListFields():
        if _LANGUAGE_OPTIONS.match(option.name):
            options.ClearField(option.name)
    if not options.ListFields():
        proto.ClearField("options")
    _clear_default_json_names(proto.extension)
    pending: list[descriptor_pb2.DescriptorProto] = list(proto.message_type)
    while pending:
        message = pending.pop()
        pending += message.nested_type
        _clear_default_json_names(message.field)
        _clear_default_json_names(message.extension)
    return proto.SerializeToString(deterministic=True)


def _clear_default_json_names(fields: Iterable[descriptor_pb2.FieldDescriptorProto]) -> None:
    """Clear JSON names that equal the default: only some compilers write them."""
    for field in fields:
        first, *words = field.name.split("_")
        if field.json_name == first + "".join(word[:1].upper() + word[1:] for word in words):
            field.ClearField("json_name")
