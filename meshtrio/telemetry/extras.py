"""What telemetry needs beside meshtrio's own dependencies, and which extra brings it."""

from __future__ import annotations

from importlib.util import find_spec

from meshtrio.config import TelemetryConfig
from meshtrio.errors import UsageError

_EXTRAS = {
    "metrics": ("prometheus_client", "h11"),
    "tracing": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ValueError, ModuleNotFoundError):
        return False  # Somebody has blocked it, or what it is in is missing.


def need(extra: str, what: str) -> None:
    """Raise UsageError, naming the extra, where a module is missing that `what` needs."""
    missing = [module for module in _EXTRAS[extra] if not _is_there(module)]
    if missing:
        raise UsageError(
            f"{what} needs {' and '.join(missing)}, which is not installed here: "
            f"pip install 'meshtrio[{extra}]'"
        )


def check_extras(config: TelemetryConfig) -> None:
    """Raise UsageError where a mesh's telemetry needs what is not installed."""
    if config.traces is not None:
        need("tracing", "[mesh.telemetry] traces")
    if config.metrics is not None:
        need("metrics", "[mesh.telemetry] metrics")
