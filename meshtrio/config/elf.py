"""Architecture and dynamic loader of an ELF binary (elf(5))."""

from __future__ import annotations

import struct
import sys
from functools import cache
from typing import BinaryIO

import attrs

ELF_MAGIC = b"\x7fELF"

_PT_INTERP = 3
_MAX_SEGMENTS = 1024
_MAX_PATH = 4096


@attrs.frozen
class ElfHeader:
    """The fields of a header that are used here."""

    machine: int = 0
    """Architecture (e_machine), 0 if the header is malformed."""
    loader: str = ""
    """Path of the dynamic loader, "" if it needs none."""

    @property
    def is_native(self) -> bool:
        """Whether it is of this process's architecture; others may be run by an emulator."""
        return self.machine != 0 and self.machine == _interpreter_machine()


def read_elf_header(file: BinaryIO) -> ElfHeader:
    """Read the header of a file; an empty one if it is malformed. Raises OSError."""
    try:
        return _parse_elf_header(file)
    except (struct.error, IndexError, KeyError, OverflowError, ValueError):
        return ElfHeader()


def _parse_elf_header(file: BinaryIO) -> ElfHeader:
    file.seek(0)
    head = file.read(64)
    is_64 = {1: False, 2: True}[head[4]]
    order = {1: "<", 2: ">"}[head[5]]
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    (table,) = struct.unpack_from(f"{order}{'Q' if is_64 else 'I'}", head, 32 if is_64 else 28)
    size, count = struct.unpack_from(f"{order}2H", head, 54 if is_64 else 42)
    for number in range(min(count, _MAX_SEGMENTS)):
        file.seek(table + number * size)
        segment = file.read(56 if is_64 else 32)
        (kind,) = struct.unpack_from(f"{order}I", segment)
        if kind == _PT_INTERP:
            offset, length = _segment_extent(segment, order, is_64=is_64)
            file.seek(offset)
            name = file.read(min(length, _MAX_PATH)).partition(b"\0")[0]
            return ElfHeader(machine, name.decode("utf-8", "surrogateescape"))
    return ElfHeader(machine)


def _segment_extent(segment: bytes, order: str, *, is_64: bool) -> tuple[int, int]:
    """Return the offset of a segment in the file, and its length."""
    if is_64:
        (offset,) = struct.unpack_from(f"{order}Q", segment, 8)
        (length,) = struct.unpack_from(f"{order}Q", segment, 32)
    else:
        (offset,) = struct.unpack_from(f"{order}I", segment, 4)
        (length,) = struct.unpack_from(f"{order}I", segment, 16)
    return offset, length


@cache
def _interpreter_machine() -> int:
    """Return the architecture of the running interpreter; 0 if it is unknown."""
    try:
        with open(sys.executable, "rb") as file:
            return read_elf_header(file).machine if file.read(4) == ELF_MAGIC else 0
    except OSError:
        return 0
