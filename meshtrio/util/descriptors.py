"""Closing descriptors at the end of a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Close a descriptor after the block. Compare `contextlib.closing`."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def closing_on_error(*descriptors: int) -> Iterator[None]:
    """Close descriptors if the block raises."""
    try:
        yield
    except BaseException:
        for each in descriptors:
            os.close(each)
        raise
