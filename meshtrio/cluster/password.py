"""The password of etcd's user."""

from __future__ import annotations

from pathlib import Path

from meshtrio.config import DiscoveryConfig
from meshtrio.util.errors import UsageError

_MAX_PASSWORD_LENGTH = 4096


def read_password(config: DiscoveryConfig) -> str | None:
    """Read the password of etcd's user; None if there is none. Raises UsageError."""
    if config.password_file is None:
        return None
    try:
        with Path(config.password_file).open(encoding="utf-8") as file:
            return file.readline(_MAX_PASSWORD_LENGTH).rstrip("\r\n")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not text"
        text = f"[mesh.discovery] password_file: {config.password_file} cannot be read: {reason}"
        raise UsageError(text) from None
