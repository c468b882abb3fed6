"""Where spans go, as the config says it and as OpenTelemetry's variables do.

Source: OpenTelemetry Specification, "OpenTelemetry Protocol Exporter".
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import attrs

from meshtrio.address import Address

_HTTP_PATH = "/v1/traces"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


@attrs.frozen
class Collector:
    """Where spans go: an address for OTLP over gRPC, or a URL for OTLP over HTTP."""

    address: str = ""
    tls: bool = False
    url: str = ""

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
        protocol = _said("PROTOCOL") or "grpc"
        if protocol == "grpc":
            return cls._by_grpc(_said("ENDPOINT") or "http://localhost:4317")
        if protocol != "http/protobuf":
            raise ValueError(f"OTLP by {protocol!r} is neither by grpc nor by http/protobuf")
        # The URL for all signals is one that their paths are appended to.
        base = os.environ.get(ENDPOINT) or "http://localhost:4318"
        return cls.parse(os.environ.get(TRACES_ENDPOINT) or base.rstrip("/") + _HTTP_PATH)

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
        return cls(address=f"tcp:{host}:{parts.port or 4317}", tls=secure)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that stand for it, which OpenTelemetry's SDKs of all languages go by."""
        if self.url:
            return {TRACES_PROTOCOL: "http/protobuf", TRACES_ENDPOINT: self.url}
        if self.address.startswith("tcp:"):
            return {
                TRACES_PROTOCOL: "grpc",
                TRACES_ENDPOINT: "http://" + self.address.removeprefix("tcp:"),
            }
        # Where no scheme says so, that it is without TLS has to be said.
        return {
            TRACES_PROTOCOL: "grpc",
            TRACES_ENDPOINT: self.address,
            "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "true",
        }


def _said(what: str) -> str:
    """By the variable for traces, else by that for all signals. "" is as good as none."""
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{what}")
    return own or os.environ.get(f"OTEL_EXPORTER_OTLP_{what}", "")
