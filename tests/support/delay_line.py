"""Sends packets late, not all of them, and not too fast.

A program, `DEVICE OUT LATENCY JITTER LOSS BANDWIDTH SEED`, that makes a TUN device in its network
namespace. Packets that are routed to it are sent on by the device OUT when their time has come. The
same as netem (tc-netem(8)), which many kernels are built without. Writes "ready" when the device is
there; it goes when the program ends, which is when stdin is closed at the latest.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from random import Random

import attrs

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MAX_PACKET_SIZE = 65_536
_MAX_QUEUED = 4 * 1024 * 1024
"""Maximum bytes of packets that wait; others are lost, as on a router."""
_VERSION = 4
"""Of IP. The kernel sends packets of IPv6 of its own on each new device."""
_DESTINATION = slice(16, 20)
"""Where the destination is in a header of IPv4 (RFC 791 §3.1)."""


@attrs.frozen
class LinkQuality:
    """What one direction of a link does to packets."""

    latency: float = 0.0
    """Seconds for which each packet is delayed."""
    jitter: float = 0.0
    """Seconds by which the delay varies at most, either way; packets stay in order."""
    loss: float = 0.0
    """Fraction of the packets that are lost."""
    bandwidth: float = math.inf
    """Bits per second."""
    seed: int = 0
    """Chooses the packets that are lost, and the variation of the delay."""

    def arguments(self) -> list[str]:
        """Return the last arguments of the program."""
        return [str(value) for value in attrs.astuple(self)]

    @classmethod
    def from_arguments(cls, words: list[str]) -> LinkQuality:
        return cls(*(float(word) for word in words[:-1]), seed=int(words[-1]))


class DelayLine:
    """Decides when packets are sent; knows no sockets and no clock."""

    def __init__(self, quality: LinkQuality) -> None:
        self._quality = quality
        self._rng = Random(quality.seed)
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_size = 0
        self._free_at = 0.0
        """When the packets before have passed a link of the bandwidth."""

    def put(self, packet: bytes, now: float) -> None:
        """Take a packet that was to be sent."""
        quality = self._quality
        if self._rng.random() < quality.loss or self._queued_size > _MAX_QUEUED:
            return
        self._free_at = max(self._free_at, now) + 8 * len(packet) / quality.bandwidth
        due = self._free_at + quality.latency
        due += self._rng.uniform(-quality.jitter, quality.jitter)
        last = self._queue[-1][0] if self._queue else now
        self._queue.append((max(due, last), packet))
        self._queued_size += len(packet)

    def take(self, now: float) -> list[bytes]:
        """Return the packets that are due."""
        taken = []
        while self._queue and self._queue[0][0] <= now:
            taken.append(self._queue.popleft()[1])
        self._queued_size -= sum(map(len, taken))
        return taken

    def time_to_next(self, now: float) -> float | None:
        """Return the seconds until a packet is due; None if none waits."""
        return max(self._queue[0][0] - now, 0.0) if self._queue else None


def open_tun(device: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(fd, _TUNSETIFF, request)
    return fd


def main(device: str, out: str, *quality: str) -> None:
    line, tun = DelayLine(LinkQuality.from_arguments(list(quality))), open_tun(device)
    # Bound to a device, it does not take the route that leads to this program.
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, out.encode())
    print("ready", flush=True)
    while True:
        wait = line.time_to_next(time.monotonic())
        readable = select.select([tun, sys.stdin], [], [], wait)[0]
        if sys.stdin in readable:
            return
        if tun in readable:
            packet = os.read(tun, _MAX_PACKET_SIZE)
            if packet[0] >> 4 == _VERSION:
                line.put(packet, time.monotonic())
        for packet in line.take(time.monotonic()):
            # What the device cannot take now is lost, as packets are.
            with contextlib.suppress(OSError):
                raw.sendto(packet, (socket.inet_ntoa(packet[_DESTINATION]), 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
