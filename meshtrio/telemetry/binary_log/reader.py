"""Reads binary logs, and prints their entries as JSON:

    python -m meshtrio.telemetry.binary_log.reader FILE…

Those of grpc-go are read as well: both have the length before each record.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.json_format import MessageToJson

from meshtrio.messages import binarylog

_LENGTH = struct.Struct(">I")


def entries(file: BinaryIO) -> Iterator[Any]:
    """Give the entries of a file, up to one that is not whole yet.

    Raises google.protobuf.message.DecodeError for what is none.
    """
    while len(prefix := file.read(_LENGTH.size)) == _LENGTH.size:
        (size,) = _LENGTH.unpack(prefix)
        record = file.read(size)
        if len(record) < size:
            return
        yield binarylog.GrpcLogEntry.FromString(record)


def main() -> None:
    for path in sys.argv[1:]:
        with Path(path).open("rb") as file:
            for entry in entries(file):
                print(MessageToJson(entry, indent=None))


if __name__ == "__main__":
    main()
