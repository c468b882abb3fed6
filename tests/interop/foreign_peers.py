"""Peers on foreign gRPC stacks, as plugins and as clients, and meshtrio's own beside them.

Every peer is one program. As a plugin it serves `peer.v1.PeerProcess` (see
`tests.interop.messages`) on PLUGIN_SOCKET, and does what the metadata of a call asks for:

- `x-echo…`: pairs to return, as initial and as trailing metadata;
- `x-sleep-ms: N`: wait before the end of the call; `x-before-deadline-ms: N`: wait until N ms
  before the call's deadline. From 0.3 s on, "holding" is written to stderr when the wait begins;
- `x-status: N`, `x-message-bin`: the status to end with, OK if there is none;
- `x-initial-size: N`, `x-trailing-size: N`: a value of N bytes in the reply's metadata;
- `x-raw-bin`: a value to return as `x-raw` in the reply's metadata, as it is;
- `x-call-on: plugin.NAME`: the peer on meshtrio gets its reply to Unary from that plugin.

As a client (`client TARGET`) it reads calls from stdin and writes results to stdout, a line of JSON
each; it starts a call when it has read it, so that any number can be in flight.
"""

from __future__ import annotations

import base64
import itertools
import json
import queue
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import purerpc

from meshtrio.client.channel import Channel
from tests.interop.messages import SERVICE, PeerStub, RawMessage
from tests.support.mesh_processes import ROOT, plugin_table
from tests.tools import find_tool

STACKS = {
    "js": "grpc-js-peer",
    "java": "grpc-java-peer",
    "connect": "connect-go-peer",
}
"""The foreign stacks, by the names of their plugins, and their programs."""
MESHTRIO_PLUGIN = "ours"
"""The plugin on meshtrio."""
LATE_FRAMES_PLUGIN = "late"
"""The plugin of `tests/plugins/late_frames.py`."""
WEB_SERVER_PLUGIN = "page"
"""A web server in Node's http2, with a page for all but Unary, and with the HTTP status that the
metadata `x-http-status` asks for."""
RESULT_TIMEOUT = 30
"""Seconds after which a result that does not come fails the test."""

MetadataPairs = Iterable[tuple[str, str | bytes]]


def foreign_peer_table(stack: str, *arguments: str, name: str = "", **settings: Any) -> str:
    """A [[plugin]] table for the peer on a foreign stack, called after it by default."""
    command = [find_tool(STACKS[stack]), *arguments]
    table = plugin_table(
        name or stack, services=[SERVICE], ready_timeout=RESULT_TIMEOUT, **settings
    )
    return table.replace('["{python}"]', json.dumps(command))


def meshtrio_peer_table(name: str = MESHTRIO_PLUGIN, **settings: Any) -> str:
    """A [[plugin]] table for the peer on meshtrio."""
    return plugin_table(name, "-m", "tests.plugins.interop_peer", cwd=ROOT, **settings)


def target_metadata(name: str) -> list[tuple[str, str]]:
    """The metadata with which the mesh socket passes a call on to a plugin."""
    return [("x-mesh-target", f"plugin.{name}")]


@attrs.frozen
class CallResult:
    """The result of a call."""

    code: int
    message: str = ""
    replies: tuple[bytes, ...] = ()
    initial: tuple[tuple[str, Any], ...] = ()
    trailing: tuple[tuple[str, Any], ...] = ()
    error: BaseException | None = None
    """What a meshtrio client raised."""

    @property
    def name(self) -> str:
        return str(purerpc.StatusCode(self.code).name)

    def __str__(self) -> str:
        return f"{self.name}: {self.message[:200]}"


