"""Checks whether optional dependencies are installed, and names the extra if not."""

from __future__ import annotations

from importlib.util import find_spec

from meshtrio.config import MeshConfig
from meshtrio.util.errors import ConfigError, UsageError

_EXTRAS = {
    "metrics": ("prometheus_client", "h11"),
    "dashboard": ("h11",),
    "tracing": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ValueError, ModuleNotFoundError):
        return False  # Its import is blocked, or its parent package is missing.


def _describe_missing(extra: str, feature: str) -> str:
    """Return which modules a feature lacks, and how to install them; "" if it lacks none."""
    missing = [module for module in _EXTRAS[extra] if not _is_installed(module)]
    if not missing:
        return ""
    install = f"pip install 'meshtrio[{extra}]'"
    return f"{feature} needs {' and '.join(missing)}, which is not installed here: {install}"


def require_extra(extra: str, feature: str) -> None:
    """Raise UsageError, naming the extra, if a module that a feature needs is not installed."""
    if problem := _describe_missing(extra, feature):
        raise UsageError(problem)


def check_extras(config: MeshConfig) -> None:
    """Raise ConfigError if a mesh's telemetry or dashboard needs modules that are not installed."""
    settings = {
        "tracing": ("[mesh.telemetry] traces", config.telemetry.traces),
        "metrics": ("[mesh.telemetry] metrics", config.telemetry.metrics),
        "dashboard": ("[mesh.dashboard] listen", config.dashboard.listen),
    }
    problems = [
        problem
        for extra, (key, value) in settings.items()
        if value is not None and (problem := _describe_missing(extra, key))
    ]
    if problems:
        raise ConfigError(problems)
