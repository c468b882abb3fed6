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

from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig

_DEFAULT_HTTP_PATH = "/v1/traces"
OTEL_EXPORTER_OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
OTEL_EXPORTER_OTLP_TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
OTEL_EXPORTER_OTLP_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
OTEL_EXPORTER_OTLP_TRACES_HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
_TRACES_PREFIX, _COMMON_PREFIX = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_TLS_VARIABLES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
"""Which variables say where those of TlsFiles are."""
_HEADER_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_RESERVED_HEADERS = frozenset(
    {
        *("connection", "content-length", "content-type", "host", "keep-alive"),
        *("proxy-connection", "te", "transfer-encoding", "upgrade", "user-agent"),
    }
)
"""What is the transport's to say."""
_HEADER_VALUE = re.compile(r"[ -~]*")

OtlpHeaders = tuple[tuple[str, str], ...]


def normalize_headers(fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> OtlpHeaders:
    """Header fields, with their names in small letters, in which gRPC has them.

    Raises ValueError, which does not tell a value, for what cannot be sent.
    """
    found = tuple((name.lower(), value) for name, value in dict(fields).items())
    for name, value in found:
        if name in _RESERVED_HEADERS or not _HEADER_NAME.fullmatch(name):
            # Of "authorization: Bearer …" only what could be a name is shown.
            raise ValueError(f"{name.partition(':')[0]!r} cannot be the name of a header")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the value of {name!r} is not printable ASCII")
    return found


@attrs.frozen
class OtlpEndpoint:
    """Where spans go: an address for OTLP over gRPC, or a URL for OTLP over HTTP."""

    address: str = ""
    url: str = ""
    tls: ClientTlsConfig | None = None
    """By gRPC it is spoken where this is not None; by HTTP where the URL says so, and None stands
    for the system's authorities."""
    headers: OtlpHeaders = attrs.field(default=(), repr=False)
    """What is sent along, a key to it above all."""

    @classmethod
    def parse(cls, text: str) -> OtlpEndpoint:
        """Read `tcp:host:port`, `unix:/path` or `http://host:port/path`. Raises ValueError."""
        if text.startswith(("tcp:", "unix:")):
            return cls(address=str(Address.parse(text)))
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{text!r} is none of tcp:host:port, unix:/path and http://host:port")
        path = parts.path.rstrip("/") or _DEFAULT_HTTP_PATH
        return cls(url=parts._replace(path=path).geturl())

    @classmethod
    def from_environment(cls) -> OtlpEndpoint:
        """As OpenTelemetry's variables say. Raises ValueError."""
        return attrs.evolve(cls._from_endpoint_variables(), headers=headers_from_environment())

    @classmethod
    def _from_endpoint_variables(cls) -> OtlpEndpoint:
        protocol = _get_variable("PROTOCOL") or "grpc"
        if protocol == "grpc":
            return cls._parse_grpc_endpoint(_get_variable("ENDPOINT") or "http://localhost:4317")
        if protocol != "http/protobuf":
            raise ValueError(f"OTLP by {protocol!r} is neither by grpc nor by http/protobuf")
        # The URL for all signals is one that their paths are appended to.
        base = os.environ.get(OTEL_EXPORTER_OTLP_ENDPOINT) or "http://localhost:4318"
        found = cls.parse(
            os.environ.get(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
            or base.rstrip("/") + _DEFAULT_HTTP_PATH
        )
        return attrs.evolve(found, tls=_tls_from_environment())

    @classmethod
    def _parse_grpc_endpoint(cls, text: str) -> OtlpEndpoint:
        """`http://host:port`, or what gRPC takes itself: `host:port` and `unix:/path`."""
        if text.startswith("unix:"):
            return cls.parse(text)
        parts = urlsplit(text if "://" in text else f"//{text}")
        if parts.scheme not in ("", "http", "https") or not parts.hostname:
            raise ValueError(f"{text!r} is none of http://host:port, host:port and unix:/path")
        secure = parts.scheme == "https" or (
            not parts.scheme and _get_variable("INSECURE").lower() != "true"
        )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        tls = (_tls_from_environment() or ClientTlsConfig()) if secure else None
        return cls(address=f"tcp:{host}:{parts.port or 4317}", tls=tls)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that stand for it, which OpenTelemetry's SDKs of all languages go by."""
        told = {OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "http/protobuf" if self.url else "grpc"}
        if self.url:
            told[OTEL_EXPORTER_OTLP_TRACES_ENDPOINT] = self.url
        elif self.address.startswith("tcp:"):
            scheme = "http" if self.tls is None else "https"
            told[OTEL_EXPORTER_OTLP_TRACES_ENDPOINT] = (
                f"{scheme}://{self.address.removeprefix('tcp:')}"
            )
        else:
            # Where no scheme says so, that it is without TLS has to be said.
            told[OTEL_EXPORTER_OTLP_TRACES_ENDPOINT] = self.address
            told[f"{_TRACES_PREFIX}INSECURE"] = "true"
        if self.tls is not None:
            told |= _tls_environment(self.tls)
        if self.headers:
            fields = (f"{name}={quote(value, safe='')}" for name, value in self.headers)
            told[OTEL_EXPORTER_OTLP_TRACES_HEADERS] = ",".join(fields)
        return told


def headers_from_environment() -> OtlpHeaders:
    """By OTEL_EXPORTER_OTLP_HEADERS, as `name=value,name=value` with values percent-encoded.

    Raises ValueError.
    """
    pairs = [pair.partition("=") for pair in _get_variable("HEADERS").split(",") if pair.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"{OTEL_EXPORTER_OTLP_HEADERS} is not of the form name=value,name=value")
    try:
        return normalize_headers(
            (unquote(name).strip(), unquote(value).strip()) for name, _, value in pairs
        )
    except ValueError as exc:
        raise ValueError(f"{OTEL_EXPORTER_OTLP_HEADERS}: {exc}") from None


def _tls_from_environment() -> ClientTlsConfig | None:
    ca, certificate, key = (
        Path(said) if (said := _get_variable(name)) else None for name in _TLS_VARIABLES
    )
    files = ClientTlsConfig(ca=ca, certificate=certificate, key=key)
    return None if files == ClientTlsConfig() else files


def _tls_environment(files: ClientTlsConfig) -> dict[str, str]:
    # In the variables the key always has a file of its own.
    paths = (files.ca, files.certificate, files.key or files.certificate)
    return {
        _TRACES_PREFIX + name: str(path.absolute())
        for name, path in zip(_TLS_VARIABLES, paths, strict=True)
        if path is not None
    }


def _get_variable(suffix: str) -> str:
    """By the variable for traces, else by that for all signals. "" is as good as none."""
    return os.environ.get(_TRACES_PREFIX + suffix) or os.environ.get(_COMMON_PREFIX + suffix, "")
