"""Where spans go, as the config says it and as OpenTelemetry's variables do."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import attrs

from meshtrio.address import Address

_HTTP_PATH = "/v1/traces"


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
        text = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get(
            "OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"
        )
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
        )
        if protocol == "grpc" and not text.startswith("unix:"):
            parts = urlsplit(text)
            if not parts.hostname:
                raise ValueError(f"OTEL_EXPORTER_OTLP_ENDPOINT={text} is not a URL")
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return cls(address=f"tcp:{host}:{parts.port or 4317}", tls=parts.scheme == "https")
        return cls.parse(text)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that stand for it, which OpenTelemetry's SDKs of all languages go by."""
        if self.url:
            return {
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": self.url,
            }
        endpoint = self.address
        if endpoint.startswith("tcp:"):
            endpoint = "http://" + endpoint.removeprefix("tcp:").removeprefix("//")
        return {
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
        }
