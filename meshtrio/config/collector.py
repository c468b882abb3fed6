"""Where spans go, as the config says it and as OpenTelemetry's variables do.

Source: OpenTelemetry Specification, "OpenTelemetry Protocol Exporter".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import attrs

from meshtrio.address import Address, TlsFiles

_HTTP_PATH = "/v1/traces"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
TRACES_HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
_OF_TRACES, _OF_ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_FILES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
"""Which variables say where those of TlsFiles are."""
_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_RESERVED = frozenset(
    {
        *("connection", "content-length", "content-type", "host", "keep-alive"),
        *("proxy-connection", "te", "transfer-encoding", "upgrade", "user-agent"),
    }
)
"""What is the transport's to say."""
_VALUE = re.compile(r"[ -~]*")

Headers = tuple[tuple[str, str], ...]


def headers_of(fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> Headers:
    """Header fields, with their names in small letters, in which gRPC has them.

    Raises ValueError, which does not tell a value, for what cannot be sent.
    """
    found = tuple((name.lower(), value) for name, value in dict(fields).items())
    for name, value in found:
        if name in _RESERVED or not _NAME.fullmatch(name):
            # Of "authorization: Bearer …" only what could be a name is shown.
            raise ValueError(f"{name.partition(':')[0]!r} cannot be the name of a header")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of {name!r} is not printable ASCII")
    return found


@attrs.frozen
class Collector:
    """Where spans go: an address for OTLP over gRPC, or a URL for OTLP over HTTP."""

    address: str = ""
    url: str = ""
    tls: TlsFiles | None = None
    """By gRPC it is spoken where this is not None; by HTTP where the URL says so, and None stands
    for the system's authorities."""
    headers: Headers = attrs.field(default=(), repr=False)
    """What is sent along, a key to it above all."""

    @classmethod
    def parse(cls, text: str) -> Collector:
        """Read `tcp:host:port`, `unix:/path` or `http://host:port/path`. Raises ValueError."""
        if text.startswith(("tcp:", "unix:")):
            return cls(address=str(Address.parse(text)))
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{text!r} is none of tcp:host:port, unix:/path and http://host:port")
        path = parts.path.rstrip("/") or _HTTP_PATH
        return cls(url=parts._replace(path=path).geturl())

    @classmethod
    def from_environment(cls) -> Collector:
        """As OpenTelemetry's variables say. Raises ValueError."""
        return attrs.evolve(cls._from_endpoint(), headers=headers_from_environment())

    @classmethod
    def _from_endpoint(cls) -> Collector:
        protocol = _said("PROTOCOL") or "grpc"
        if protocol == "grpc":
            return cls._by_grpc(_said("ENDPOINT") or "http://localhost:4317")
        if protocol != "http/protobuf":
            raise ValueError(f"OTLP by {protocol!r} is neither by grpc nor by http/protobuf")
        # The URL for all signals is one that their paths are appended to.
        base = os.environ.get(ENDPOINT) or "http://localhost:4318"
        found = cls.parse(os.environ.get(TRACES_ENDPOINT) or base.rstrip("/") + _HTTP_PATH)
        return attrs.evolve(found, tls=_files_from_environment())

    @classmethod
    def _by_grpc(cls, text: str) -> Collector:
        """`http://host:port`, or what gRPC takes itself: `host:port` and `unix:/path`."""
        if text.startswith("unix:"):
            return cls.parse(text)
        parts = urlsplit(text if "://" in text else f"//{text}")
        if parts.scheme not in ("", "http", "https") or not parts.hostname:
            raise ValueError(f"{text!r} is none of http://host:port, host:port and unix:/path")
        secure = parts.scheme == "https" or (
            not parts.scheme and _said("INSECURE").lower() != "true"
        )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        tls = (_files_from_environment() or TlsFiles()) if secure else None
        return cls(address=f"tcp:{host}:{parts.port or 4317}", tls=tls)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that stand for it, which OpenTelemetry's SDKs of all languages go by."""
        told = {TRACES_PROTOCOL: "http/protobuf" if self.url else "grpc"}
        if self.url:
            told[TRACES_ENDPOINT] = self.url
        elif self.address.startswith("tcp:"):
            scheme = "http" if self.tls is None else "https"
            told[TRACES_ENDPOINT] = f"{scheme}://{self.address.removeprefix('tcp:')}"
        else:
            # Where no scheme says so, that it is without TLS has to be said.
            told[TRACES_ENDPOINT] = self.address
            told[f"{_OF_TRACES}INSECURE"] = "true"
        if self.tls is not None:
            told |= _variables_of(self.tls)
        if self.headers:
            fields = (f"{name}={quote(value, safe='')}" for name, value in self.headers)
            told[TRACES_HEADERS] = ",".join(fields)
        return told


def headers_from_environment() -> Headers:
    """By OTEL_EXPORTER_OTLP_HEADERS, as `name=value,name=value` with values percent-encoded.

    Raises ValueError.
    """
    pairs = [pair.partition("=") for pair in _said("HEADERS").split(",") if pair.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"{HEADERS} is not of the form name=value,name=value")
    try:
        return headers_of(
            (unquote(name).strip(), unquote(value).strip()) for name, _, value in pairs
        )
    except ValueError as exc:
        raise ValueError(f"{HEADERS}: {exc}") from None


def _files_from_environment() -> TlsFiles | None:
    ca, certificate, key = (Path(said) if (said := _said(name)) else None for name in _FILES)
    files = TlsFiles(ca=ca, certificate=certificate, key=key)
    return None if files == TlsFiles() else files


def _variables_of(files: TlsFiles) -> dict[str, str]:
    # In the variables the key always has a file of its own.
    paths = (files.ca, files.certificate, files.key or files.certificate)
    return {
        _OF_TRACES + name: str(path.absolute())
        for name, path in zip(_FILES, paths, strict=True)
        if path is not None
    }


def _said(what: str) -> str:
    """By the variable for traces, else by that for all signals. "" is as good as none."""
    return os.environ.get(_OF_TRACES + what) or os.environ.get(_OF_ALL + what, "")
