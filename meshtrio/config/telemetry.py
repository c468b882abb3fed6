"""What a mesh tells of itself and its plugins, and where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
from attrs.validators import ge

from meshtrio import contract
from meshtrio.config.otlp_endpoint import (
    OtlpEndpoint,
    headers_from_environment,
    normalize_headers,
)
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig

_MIB = 2**20
METRICS_FROM_MESH, METRICS_OFF = contract.METRICS_FROM_MESH, "off"


def parse_host_port(value: str) -> Address:
    """The address that "host:port" stands for. Raises ValueError for anything else."""
    try:
        address = Address.parse(f"tcp:{value}")
    except ValueError:
        raise ValueError(f"must be host:port, as in 127.0.0.1:9464, not {value!r}") from None
    if not address.port:
        raise ValueError(f"must have a port other than 0, not {value!r}")
    return address


def _check_host_port(_: object, __: object, value: str | None) -> None:
    if value is not None:
        parse_host_port(value)


def check_metrics(_: object, __: object, value: str) -> None:
    """Of a plugin: who exposes what it measures."""
    if value not in (METRICS_FROM_MESH, METRICS_OFF):
        try:
            parse_host_port(value)
        except ValueError:
            raise ValueError(f"must be mesh, off or host:port, not {value!r}") from None


def _check_traces(_: object, __: object, value: str | None) -> None:
    if value is not None:
        OtlpEndpoint.parse(value)


def _check_headers(_: object, __: object, value: Mapping[str, str]) -> None:
    normalize_headers(value)


def _check_binary_log(_: object, __: object, value: str | None) -> None:
    if value:
        from meshtrio.config.binary_log_filter import BinaryLogFilter  # off by default

        BinaryLogFilter.parse(value)


def _check_ratio(_: object, __: object, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"must be between 0 and 1, not {value}")


@attrs.frozen
class TelemetryConfig:
    """What the mesh measures and where that is told. All of it is off by default.

    Cannot be changed by a reload.
    """

    metrics: str | None = attrs.field(default=None, validator=_check_host_port)
    """`host:port` on which metrics are served for Prometheus, at `/metrics`: those of the mesh, and
    those of its plugins, each as its `metrics` says. `serve --metrics` goes before it."""
    traces: str | None = attrs.field(default=None, validator=_check_traces)
    """The OpenTelemetry collector that spans of calls and of plugins' lives are sent to:
    `tcp:host:port` or `unix:/path` for OTLP over gRPC, `http://host:port` for OTLP over HTTP.
    Plugins are told of it by OpenTelemetry's own variables (`OTEL_…`), so that those in other
    languages can go by it, too; what a plugin's `env` says of these goes before it, and one that
    names an endpoint there is told of no other."""
    traces_tls: ClientTlsConfig | None = None
    """What a collector on `tcp:…` or `https://…` is spoken to with, TLS where this is there: `{}`
    trusts the system's authorities. It has no `server_name`, which plugins could not be told."""
    traces_headers: Mapping[str, str] = attrs.field(
        factory=dict, validator=_check_headers, repr=False
    )
    """Header fields that spans are sent with, a key to the collector above all. Where there are
    none the variable OTEL_EXPORTER_OTLP_HEADERS counts, for who has no secrets in files."""
    sampling: float = attrs.field(default=1.0, validator=_check_ratio)
    """How many of the calls that have no parent are traced, from 0 to 1; others go by theirs."""
    experimental: bool = False
    """Measure what gRPC has off by default, too: retries and hedges (gRFC A96), and ejections of
    outliers (A91)."""
    binary_log: str | None = attrs.field(default=None, validator=_check_binary_log)
    """The calls whose metadata and messages are written to files, for debugging, by the mesh and by
    its plugins: a filter of gRFC A16, as `"*"` or `"pkg.Service/*{h:256;m:1024}"`. Plugins are told
    by GRPC_BINARY_LOG_FILTER; what a plugin's `env` says of that goes before it, "" for none."""
    binary_log_folder: Path | None = attrs.field(
        default=None, converter=attrs.converters.optional(Path)
    )
    """Where these files are, a folder made with mode 0700; by default `binlog` in the runtime dir.
    A plugin that runs as another user needs one that this user may write to."""
    binary_log_size: int = attrs.field(default=64, validator=ge(1))
    """MiB that one of them has at the most."""
    binary_log_files: int = attrs.field(default=2, validator=ge(1))
    """How many of them are kept of one process, and of the processes before it."""

    def validate(self) -> list[str]:
        """What does not go together."""
        if self.traces is None:
            used = {"tls": self.traces_tls is not None, "headers": self.traces_headers}
            text = "telemetry: traces_{} is for a collector; say which with traces"
            return [text.format(key) for key in used if used[key]]
        found = []
        if self.traces_tls is not None and not self.traces.startswith(("tcp:", "https:")):
            found.append(f"traces_tls is for a collector on tcp:… or https://…, not {self.traces}")
        elif self.traces_tls is not None and self.traces_tls.server_name is not None:
            found.append("traces_tls: plugins cannot be told a server_name; have traces name it")
        if not self.traces_headers:
            try:
                headers_from_environment()
            except ValueError as exc:
                found.append(str(exc))
        return [f"telemetry: {problem}" for problem in found]

    @property
    def otlp_endpoint(self) -> OtlpEndpoint | None:
        """Where spans go."""
        if self.traces is None:
            return None
        headers = normalize_headers(self.traces_headers) or headers_from_environment()
        return attrs.evolve(OtlpEndpoint.parse(self.traces), tls=self.traces_tls, headers=headers)

    def binary_log_directory(self, runtime_dir: Path) -> Path:
        """Where binary logs are written."""
        return self.binary_log_folder or runtime_dir / contract.BINARY_LOG_DIRECTORY

    @property
    def max_binary_log_bytes(self) -> int:
        """Of one file of a binary log."""
        return self.binary_log_size * _MIB
