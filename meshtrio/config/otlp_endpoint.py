"""The collector of spans, as set in the config and in OpenTelemetry's variables.

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
TRACES_PREFIX, COMMON_PREFIX = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
"""Prefixes of OpenTelemetry's variables: those for traces, such as
OTEL_EXPORTER_OTLP_TRACES_HEADERS, override those for all signals."""
_TLS_VARIABLES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
"""Suffixes of the variables for the files of a ClientTlsConfig."""
_HEADER_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_RESERVED_HEADERS = frozenset(
    {
        *("connection", "content-length", "content-type", "host", "keep-alive"),
        *("proxy-connection", "te", "transfer-encoding", "upgrade", "user-agent"),
    }
)
"""Header fields that belong to the transport."""
_HEADER_VALUE = re.compile(r"[ -~]*")

OtlpHeaders = tuple[tuple[str, str], ...]


def normalize_headers(fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> OtlpHeaders:
    """Return header fields with names in lower case, as gRPC requires.

    Raises ValueError if one cannot be sent. The text has no values, which may be secret.
    """
    found = tuple((name.lower(), value) for name, value in dict(fields).items())
    for name, value in found:
        if name in _RESERVED_HEADERS or not _HEADER_NAME.fullmatch(name):
            # Of "authorization: Bearer …" only the part that could be a name is shown.
            raise ValueError(f"{name.partition(':')[0]!r} cannot be the name of a header")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the value of {name!r} is not printable ASCII")
    return found


@attrs.frozen
class OtlpEndpoint:
    """A collector: an address for OTLP over gRPC, or a URL for OTLP over HTTP."""

    address: str = ""
    """Address for OTLP over gRPC, "" for HTTP."""
    url: str = ""
    """URL for OTLP over HTTP, "" for gRPC."""
    tls: ClientTlsConfig | None = None
    """TLS settings. With gRPC, None is plaintext; with HTTP the URL's scheme decides, and None
    trusts the system's authorities."""
    headers: OtlpHeaders = attrs.field(default=(), repr=False)
    """Header fields of export requests."""

    @classmethod
    def parse(cls, text: str) -> OtlpEndpoint:
        """Parse the address of a collector.

        Args:
            text: `tcp:host:port` or `unix:/path` for OTLP over gRPC, `http://host:port/path` or
                `https://…` for OTLP over HTTP, whose path is /v1/traces if it has none.

        Returns:
            The collector, without TLS settings and headers; `attrs.evolve` adds them.

        Raises:
            ValueError: The text has another form.
        """
        if text.startswith(("tcp:", "unix:")):
            return cls(address=str(Address.parse(text)))
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"expected tcp:host:port, unix:/path or http://host:port, not {text!r}"
            )
        path = parts.path.rstrip("/") or _DEFAULT_HTTP_PATH
        return cls(url=parts._replace(path=path).geturl())

    @classmethod
    def from_environment(cls) -> OtlpEndpoint:
        """Return the collector that OpenTelemetry's variables set.

        Returns:
            The collector of OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT, with
            the protocol, TLS files and headers of the other variables. By default localhost, at
            port 4317 by gRPC or 4318 by HTTP.

        Raises:
            ValueError: A variable has a value that is not valid or not supported.

        Source: OpenTelemetry Specification, "OpenTelemetry Protocol Exporter".
        """
        protocol = _get_variable("PROTOCOL") or "grpc"
        if protocol == "grpc":
            found = cls._parse_grpc_endpoint(_get_variable("ENDPOINT") or "http://localhost:4317")
        elif protocol == "http/protobuf":
            # The path of each signal is appended to the URL for all signals.
            base = os.environ.get(COMMON_PREFIX + "ENDPOINT") or "http://localhost:4318"
            url = os.environ.get(TRACES_PREFIX + "ENDPOINT")
            found = cls.parse(url or base.rstrip("/") + _DEFAULT_HTTP_PATH)
            found = attrs.evolve(found, tls=_tls_from_environment())
        else:
            raise ValueError(f"unsupported OTLP protocol {protocol!r}; use grpc or http/protobuf")
        return attrs.evolve(found, headers=headers_from_environment())

    @classmethod
    def _parse_grpc_endpoint(cls, text: str) -> OtlpEndpoint:
        """Parse `http://host:port`, or gRPC's own forms `host:port` and `unix:/path`."""
        if text.startswith("unix:"):
            return cls.parse(text)
        parts = urlsplit(text if "://" in text else f"//{text}")
        if parts.scheme not in ("", "http", "https") or not parts.hostname:
            raise ValueError(f"expected http://host:port, host:port or unix:/path, not {text!r}")
        secure = parts.scheme == "https" or (
            not parts.scheme and _get_variable("INSECURE").lower() != "true"
        )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        tls = (_tls_from_environment() or ClientTlsConfig()) if secure else None
        return cls(address=f"tcp:{host}:{parts.port or 4317}", tls=tls)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that set this collector in OpenTelemetry's SDKs of all languages."""
        values = {"PROTOCOL": "http/protobuf" if self.url else "grpc"}
        if self.url:
            values["ENDPOINT"] = self.url
        elif self.address.startswith("tcp:"):
            scheme = "http" if self.tls is None else "https"
            values["ENDPOINT"] = f"{scheme}://{self.address.removeprefix('tcp:')}"
        else:
            # Without a scheme, plaintext has to be requested explicitly.
            values |= {"ENDPOINT": self.address, "INSECURE": "true"}
        if self.tls is not None:
            # OpenTelemetry has no default for the file of the key.
            paths = (self.tls.ca, self.tls.certificate, self.tls.key or self.tls.certificate)
            files = zip(_TLS_VARIABLES, paths, strict=True)
            values |= {name: str(path.absolute()) for name, path in files if path is not None}
        if self.headers:
            fields = (f"{name}={quote(value, safe='')}" for name, value in self.headers)
            values["HEADERS"] = ",".join(fields)
        return {TRACES_PREFIX + name: value for name, value in values.items()}


def headers_from_environment() -> OtlpHeaders:
    """Return the header fields of OTEL_EXPORTER_OTLP_HEADERS. Raises ValueError.

    Their form is `name=value,name=value` with percent-encoded values.
    """
    pairs = [pair.partition("=") for pair in _get_variable("HEADERS").split(",") if pair.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("OTEL_EXPORTER_OTLP_HEADERS is not of the form name=value,name=value")
    try:
        return normalize_headers(
            (unquote(name).strip(), unquote(value).strip()) for name, _, value in pairs
        )
    except ValueError as exc:
        raise ValueError(f"OTEL_EXPORTER_OTLP_HEADERS: {exc}") from None


def _tls_from_environment() -> ClientTlsConfig | None:
    paths = [Path(path) if (path := _get_variable(name)) else None for name in _TLS_VARIABLES]
    ca, certificate, key = paths
    return ClientTlsConfig(ca, certificate, key) if any(paths) else None


def _get_variable(suffix: str) -> str:
    """Return the variable for traces, else the one for all signals; "" if neither is set."""
    return os.environ.get(TRACES_PREFIX + suffix) or os.environ.get(COMMON_PREFIX + suffix, "")
