"""Syntax of service names in the registry."""

from __future__ import annotations

import re

_SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,255}")


def check_service_name(name: str) -> None:
    """Raise ValueError if a text is not the name of a service."""
    if not _SERVICE_NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not the name of a service, as in plugin.echo")
