"""When a plugin is ready, and how its liveness is checked: the values of `ready` and of
`liveness.check`."""

from __future__ import annotations

import re

import attrs

from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.util.address import Address

INSTANCE_PLACEHOLDER = "{instance}"
"""Part of a path that stands for the number of the instance."""
_LOWEST_FD, _HIGHEST_FD = 3, 1023

_FORMS = "grpc, notify, fd:N, tcp:host:port, unix:/path, http://host:port/path or started"
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
_HTTP_URL = re.compile(
    r"http://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-\"$-~]*)?"
)
_HTTP_PORT = 80
_HIGHEST_PORT = 65535


@attrs.frozen
class GrpcCheck:
    """Its gRPC server reports SERVING."""


@attrs.frozen
class StartedCheck:
    """Its process was started."""


@attrs.frozen
class NotifyCheck:
    """It reports by sd_notify(3)."""


@attrs.frozen
class FdCheck:
    """It writes a newline to a descriptor, as s6's notification-fd."""

    fd: int
    """The number of the descriptor in the process."""


@attrs.frozen
class ConnectCheck:
    """Its server accepts a connection."""

    address: Address
    """Where it listens, which has the placeholder for the instance perhaps."""

    def for_instance(self, number: int) -> ConnectCheck:
        """Return the check of one instance."""
        return ConnectCheck(_for_instance(self.address, number))


@attrs.frozen
class HttpCheck:
    """Its HTTP server answers a GET request with a status of 200 to 399."""

    address: Address
    """Where it listens."""
    path: str
    """The path and query of the request, which has the placeholder for the instance perhaps."""

    def for_instance(self, number: int) -> HttpCheck:
        """Return the check of one instance."""
        path = self.path.replace(INSTANCE_PLACEHOLDER, str(number))
        return HttpCheck(_for_instance(self.address, number), path)


ServerCheck = ConnectCheck | HttpCheck
"""Checks of a server at an address that the config names."""
Check = GrpcCheck | NotifyCheck | FdCheck | ServerCheck | StartedCheck
"""What is checked."""
LivenessCheck = GrpcCheck | NotifyCheck | ServerCheck
"""What can be checked again and again."""

_SIMPLE_CHECKS: dict[str, Check] = {
    "grpc": GrpcCheck(),
    "notify": NotifyCheck(),
    "started": StartedCheck(),
}


def parse_check(text: str) -> Check:
    """Parse the value of `ready`. Raises ValueError."""
    if text in _SIMPLE_CHECKS:
        return _SIMPLE_CHECKS[text]
    kind, _, rest = text.partition(":")
    match kind:
        case "fd":
            return _parse_fd(text, rest)
        case "tcp":
            return ConnectCheck(_parse_tcp(text, rest))
        case "unix":
            return ConnectCheck(_parse_unix(text, rest))
        case "http":
            return _parse_http(text)
    raise ValueError(f"must be {_FORMS}, not {text!r}")


def parse_liveness_check(text: str) -> LivenessCheck:
    """Parse the value of `liveness.check`. Raises ValueError."""
    found = parse_check(text)
    if isinstance(found, (StartedCheck, FdCheck)):
        raise ValueError(f"must be checked again and again, which {text!r} cannot be")
    return found


def check_instances(check: Check, instances: int) -> str:
    """Find why a number of instances cannot have this check, as a phrase; "" if they can."""
    if not isinstance(check, ServerCheck):
        return ""
    address = check.address
    if address.is_unix:
        if instances > 1 and INSTANCE_PLACEHOLDER not in address.path:
            return f"the {instances} instances need a path each; put {INSTANCE_PLACEHOLDER} into it"
        return ""
    last = address.port + instances - 1
    if last > _HIGHEST_PORT:
        return f"instance n has the port plus n, up to {last}; the highest is {_HIGHEST_PORT}"
    return ""


def _parse_fd(text: str, number: str) -> FdCheck:
    if number.isascii() and number.isdigit() and len(number) < 5:
        fd = int(number)
        if _LOWEST_FD <= fd <= _HIGHEST_FD:
            return FdCheck(fd)
    allowed = f"{_LOWEST_FD} to {_HIGHEST_FD}"
    raise ValueError(f"must be fd:N with a descriptor of {allowed}, not {text!r}")


def _parse_tcp(text: str, rest: str) -> Address:
    found = _HOST_AND_PORT.fullmatch(rest.removeprefix("//"))
    if found is not None and 0 < int(found["port"]) <= _HIGHEST_PORT:
        return Address(host=found["host"].strip("[]"), port=int(found["port"]))
    raise ValueError(f"must be tcp:host:port, with an IPv6 address in brackets, not {text!r}")


def _parse_unix(text: str, rest: str) -> Address:
    path = rest.removeprefix("//")
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"must be unix: and an absolute path, not {text!r}")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH_LENGTH:
        raise ValueError(f"the path may have {MAX_SOCKET_PATH_LENGTH} bytes, not as many as {path}")
    return Address(path=path)


def _parse_http(text: str) -> HttpCheck:
    found = _HTTP_URL.fullmatch(text)
    if found is not None:
        port = int(found["port"] or _HTTP_PORT)
        if 0 < port <= _HIGHEST_PORT:
            address = Address(host=found["host"].strip("[]"), port=port)
            return HttpCheck(address, found["path"] or "/")
    raise ValueError(
        f"must be http://host:port/path in ASCII, with an IPv6 address in brackets, not {text!r}"
    )


def _for_instance(address: Address, number: int) -> Address:
    if address.is_unix:
        return Address(path=address.path.replace(INSTANCE_PLACEHOLDER, str(number)))
    return address.replace(port=address.port + number)
