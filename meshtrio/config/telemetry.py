"""The config of metrics, traces and binary logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from meshtrio import contract
from meshtrio.config.otlp_endpoint import OtlpEndpoint, headers_from_environment, normalize_headers
from meshtrio.config.validators import at_least, is_fraction, parsed_by
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig

_MIB = 2**20
METRICS_FROM_MESH, METRICS_OFF = contract.METRICS_FROM_MESH, "off"


def parse_host_port(value: str) -> Address:
    """Parse "host:port". Raises ValueError."""
    try:
        address = Address.parse(f"tcp:{value}")
    except ValueError:
        raise ValueError(f"must be host:port, as in 127.0.0.1:9464, not {value!r}") from None
    if not address.port:
        raise ValueError(f"must have a port other than 0, not {value!r}")
    return address


def check_metrics(value: str) -> None:
    """Validate `metrics` of a plugin."""
    if value not in (METRICS_FROM_MESH, METRICS_OFF):
        try:
            parse_host_port(value)
        except ValueError:
            raise ValueError(f"must be mesh, off or host:port, not {value!r}") from None


def _check_binary_log(value: str) -> None:
    from meshtrio.config.binary_log_filter import BinaryLogFilter

    BinaryLogFilter.parse(value)


@attrs.frozen
class TelemetryConfig:
    """Metrics, traces and binary logs of the mesh and its plugins, all of them off by default.

    Cannot be changed by a reload.
    """

    metrics: str | None = attrs.field(default=None, validator=parsed_by(parse_host_port))
    """`host:port` on which metrics are served for Prometheus, at `/metrics`: those of the mesh, and
    those of the plugins whose `metrics` is `mesh`. `serve --metrics` overrides it."""
    traces: str | None = attrs.field(default=None, validator=parsed_by(OtlpEndpoint.parse))
    """The OpenTelemetry collector that receives spans of calls and of plugins' processes:
    `tcp:host:port` or `unix:/path` for OTLP over gRPC, `http://host:port` for OTLP over HTTP.
    Plugins, those in other languages included, receive it in OpenTelemetry's own variables
    (`OTEL_…`). A plugin's `env` overrides them; one that sets an endpoint receives no other."""
    traces_tls: ClientTlsConfig | None = None
    """TLS settings for a collector on `tcp:…` or `https://…`; without them `tcp:…` is plaintext.
    `{}` trusts the system's authorities. `server_name` is not supported, since no variable of
    OpenTelemetry passes it to plugins."""
    traces_headers: Mapping[str, str] = attrs.field(
        factory=dict, validator=parsed_by(normalize_headers), repr=False
    )
    """Header fields of export requests, such as an API key. Without any, those of the variable
    OTEL_EXPORTER_OTLP_HEADERS are used, which keeps secrets out of files."""
    sampling: float = attrs.field(default=1.0, validator=is_fraction)
    """Ratio of the calls without a parent that are sampled, from 0 to 1; others follow their
    parent."""
    experimental: bool = False
    """Whether to measure what is off by default in gRPC: retries and hedges (gRFC A96), and
    ejections of outliers (A91)."""
    binary_log: str | None = attrs.field(default=None, validator=parsed_by(_check_binary_log))
    """Filter of gRFC A16, such as `"*"` or `"pkg.Service/*{h:256;m:1024}"`, for the calls whose
    metadata and messages the mesh and its plugins write to files, for debugging. Plugins receive it
    as GRPC_BINARY_LOG_FILTER, which their `env` overrides; "" there selects no calls."""
    binary_log_folder: Path | None = attrs.field(
        default=None, converter=attrs.converters.optional(Path)
    )
    """Folder of these files, created with mode 0700; by default `binlog` in the runtime dir. A
    plugin that runs as another user needs a folder that this user may write to."""
    binary_log_size: int = attrs.field(default=64, validator=at_least(1))
    """Maximum size of one of these files, in MiB."""
    binary_log_files: int = attrs.field(default=2, validator=at_least(1))
    """Number of files that are kept of one process, and as many of the processes before it."""

    def validate(self) -> list[str]:
        """Return errors in the combination of fields, as "telemetry: reason"."""
        if self.traces is None:
            used = {"tls": self.traces_tls is not None, "headers": self.traces_headers}
            text = "telemetry: traces_{} requires a collector: set traces, too"
            return [text.format(key) for key in used if used[key]]
        found = []
        if self.traces_tls is not None and not self.traces.startswith(("tcp:", "https:")):
            found.append(f"traces_tls is for a collector on tcp:… or https://…, not {self.traces}")
        elif self.traces_tls is not None and self.traces_tls.server_name is not None:
            found.append(
                "traces_tls: server_name cannot be passed to plugins; use it as the host of traces"
            )
        if not self.traces_headers:
            try:
                headers_from_environment()
            except ValueError as exc:
                found.append(str(exc))
        return [f"telemetry: {problem}" for problem in found]

    @property
    def otlp_endpoint(self) -> OtlpEndpoint | None:
        """The collector of spans; None if calls are not traced. Raises ValueError."""
        if self.traces is None:
            return None
        headers = normalize_headers(self.traces_headers) or headers_from_environment()
        return attrs.evolve(OtlpEndpoint.parse(self.traces), tls=self.traces_tls, headers=headers)

    def binary_log_directory(self, runtime_dir: Path) -> Path:
        """Return the folder of binary logs."""
        return self.binary_log_folder or runtime_dir / contract.BINARY_LOG_DIRECTORY

    @property
    def max_binary_log_bytes(self) -> int:
        """Maximum size of a file of a binary log, in bytes."""
        return self.binary_log_size * _MIB
