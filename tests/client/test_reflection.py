"""What a client makes of the answers to reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import purerpc
import pytest

from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.reflection import ReflectionError, list_services
from meshtrio.messages import reflection_v1
from meshtrio.rpc.server import Server
from tests.support.servers import serve_on_socket

SERVICES = reflection_v1.ServerReflectionResponse(
    list_services_response={"service": [{"name": "a.Service"}]}
).SerializeToString()
ERROR = reflection_v1.ServerReflectionResponse(
    error_response={"error_message": "not today"}
).SerializeToString()


@attrs.frozen
class RawAnswer:
    """Gives one answer to all requests."""

    data: bytes

    @property
    def service(self) -> purerpc.Service:
        signature = purerpc.RPCSignature(
            purerpc.Cardinality.STREAM_STREAM, reflection_v1.ServerReflectionRequest, RawAnswer
        )
        service = purerpc.Service("grpc.reflection.v1.ServerReflection")
        service.add_method("ServerReflectionInfo", self.answer, signature)
        return service

    async def answer(self, requests: AsyncIterator[Any]) -> AsyncIterator[RawAnswer]:
        async for _ in requests:
            yield self

    def SerializeToString(self) -> bytes:
        return self.data


@asynccontextmanager
async def connect_to_reflection(folder: Path, answer: bytes) -> AsyncIterator[Channel]:
    async with (
        serve_on_socket(folder / "a", Server(RawAnswer(answer))),
        connect_to(f"unix:{folder / 'a'}") as channel,
    ):
        yield channel


@pytest.mark.parametrize(
    "unused",
    [b"\x0a\x01\xe9", b"\x12\x03\x0a\x01\xe9", b"\x12\x03\x22\x01\xe9"],
    ids=["valid_host", "host", "file_containing_symbol"],
)
async def test_what_is_not_used_of_an_answer_need_not_be_utf8(
    unused: bytes, short_dir: Path
) -> None:
    async with connect_to_reflection(short_dir, unused + SERVICES) as channel:
        assert await list_services(channel) == ["a.Service"]
    async with connect_to_reflection(short_dir, ERROR + unused) as channel:
        with pytest.raises(ReflectionError, match="not today"):
            await list_services(channel)


async def test_names_of_services_must_be_utf8(short_dir: Path) -> None:
    answer = SERVICES.replace(b"Service", b"Servic\xe9")
    async with connect_to_reflection(short_dir, answer) as channel:
        with pytest.raises(ReflectionError, match="does not describe"):
            await list_services(channel)
