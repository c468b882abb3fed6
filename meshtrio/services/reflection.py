"""The servicer of server reflection, v1 and v1alpha, which differ in their names only.

Source: grpc/doc/server-reflection.md.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from meshtrio.grpc.status import StatusCode
from meshtrio.rpc.method import Handler
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.services.reflection_files import ReflectionFiles, ReflectionSource
from meshtrio.util.worker_threads import GilYielder, run_computation

GetReflectionSources = Callable[[], Awaitable[Sequence[ReflectionSource]]]
"""Returns what proxied services serve: the same objects while nothing has changed."""


class ReflectionServicer:
    """Describes the services of a server from the descriptor pools of its messages."""

    def __init__(
        self,
        module: Any,
        handlers: Iterable[Handler],
        service_names: Iterable[str],
        get_proxied_sources: GetReflectionSources | None = None,
    ) -> None:
        """Describe the messages of `handlers`, and list `service_names`.

        `module` has the messages of the version of the protocol. `get_proxied_sources` returns what
        is described and listed in addition.
        """
        self._messages = module
        self._get_proxied_sources = get_proxied_sources
        self._lock = threading.Lock()
        pools = {handler.method.request_type.DESCRIPTOR.file.pool for handler in handlers}
        found, names = [*pools, module.DESCRIPTOR.pool], frozenset(service_names)
        self._own_sources = [ReflectionSource("server", names, pool) for pool in found]
        self._sources = self._own_sources
        self._files = ReflectionFiles(self._own_sources)
        descriptor = module.DESCRIPTOR.services_by_name["ServerReflection"]
        self.service = service_from_descriptor(descriptor, self)

    async def ServerReflectionInfo(  # noqa: N802 - the method's name
        self, requests: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            make_reply = self._messages.ServerReflectionResponse
            reply = make_reply(valid_host=request.host, original_request=request)
            if self._get_proxied_sources is None:
                self._answer(request, reply)
            else:
                sources = [*self._own_sources, *await self._get_proxied_sources()]
                if sources != self._sources:
                    self._sources, self._files = sources, ReflectionFiles(sources)
                # Comparing the files of plugins takes too long for the event loop.
                await run_computation(partial(self._answer, request, reply))
            yield reply

    def _answer(self, request: Any, reply: Any, _: GilYielder | None = None) -> None:
        try:
            with self._lock:
                self._fill_response(request, reply)
        except KeyError as exc:
            reply.error_response.error_code = StatusCode.NOT_FOUND
            reply.error_response.error_message = f"unknown: {exc.args[0]!s}"

    def _fill_response(self, request: Any, reply: Any) -> None:
        files: list[bytes] = []
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in sorted({name for each in self._sources for name in each.services}):
                    reply.list_services_response.service.add(name=name)
            case "file_by_filename":
                files = self._files.find_by_name(request.file_by_filename)
            case "file_containing_symbol":
                files = self._files.find_containing_symbol(request.file_containing_symbol)
            case "file_containing_extension":
                extension = request.file_containing_extension
                name, number = extension.containing_type, extension.extension_number
                files = self._files.find_containing_extension(name, number)
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                numbers = self._files.find_extension_numbers(name)
                reply.all_extension_numbers_response.base_type_name = name
                reply.all_extension_numbers_response.extension_number.extend(numbers)
            case _:
                reply.error_response.error_code = StatusCode.INVALID_ARGUMENT
                reply.error_response.error_message = "missing message_request"
        if files:
            reply.file_descriptor_response.file_descriptor_proto.extend(files)
