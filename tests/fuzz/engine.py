"""Coverage-guided fuzzing of the engine, both roles: `python -m tests.fuzz.engine [--seconds S]`.

Whatever bytes come: events or a connection error, no exception of another kind, nothing held
beyond its bounds. Needs atheris (extra `fuzz`). What it finds new is added to `corpus/`; a crash is
written to the working directory, and `python -m tests.fuzz.engine FILE` plays it again.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["meshtrio.http2"]):
    from meshtrio.grpc.connection import GrpcConnection
    from meshtrio.grpc.framing import MessageReader, MessageTooLargeError
    from meshtrio.http2 import frames
    from meshtrio.http2.connection import Role
    from meshtrio.http2.events import DataReceived
    from meshtrio.http2.hpack import encoder
    from meshtrio.http2.limits import Limits

CORPUS = Path(__file__).parent / "corpus"
LIMITS = Limits(
    max_concurrent_streams=10,
    stream_window=65_535,
    connection_window=65_535,
    max_header_list_size=4096,
    max_message_size=1000,
)
REQUEST = encoder.encode(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a.B/C"),
        (b"content-type", b"application/grpc"),
    ]
)


def seeds() -> dict[str, bytes]:
    """Return the seed corpus: a byte for the role and the cut, then a valid stream."""
    head = frames.encode_header_block(1, REQUEST, end_stream=False, max_frame_size=16_384)
    data = frames.encode_frame(frames.FrameType.DATA, 1, 1, b"\0\0\0\0\2hi")
    reply = encoder.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
    answer = frames.encode_header_block(1, reply, end_stream=False, max_frame_size=16_384)
    status = encoder.encode([(b"grpc-status", b"0")])
    trailers = frames.encode_header_block(1, status, end_stream=True, max_frame_size=16_384)
    other = frames.ping(b"12345678", ack=False) + frames.window_update(1, 10) + frames.goaway(1, 0)
    settings = frames.settings({1: 0, 3: 5, 4: 1000, 5: 20_000})
    return {
        "request": b"\x01" + frames.PREFACE + settings + head + data + other,
        "response": b"\x00" + settings + answer + data[:-6] + trailers + other,
        "reset": b"\x07" + frames.PREFACE + settings + head + frames.rst_stream(1, 8),
    }


def one_input(data: bytes) -> None:
    """Run one input: the first byte chooses the role and the cut, the rest is the peer's bytes."""
    if not data:
        return
    server, step = data[0] & 1, (data[0] >> 1) or len(data)
    engine = GrpcConnection(Role.SERVER if server else Role.CLIENT, LIMITS)
    if not server:
        engine.open_stream(REQUEST)
    readers: dict[int, MessageReader] = {}
    for start in range(1, len(data), step):
        for event in engine.receive_data(data[start : start + step], now=float(start)):
            if isinstance(event, DataReceived):
                reader = readers.setdefault(event.stream_id, MessageReader(LIMITS.max_message_size))
                with contextlib.suppress(MessageTooLargeError):
                    reader.feed(event.data)
                engine.set_receive_window(event.stream_id, LIMITS.stream_window)
        assert engine.open_stream_count <= LIMITS.max_concurrent_streams
        # The size of responses is at most proportional to what was received.
        assert len(engine.data_to_send()) <= 1000 + 20 * step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    for name, data in seeds().items():
        (CORPUS / f"seed-{name}").write_bytes(data)
    arguments = [f"-max_total_time={options.seconds}", "-max_len=4096", str(CORPUS)]
    atheris.Setup([sys.argv[0], *(options.files or arguments)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