class MeshtrioClient:
    """Calls from meshtrio, with the results that foreign clients give."""

    def __init__(self, channel: Channel, metadata: Sequence[tuple[str, str | bytes]] = ()) -> None:
        self.stub: Any = channel.stub(PeerStub)
        self.metadata = metadata

    async def call(self, method: str, *messages: bytes, metadata: MetadataPairs = ()) -> CallResult:
        """Make a call; a status other than OK is a result, everything else is raised."""
        pairs = [*self.metadata, *metadata]
        try:
            return await self._call(method, [RawMessage(message) for message in messages], pairs)
        except purerpc.RpcFailedError as exc:
            status = exc.status
            trailing = tuple(getattr(exc, "trailing_metadata", None) or ())
            text = str(status.status_message)
            return CallResult(status.status_code.value, text, trailing=trailing, error=exc)

    async def _call(
        self, method: str, messages: list[RawMessage], metadata: list[Any]
    ) -> CallResult:
        function = getattr(self.stub, method)
        if method == "Unary":
            reply, outcome = await function.with_call(messages[0], metadata=metadata)
            return CallResult(
                0, "", (reply.data,), outcome.initial_metadata, outcome.trailing_metadata
            )
        if method == "ServerStream":
            call = function(messages[0], metadata=metadata)
        elif method == "ClientStream":
            call = function.start(metadata=metadata)
        else:
            call = function(metadata=metadata)
        async with call:
            if method != "ServerStream":
                for message in messages:
                    await call.send_message(message)
                await call.close()
            replies = tuple([reply.data async for reply in call])
            return CallResult(
                0, "", replies, call.initial_metadata or (), call.trailing_metadata or ()
            )


class ForeignClient:
    """A foreign peer that runs as a client."""

    def __init__(
        self, process: subprocess.Popen[str], metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> None:
        self._process = process
        self._metadata = metadata
        self._ids = itertools.count()
        self._results: dict[int, queue.SimpleQueue[CallResult]] = {}
        self._reader = threading.Thread(target=self._read_results, daemon=True)
        self._reader.start()

    def start(
        self,
        method: str,
        *messages: bytes,
        metadata: MetadataPairs = (),
        timeout: float | None = None,
    ) -> int:
        """Start a call; the number that is returned is for `result`."""
        number = next(self._ids)
        self._results[number] = queue.SimpleQueue()
        order = {
            "id": number,
            "method": method,
            "messages": [base64.b64encode(message).decode() for message in messages],
            "metadata": [_encode_pair(*pair) for pair in (*self._metadata, *metadata)],
            "timeout": timeout,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return number

    def result(self, number: int) -> CallResult:
        """Wait for the end of a call."""
        try:
            return self._results[number].get(timeout=RESULT_TIMEOUT)
        except queue.Empty:
            raise AssertionError("the call of a foreign client did not end") from None

    def call(self, method: str, *messages: bytes, **options: Any) -> CallResult:
        return self.result(self.start(method, *messages, **options))

    def kill(self) -> None:
        """End the process, and wait until what it has written is read."""
        self._process.kill()
        self._reader.join()

    def _read_results(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = json.loads(line)
            result = CallResult(
                found["code"],
                # grpc-js has a text for the status OK as well.
                (found["code"] and found.get("message")) or "",
                tuple(base64.b64decode(reply) for reply in found["replies"]),
                tuple(_decode_pair(*pair) for pair in found["initial"] or ()),
                tuple(_decode_pair(*pair) for pair in found["trailing"] or ()),
            )
            self._results[found["id"]].put(result)


def _encode_pair(key: str, value: str | bytes) -> tuple[str, str]:
    return key, base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _decode_pair(key: str, value: str) -> tuple[str, str | bytes]:
    return key, base64.b64decode(value) if key.endswith("-bin") else value


@contextmanager
def foreign_client(
    stack: str, address: str, metadata: Sequence[tuple[str, str | bytes]] = ()
) -> Iterator[ForeignClient]:
    """Run a foreign peer as a client; `address` is `unix:/path` or `host:port`.

    `metadata` goes out with every call.
    """
    with subprocess.Popen(
        [find_tool(STACKS[stack]), "client", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        client = ForeignClient(process, metadata)
        try:
            yield client
        finally:
            client.kill()
