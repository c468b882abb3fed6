"""Server reflection, v1 and v1alpha (grpc/doc/server-reflection.md).

The two versions differ in their names only, so one servicer serves either.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import purerpc

from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.seam import Handler
from meshtrio.services.reflected_files import Described, ReflectedFiles
from meshtrio.threads import Pace, compute

_NOT_FOUND = purerpc.StatusCode.NOT_FOUND.value
_INVALID_ARGUMENT = purerpc.StatusCode.INVALID_ARGUMENT.value


Others = Callable[[], Awaitable[Sequence[Described]]]
"""Tells what others serve; the same objects while nothing has changed."""


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
        self._others = others
        self._busy = threading.Lock()
        pools = {handler.method.request_type.DESCRIPTOR.file.pool for handler in handlers}
        named = frozenset(names)
        self._own = [Described("server", named, pool) for pool in (*pools, module.DESCRIPTOR.pool)]
        self._described = self._own
        self._files = ReflectedFiles(self._own)
        self.service = service_of(module.DESCRIPTOR.services_by_name["ServerReflection"], self)

    async def ServerReflectionInfo(  # noqa: N802 - the method's name
        self, requests: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            reply = self._messages.ServerReflectionResponse(
                valid_host=request.host, original_request=request
            )
            if self._others is not None:
                self._take([*self._own, *await self._others()])
            if self._others is None:
                self._answer(request, reply)
            else:
                # What plugins describe takes its time to compare.
                await compute(partial(self._answer, request, reply))
            yield reply

    def _take(self, described: list[Described]) -> None:
        if described != self._described:
            self._described, self._files = described, ReflectedFiles(described)

    def _answer(self, request: Any, reply: Any, _: Pace | None = None) -> None:
        try:
            with self._busy:
                self._find(request, reply)
        except KeyError as exc:
            reply.error_response.error_code = _NOT_FOUND
            reply.error_response.error_message = f"{exc.args[0]!s} is not known here"

    def _find(self, request: Any, reply: Any) -> None:
        kind = request.WhichOneof("message_request")
        files: list[bytes] = []
        match kind:
            case "list_services":
                for name in sorted({name for each in self._described for name in each.services}):
                    reply.list_services_response.service.add(name=name)
            case "file_by_filename":
                files = self._files.named(request.file_by_filename)
            case "file_containing_symbol":
                files = self._files.declaring(request.file_containing_symbol)
            case "file_containing_extension":
                wanted = request.file_containing_extension
                files = self._files.extending(wanted.containing_type, wanted.extension_number)
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                numbers = self._files.extension_numbers(name)
                reply.all_extension_numbers_response.base_type_name = name
                reply.all_extension_numbers_response.extension_number.extend(numbers)
            case _:
                reply.error_response.error_code = _INVALID_ARGUMENT
                reply.error_response.error_message = "the request asks for nothing"
        if files:
            reply.file_descriptor_response.file_descriptor_proto.extend(files)
