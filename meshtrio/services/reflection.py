"""Server reflection, v1 and v1alpha (grpc/doc/server-reflection.md).

The two versions differ in their names only, so one servicer serves either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import purerpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.seam import Handler

_NOT_FOUND = purerpc.StatusCode.NOT_FOUND.value
_INVALID_ARGUMENT = purerpc.StatusCode.INVALID_ARGUMENT.value


Others = Callable[[], Awaitable[tuple[frozenset[str], list[DescriptorPool]]]]
"""Services that others serve, and where their types are found."""


class ReflectionServicer:
    """Answers from the descriptor pools of the messages that the served methods use."""

    def __init__(
        self,
        module: Any,
        handlers: Iterable[Handler],
        names: Iterable[str],
        others: Others | None = None,
    ) -> None:
        """`module`: the messages of the version to speak; `names`: the services to list.

        `others` says what is to be described beside them.
        """
        self._messages = module
        self._names = frozenset(names)
        self._others = others
        pools = {handler.method.request_type.DESCRIPTOR.file.pool for handler in handlers}
        self._own_pools: list[DescriptorPool] = list(pools | {module.DESCRIPTOR.pool})
        self._pools = self._own_pools
        self._listed = sorted(names)
        self.service = service_of(module.DESCRIPTOR.services_by_name["ServerReflection"], self)

    async def ServerReflectionInfo(  # noqa: N802 - the method's name
        self, requests: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            reply = self._messages.ServerReflectionResponse(
                valid_host=request.host, original_request=request
            )
            if self._others is not None:
                names, pools = await self._others()
                self._listed = sorted(self._names | names)
                self._pools = self._own_pools + pools
            try:
                self._answer(request, reply)
            except KeyError as exc:
                reply.error_response.error_code = _NOT_FOUND
                reply.error_response.error_message = f"{exc.args[0]!s} is not known here"
            yield reply

    def _answer(self, request: Any, reply: Any) -> None:
        kind = request.WhichOneof("message_request")
        match kind:
            case "list_services":
                for name in self._listed:
                    reply.list_services_response.service.add(name=name)
            case "file_by_filename":
                name = request.file_by_filename
                self._add_files(reply, self._find(name, lambda pool: pool.FindFileByName(name)))
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                self._add_files(reply, self._find(symbol, partial(_file_of, symbol=symbol)))
            case "file_containing_extension":
                self._add_extension(reply, request.file_containing_extension)
            case "all_extension_numbers_of_type":
                self._add_extension_numbers(reply, request.all_extension_numbers_of_type)
            case _:
                reply.error_response.error_code = _INVALID_ARGUMENT
                reply.error_response.error_message = "the request asks for nothing"

    def _find(self, what: str, find: Callable[[DescriptorPool], Any]) -> Any:
        for pool in self._pools:
            try:
                return find(pool)
            except KeyError:
                continue
        raise KeyError(what)

    def _add_files(self, reply: Any, file: FileDescriptor) -> None:
        """The file and, before the client asks for them one by one, what it imports."""
        for each in _with_imports(file):
            reply.file_descriptor_response.file_descriptor_proto.append(each.serialized_pb)

    def _add_extension(self, reply: Any, wanted: Any) -> None:
        number, name = wanted.extension_number, wanted.containing_type

        def find(pool: DescriptorPool) -> Any:
            return pool.FindExtensionByNumber(pool.FindMessageTypeByName(name), number)

        self._add_files(reply, self._find(f"extension {number} of {name}", find).file)

    def _add_extension_numbers(self, reply: Any, name: str) -> None:
        message = self._find(name, lambda pool: pool.FindMessageTypeByName(name))
        numbers = [extension.number for extension in message.file.pool.FindAllExtensions(message)]
        reply.all_extension_numbers_response.base_type_name = name
        reply.all_extension_numbers_response.extension_number.extend(sorted(numbers))


def _file_of(pool: DescriptorPool, symbol: str) -> FileDescriptor:
    """The file that declares a symbol; methods and fields, which the pool does not know by name,
    are looked for in what they belong to. Raises KeyError."""
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        owner, _, member = symbol.rpartition(".")
    try:
        pool.FindServiceByName(owner).methods_by_name[member]
    except KeyError:
        pool.FindMessageTypeByName(owner).fields_by_name[member]
    return pool.FindFileContainingSymbol(owner)


def _with_imports(file: FileDescriptor) -> Iterable[FileDescriptor]:
    found: dict[str, FileDescriptor] = {}
    pending = [file]
    while pending:
        each = pending.pop()
        if each.name not in found:
            found[each.name] = each
            pending.extend(each.dependencies)
    return found.values()
