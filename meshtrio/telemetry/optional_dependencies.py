"""What telemetry needs beside meshtrio's own dependencies, and which extra brings it."""

from __future__ import annotations

from importlib.util import find_spec

from meshtrio.config import TelemetryConfig
from meshtrio.errors import ConfigError, UsageError

_EXTRAS = {
    "metrics": ("prometheus_client", "h11"),
    "tracing": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ValueError, ModuleNotFoundError):
        return False  # Somebody has blocked it, or what it is in is missing.


def _describe_missing(extra: str, feature: str) -> str:
    """What to do about the modules that `what` needs, "" where they are there."""
    missing = [module for module in _EXTRAS[extra] if not _is_installed(module)]
    if not missing:
        return ""
    install = f"pip install 'meshtrio[{extra}]'"
    return f"{feature} needs {' and '.join(missing)}, which is not installed here: {install}"


def require_extra(extra: str, feature: str) -> None:
    """Raise UsageError, naming the extra, where a module is missing that `what` needs."""
    problem = _describe_missing(extra, feature)
    if problem:
        raise UsageError(problem)


def check_extras(config: TelemetryConfig) -> None:
    """Raise ConfigError where a mesh's telemetry needs what is not installed."""
    wanted = {"tracing": ("traces", config.traces), "metrics": ("metrics", config.metrics)}
    problems = [
        problem
        for extra, (key, value) in wanted.items()
        if value is not None and (problem := _describe_missing(extra, f"[mesh.telemetry] {key}"))
    ]
    if problems:
        raise ConfigError(problems)
