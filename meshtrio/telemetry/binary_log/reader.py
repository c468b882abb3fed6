"""Reads binary logs, and prints their entries as JSON:

    python -m meshtrio.telemetry.binary_log.reader FILE…

Files of grpc-go can be read too: the format is the same. The exit status is 1 if a file cannot be
read or is not a binary log.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError

from meshtrio.messages import binarylog
from meshtrio.telemetry.binary_log.rotating_writer import LENGTH_PREFIX

_MAX_RECORD_SIZE = 256 * 2**20
"""Maximum size of a record, in bytes; a larger length means that the file is corrupt."""


def iter_entries(file: BinaryIO) -> Iterator[Any]:
    """Yield the entries of a file, up to one that is not complete yet.

    Raises:
        google.protobuf.message.DecodeError: The file is not a binary log, or corrupt.
    """
    while len(prefix := file.read(LENGTH_PREFIX.size)) == LENGTH_PREFIX.size:
        (size,) = LENGTH_PREFIX.unpack(prefix)
        if size > _MAX_RECORD_SIZE:
            raise DecodeError(f"a record of {size:,} bytes")
        record = file.read(size)
        if len(record) < size:
            return
        yield binarylog.GrpcLogEntry.FromString(record)


def print_entries(path: Path) -> str:
    """Print the entries of one file; return an error message, "" for success."""
    try:
        with path.open("rb") as file:
            for entry in iter_entries(file):
                print(MessageToJson(entry, indent=None))
    except BrokenPipeError:
        raise
    except OSError as exc:
        return f"{path}: cannot be read: {exc.strerror}"
    except (DecodeError, JsonError):
        return f"{path}: is not a binary log, or is corrupt after the entries printed"
    return ""


def main() -> int:
    paths = sys.argv[1:]
    if not paths or {"-h", "--help"} & set(paths):
        print((__doc__ or "").strip(), file=sys.stdout if paths else sys.stderr)
        return 0 if paths else 2
    try:
        problems = [problem for path in paths if (problem := print_entries(Path(path)))]
        sys.stdout.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        # The reader closed the pipe: discard what is left in the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
